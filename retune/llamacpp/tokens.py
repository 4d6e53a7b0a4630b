"""The token ids that llama.cpp makes of texts."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from retune.llamacpp.installation import locate
from retune.llamacpp.process import LlamaCppFailed, existing, run
from retune.machine import cores

if TYPE_CHECKING:
    import numpy as np

# Of texts, for each of two processes; where there are more cores, as many for all that start at once. A
# start loads the vocabulary, which takes up to a second and 70 MB (of 262,000 tokens). So many are then
# read in 0.4 to 2 s, in 45 s where llama.cpp splits by a regular expression of C++'s library (GPT-OSS).
CHARACTERS = 1_000_000


def tokenize(
    gguf: Path, texts: Sequence[str], parse_special: bool = True, add_special: bool = True
) -> list[list[int]]:
    """Return the token ids of each text, by the vocabulary in `gguf`.

    `parse_special` reads `<|im_end|>` and its like as special tokens, else as plain characters;
    `add_special` adds BOS where the GGUF asks for it. Raises FileNotFoundError or LlamaCppFailed.
    """
    return [ids.tolist() for ids in token_arrays(gguf, texts, parse_special, add_special)]


def token_arrays(
    gguf: Path, texts: Sequence[str], parse_special: bool = True, add_special: bool = True
) -> "list[np.ndarray]":
    """Return what `tokenize` does, in a tenth of the memory.

    Many texts are read by as many processes as there are cores, as far as that is worth their start.
    """
    program = locate().program("retune-tokenize")
    existing(gguf, "the GGUF to tokenize with")
    command = (program, gguf, str(int(add_special)), str(int(parse_special)))
    worth_it = 1 + sum(map(len, texts)) * max(2, cores()) // (2 * CHARACTERS)
    parts = min(cores(), worth_it, max(1, len(texts)))
    # Every so many-th text: long ones often stand together.
    dealt = [texts[first::parts] for first in range(parts)]
    with ThreadPoolExecutor(parts) as pool:
        answers = list(pool.map(lambda part: _answers(command, part), dealt))
    return [answers[at % parts][at // parts] for at in range(len(texts))]


def _answers(command: Sequence[str | Path], texts: Sequence[str]) -> "list[np.ndarray]":
    """Return the token ids of texts that one process reads."""
    import numpy as np

    encoded = [text.encode() for text in texts]
    finished = run(command, stdin=b"".join(b"%d\n%b" % (len(text), text) for text in encoded))
    lines = finished.stdout.splitlines()
    if len(lines) != len(texts):
        raise LlamaCppFailed(f"retune-tokenize gave {len(lines)} answers to {len(texts)} texts")
    # Each id is followed by a space. Uncounted, an empty line would be read as a 0.
    return [np.fromstring(line, np.int32, count=line.count(" "), sep=" ") for line in lines]
