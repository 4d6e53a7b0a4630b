"""Measure a GGUF on a text: perplexity, and KL divergence from the model that it was made of.

The text is read as the model was trained: `<|im_start|>` and its like are special tokens (our build
of llama-perplexity sees to that), no backslash escape is interpreted. It is cut into chunks of
`context` tokens without regard to where a conversation ends; the second half of each is scored.
"""

import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from retune.disk_space import no_space_left
from retune.errors import RetuneError
from retune.llamacpp.acceleration import with_program
from retune.llamacpp.process import (
    Finished,
    LlamaCppFailed,
    appearing_whole,
    existing,
    last_lines,
    run,
)

NUMBER = r"(-?(?:\d+(?:\.\d+)?(?:e[+-]?\d+)?|nan|inf))"
FINAL = re.compile(rf"Final estimate: PPL = {NUMBER} ")
TOO_SHORT = re.compile(r"need at least (\d+) tokens.*tokenizes to only (\d+) tokens", re.DOTALL)
# llama-perplexity prints no statistics of fewer values.
FEWEST_SCORED = 100


class TextTooShort(RetuneError):
    """The text has too few tokens to measure; the message says how many are needed."""


@dataclass(frozen=True)
class Divergence:
    """How far a quant's next-token distribution is from its source's, over the same tokens.

    `mean` is the mean KL divergence in nats; `same_top` is the share (0 to 1) of tokens for which
    both rank the same token first; `perplexity` is the quant's.
    """

    mean: float
    same_top: float
    perplexity: float


@dataclass(frozen=True)
class KeptLogits:
    """The head of a file of logits: tokens per chunk, size of the vocabulary, number of chunks."""

    HEAD: ClassVar = struct.Struct("<8s3i")

    context: int
    vocabulary: int
    chunks: int

    @classmethod
    def read(cls, path: Path) -> "KeptLogits":
        """Read the head of `path`; raises LlamaCppFailed if it is no file of logits."""
        with path.open("rb") as file:
            head = file.read(cls.HEAD.size)
        if len(head) < cls.HEAD.size or not head.startswith(b"_logits_"):
            raise LlamaCppFailed(f"{path} is not a file of logits that llama-perplexity wrote")
        return cls(*cls.HEAD.unpack(head)[1:])

    @property
    def size(self) -> int:
        """Bytes of the whole file: the tokens, then 16 bits per logit and a scale per row."""
        row = 2 * ((self.vocabulary + 1) // 2) + 4
        chunk = 4 * self.context + 2 * row * scored(self.context)
        return self.HEAD.size + self.chunks * chunk


def perplexity(gguf: Path, text: Path, context: int, threads: int, logits: Path) -> float:
    """Return the perplexity of `gguf` on the UTF-8 file `text` in chunks of `context` tokens.

    `logits` names a file to write for `divergence`: about 65 MB per chunk of 512 tokens with a
    vocabulary of 128,000. Raises TextTooShort (also for fewer than 100 scored tokens),
    FileNotFoundError, NoSpaceLeft, or LlamaCppFailed.
    """
    existing(text, "the text to measure on")
    with appearing_whole(logits) as partial:
        base: list[str | Path] = ["-f", text, "--kl-divergence-base", partial]
        finished = _measure(gguf, base, context, threads, writes_to=logits.parent)
        check_text_length(finished.stderr, text, context)
        check_whole(partial)
        check_enough(KeptLogits.read(partial), text)
    final = FINAL.search(finished.stderr)
    if not final:
        raise LlamaCppFailed(f"llama-perplexity gave no result for {gguf}: {last_lines(finished)}")
    value = float(final[1])
    if not math.isfinite(value):
        raise LlamaCppFailed(f"the perplexity of {gguf} is {value}: its weights are broken")
    return value


def divergence(gguf: Path, logits: Path, context: int, threads: int) -> Divergence:
    """Compare `gguf` with the model whose `logits` were kept by `perplexity`, on the same tokens.

    `context` is the one they were kept with. Raises ValueError if it is not, FileNotFoundError, or
    LlamaCppFailed (if the weights are broken, too).
    """
    existing(logits, "the file of logits to compare with")
    reference = KeptLogits.read(logits)
    # llama-perplexity would print an error, continue, and compare different things.
    if reference.context != context:
        raise ValueError(
            f"{logits} was kept with a context of {reference.context}, not {context}: use the same"
        )
    base: list[str | Path] = ["--kl-divergence-base", logits]
    base += ["--kl-divergence", "--check-tensors"]
    finished = _measure(gguf, base, context, threads)
    figures = dict(re.findall(rf"^ *(\S[^:\n]*?) *: +{NUMBER}", finished.stdout, re.MULTILINE))
    values = {" ".join(name.split()): float(value) for name, value in figures.items()}
    if not all(math.isfinite(values.get(name, 0)) for name in ("Mean KLD", "Mean PPL(Q)")):
        raise LlamaCppFailed(f"the perplexity of {gguf} is no number: its weights are broken")
    try:
        return Divergence(
            mean=values["Mean KLD"],
            same_top=values["Same top p"] / 100,
            perplexity=values["Mean PPL(Q)"],
        )
    except KeyError:
        raise LlamaCppFailed(
            f"llama-perplexity did not compare {gguf} with {logits}: {last_lines(finished)}"
        ) from None


def scored(context: int) -> int:
    """Return how many tokens of a chunk of `context` tokens are scored."""
    return context - 1 - context // 2


def _measure(
    gguf: Path,
    arguments: list[str | Path],
    context: int,
    threads: int,
    writes_to: Path | None = None,
) -> Finished:
    existing(gguf, "the GGUF to measure")
    options = ["-m", gguf, "-c", str(context), "-t", str(threads), "--no-escape", *arguments]
    return with_program(
        "llama-perplexity",
        gguf,
        lambda program: run([*program, *options], writes_to=writes_to),
    )


def check_text_length(printed: str, text: Path, context: int) -> None:
    """Raise TextTooShort if a program printed that; llama-perplexity's status is 0 all the same."""
    if short := TOO_SHORT.search(printed):
        raise TextTooShort(
            f"{text} has {short[2]} tokens; {short[1]} are needed with a context of {context}: use a"
            " longer text or a shorter context"
        )


def check_enough(logits: KeptLogits, text: Path) -> None:
    """Raise TextTooShort if too few tokens of `text` are scored to compare another model on them."""
    tokens = logits.chunks * scored(logits.context)
    if tokens < FEWEST_SCORED:
        raise TextTooShort(
            f"{text} has only {tokens} tokens that are scored with a context of {logits.context},"
            f" {FEWEST_SCORED} are needed to compare: use a longer text"
        )


def check_whole(logits: Path) -> None:
    """Raise NoSpaceLeft if `logits` is cut short: llama-perplexity does not check its writes."""
    if logits.stat().st_size < KeptLogits.HEAD.size or (
        logits.stat().st_size < KeptLogits.read(logits).size
    ):
        raise no_space_left(logits, OSError())
