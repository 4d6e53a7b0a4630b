"""Models in their makers' own formats, which transformers cannot read or reads wrongly.

Known by their files, before any library has a go: what is installed besides must not decide. With
tiktoken there, transformers reads Meta's vocabulary without its control tokens, and Llama 4's by
Llama 3's way to split text.
"""

import re
from collections.abc import Callable, Collection

CONFIG, PARAMETERS = "config.json", "params.json"
TOKENIZER, SENTENCEPIECE = "tokenizer.json", "tokenizer.model"
TEKKEN = "tekken.json"
# Mistral's own names of SentencePiece files: tokenizer.model.v3, tokenizer.model.v7m1.
VERSIONED = re.compile(r"tokenizer\.model\.v\d\w*")
TIKTOKEN = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")  # a token in base64 and its rank
COPY = (
    "name a copy of it in transformers' format, which has {files}; for Llama and Mistral the Hub has "
    "them from several publishers, unsloth among them"
)


def foreign_weights(names: Collection[str]) -> str:
    """Return what a model without `config.json` is instead, and what to name; "" for what is not known.

    Meta and Mistral publish a model with its sizes in `params.json`, as do folders named `original` of
    a repository, in which the rest lies above.
    """
    if CONFIG in names or PARAMETERS not in names:
        return ""
    weights = next(
        (name for name in sorted(names) if name.startswith("consolidated")), "no weights"
    )
    files = f"{CONFIG}, {TOKENIZER} and model.safetensors"
    return (
        f"is in its maker's own format ({PARAMETERS}, {weights}), which transformers does not load; "
        f"{COPY.format(files=files)}"
    )


def foreign_vocabulary(names: Collection[str], read: Callable[[str], bytes]) -> str:
    """Return what a model has in place of a vocabulary that is read, and what to name instead; "" for
    one that is read. `read` returns the bytes of a file."""
    own = "" if TOKENIZER in names else _own_vocabulary(names, read)
    return f"has no {TOKENIZER}, and {own}; {COPY.format(files=TOKENIZER)}" if own else ""


def _own_vocabulary(names: Collection[str], read: Callable[[str], bytes]) -> str:
    if SENTENCEPIECE in names:
        # SentencePiece's own file is read well; Meta gave the name to another kind for Llama 3 and 4.
        if TIKTOKEN.match(read(SENTENCEPIECE)[:4096]):
            return (
                f"its {SENTENCEPIECE} is tiktoken's list of ranks, without the control tokens and the "
                f"rule by which text is split"
            )
        return ""
    if TEKKEN in names:
        return f"its vocabulary is in {TEKKEN} alone, which Mistral's own library reads"
    if versioned := next(filter(VERSIONED.fullmatch, sorted(names)), ""):
        return (
            f"its vocabulary is in {versioned}, a name that Mistral's own library reads (in a folder of "
            f"yours, a copy of it named {SENTENCEPIECE} is read, too)"
        )
    return ""
