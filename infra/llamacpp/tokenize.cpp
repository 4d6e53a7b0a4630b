// retune-tokenize MODEL.gguf ADD_SPECIAL PARSE_SPECIAL   (0 or 1 each)
//
// Reads texts from stdin, each as "<bytes>\n<the bytes>", and prints the token ids of each on a line.
// llama-tokenize reads one text per start, and a start loads the vocabulary.
#include "llama.h"

#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

static std::vector<llama_token> tokenize(
        const llama_vocab * vocab, const std::string & text, bool add_special, bool parse_special) {
    std::vector<llama_token> ids(text.size() + 8);  // a token is a byte or more, plus BOS and EOS
    const int n = llama_tokenize(
        vocab, text.data(), (int) text.size(), ids.data(), (int) ids.size(), add_special, parse_special);
    ids.resize(n < 0 ? -n : n);
    if (n < 0) {
        llama_tokenize(
            vocab, text.data(), (int) text.size(), ids.data(), (int) ids.size(), add_special, parse_special);
    }
    return ids;
}

int main(int argc, char ** argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: retune-tokenize MODEL.gguf ADD_SPECIAL PARSE_SPECIAL < texts\n");
        return 2;
    }
    const bool add_special   = argv[2][0] == '1';
    const bool parse_special = argv[3][0] == '1';

    llama_log_set([](ggml_log_level level, const char * text, void *) {
        if (level == GGML_LOG_LEVEL_ERROR) {
            fputs(text, stderr);
        }
    }, nullptr);
    llama_model_params params = llama_model_default_params();
    params.vocab_only = true;
    llama_model * model = llama_model_load_from_file(argv[1], params);
    if (!model) {
        return 1;
    }
    const llama_vocab * vocab = llama_model_get_vocab(model);

    std::string length;
    while (std::getline(std::cin, length)) {
        std::string text(std::stoul(length), '\0');
        std::cin.read(&text[0], (std::streamsize) text.size());
        for (llama_token id : tokenize(vocab, text, add_special, parse_special)) {
            printf("%d ", id);
        }
        printf("\n");
    }
    llama_model_free(model);
    return 0;
}
