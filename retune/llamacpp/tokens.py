"""The token ids that llama.cpp makes of texts."""

from collections.abc import Sequence
from pathlib import Path

from retune.llamacpp.installation import locate
from retune.llamacpp.process import LlamaCppFailed, existing, run


def tokenize(
    gguf: Path, texts: Sequence[str], parse_special: bool = True, add_special: bool = True
) -> list[list[int]]:
    """Return the token ids of each text, by the vocabulary in `gguf`; all texts in one process.

    `parse_special` reads `<|im_end|>` and its like as special tokens, else as plain characters;
    `add_special` adds BOS where the GGUF asks for it. Raises FileNotFoundError or LlamaCppFailed.
    """
    program = locate().program("retune-tokenize")
    existing(gguf, "the GGUF to tokenize with")
    encoded = [text.encode() for text in texts]
    stdin = b"".join(b"%d\n%b" % (len(text), text) for text in encoded)
    flags = [str(int(add_special)), str(int(parse_special))]
    finished = run([program, gguf, *flags], stdin=stdin)
    lines = finished.stdout.splitlines()
    if len(lines) != len(texts):
        raise LlamaCppFailed(f"retune-tokenize gave {len(lines)} answers to {len(texts)} texts")
    return [[int(token) for token in line.split()] for line in lines]
