// llama-server puts an answer through a parser that refuses bytes which are no UTF-8, and with them the
// whole request. A file that writes such bytes is to be measured too: each counts as one character
// here, and is shown as U+FFFD. A character cut off by the end stays unread. This header is put in
// front of peg-parser.cpp.
#include "unicode.h"

static inline bool retune_cut_off(std::string_view input, size_t offset) {
    while (++offset < input.size()) {
        if ((input[offset] & 0xC0) != 0x80) {
            return false;
        }
    }
    return true;
}

static inline utf8_parse_result retune_parse_any(std::string_view input, size_t offset) {
    const utf8_parse_result result = common_parse_utf8_codepoint(input, offset);
    const bool cut_off = result.status == utf8_parse_result::INCOMPLETE && retune_cut_off(input, offset);
    if (result.status == utf8_parse_result::SUCCESS || cut_off) {
        return result;
    }
    return utf8_parse_result(utf8_parse_result::SUCCESS, 0xFFFD, 1);
}
#define common_parse_utf8_codepoint retune_parse_any
