"""Texts cut into chunks of tokens, as llama-perplexity and llama-imatrix cut them."""

import sys
from pathlib import Path

import numpy as np

from retune.llamacpp.prebuilt.library import Model, Refused


def chunks_of(model: Model, text: Path, context: int) -> np.ndarray:
    """Return the tokens of `text` (int32: chunk, token), less a last chunk that is not full.

    Says on stderr how many chunks there are. Raises Refused if there are fewer than two.
    """
    content = text.read_bytes().removesuffix(b"\n")
    tokens = model.tokenize(content, add_special=True, parse_special=True)
    if len(tokens) < 2 * context:
        raise Refused(
            f"you need at least {2 * context} tokens for a context of {context};"
            f" {text} tokenizes to only {len(tokens)} tokens"
        )
    chunks = len(tokens) // context
    print(f"computing over {chunks} chunks", file=sys.stderr)
    return tokens[: chunks * context].reshape(chunks, context)
