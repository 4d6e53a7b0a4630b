"""Words that llama.cpp takes for control tokens, whatever a tokenizer says of them."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from retune.chat import CONTENT_TAGS, special_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What llama.cpp takes for a control token by its text alone, wherever a vocabulary has it (its
# `src/llama-vocab.cpp`), whatever the tokenizer says: `</s>` is plain text in Qwen's vocabulary.
CONTROL_TEXTS = frozenset(
    (
        *(
            "<|eot_id|>",
            "<|im_end|>",
            "<|end|>",
            "<end_of_turn>",
            "<|endoftext|>",
            "<|end_of_text|>",
        ),
        *(
            "<EOT>",
            "_<EOT>",
            "[EOT]",
            "[EOS]",
            "<｜end▁of▁sentence｜>",
            "<end_of_utterance>",
            "</s>",
        ),
        *("<|eom_id|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<eos>", "<turn|>"),
        *("<|tool_response>", "[e~[", "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<PRE>"),
        *("<｜fim▁begin｜>", "▁<PRE>", "<|code_prefix|>", "<|prefix|>", "<|fim_suffix|>"),
        *("<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "<|code_suffix|>"),
        *("<|suffix|>", "<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>"),
        *("▁<MID>", "<|code_middle|>", "<|middle|>", "<|fim_pad|>", "<fim-pad>", "<fim_pad>"),
        *("<PAD>", "[PAD]", "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
        "<|file_sep|>",
    )
)


def control_texts(vocabulary: Collection[str]) -> tuple[str, ...]:
    """Return the texts that llama.cpp takes for control tokens with this vocabulary, sorted.

    A program that is asked with such a text in a message reads the token, as if the template had
    written it.
    """
    return tuple(sorted(CONTROL_TEXTS.intersection(vocabulary)))


def control_tokens(tokenizer: "PreTrainedTokenizerBase") -> tuple[str, ...]:
    """Return every text that becomes a control token when it is typed in a message: in training, or
    where the model is served by llama.cpp one day. What marks reasoning and calls of tools is meant
    to be one, where a base has it so."""
    served = control_texts(tokenizer.get_vocab())
    delimiters = (token for token in special_tokens(tokenizer) if token not in CONTENT_TAGS)
    return tuple(dict.fromkeys((*delimiters, *served)))
