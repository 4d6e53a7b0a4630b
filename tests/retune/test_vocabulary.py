"""What llama.cpp takes text for, shown by llama.cpp itself."""

import json

import pytest

from retune import llamacpp
from retune.control_texts import CONTROL_TEXTS, control_texts
from retune.llamacpp.vocabulary import is_sentencepiece, write_sentencepiece_model

PLAIN = ("<tag>", "[note]", "<|other|>")


def vocabulary_of(word: str, path):
    """Write a GGUF of a vocabulary of bytes and one word, a token like any other."""
    from gguf import GGUFWriter, TokenType
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = [*sorted(ByteLevel.alphabet()), "<|endoftext|>", word]
    writer = GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    types = [TokenType.NORMAL] * len(tokens)
    types[-2] = TokenType.CONTROL
    writer.add_token_types(types)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(len(tokens) - 2)
    writer.add_eos_token_id(len(tokens) - 2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return len(tokens) - 1


@pytest.mark.parametrize("word", [*sorted(CONTROL_TEXTS - {"<|endoftext|>"}), *PLAIN])
def test_llamacpp_takes_these_words_for_control_tokens_and_no_others(word, tmp_path):
    id_ = vocabulary_of(word, tmp_path / "words.gguf")
    (ids,) = llamacpp.tokenize(tmp_path / "words.gguf", [f"x{word}y"], add_special=False)
    assert (id_ in ids) == (word in CONTROL_TEXTS)


def test_only_the_words_that_a_vocabulary_has_are_named():
    assert control_texts({"a": 0, "</s>": 1, "<PAD>": 2, "<tag>": 3}) == ("</s>", "<PAD>")
    assert control_texts({"a": 0}) == ()


def test_a_tokenizer_model_holds_what_tokenizer_json_says(tmp_path):
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    texts = [f"say {word} and {word} again" for word in ("red", "green", "white", "black")]
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<unk>", "<s>"], initial_alphabet=[], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    structure = json.loads(tokenizer.to_str())
    vocabulary = structure["model"]["vocab"]
    vocabulary |= {byte: len(vocabulary) + number for number, byte in enumerate(bytes_)}
    end = max(vocabulary.values()) + 3  # ids between are nobody's
    token = {"id": end, "content": "<|im_end|>", "special": True, "normalized": False}
    structure["added_tokens"].append(
        token | {"single_word": False, "lstrip": False, "rstrip": False}
    )
    assert is_sentencepiece(structure)
    write_sentencepiece_model(structure, tmp_path / "tokenizer.model")
    pieces = SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    tokenizer = Tokenizer.from_str(json.dumps(structure))
    for text in (*texts, "say grün, 你好", "  two  spaces"):
        assert pieces.encode(text) == tokenizer.encode(text, add_special_tokens=False).ids
    assert pieces.is_control(end)
    assert pieces.id_to_piece(end) == "<|im_end|>"
    assert pieces.is_unused(end - 1)
    assert pieces.is_byte(vocabulary["<0x41>"])
    assert pieces.unk_id() == vocabulary["<unk>"]
