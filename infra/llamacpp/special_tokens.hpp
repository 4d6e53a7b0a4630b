// llama-perplexity reads its text with parse_special = false: "<|im_end|>" would be measured as the
// characters that spell it, which the model never saw in training. This header is put in front of
// perplexity.cpp; each call there gives three arguments.
#include "common.h"
#define common_tokenize(context, text, add_special) common_tokenize(context, text, add_special, true)
