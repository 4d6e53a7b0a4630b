"""Measuring GGUF files of a large model: llama.cpp on the CPU beside llama.cpp on the GPU.

    python -m benchmarks.measure [--shape 8b] [--folder /tmp/retune-measure]

A model with random weights is converted to its 16-bit GGUF and quantized; both files are then measured
as the pipeline measures them: perplexity and logits of the 16-bit one, divergence of the other from
it, answers of full length. The CPU is given a part of the text and of the questions, so that it ends
in minutes; what is compared is tokens per second. llama.cpp has to be built (`make llamacpp`), with
`nvcc` and a GPU at hand. A line of JSON for each.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

from benchmarks import train
from retune import llamacpp
from retune.home import mark, remove
from retune.llamacpp import acceleration
from retune.llamacpp.installation import accelerated
from retune.machine import cores

METHOD = "q4_k_m"
CONTEXT = 512
CHUNKS = {"gpu": 40, "cpu": 4}  # of CONTEXT tokens; 50 rows of FineTome are some 40
QUESTIONS = {"gpu": 100, "cpu": 8}
QUESTION_WORDS, NEW_TOKENS = 100, 128


class Bench:
    """The two files of one shape, and the texts they are measured on."""

    def __init__(self, shape: str, folder: Path) -> None:
        self.folder = mark(folder)
        self.base = folder / shape
        self.source, self.quant = folder / f"{shape}-bf16.gguf", folder / f"{shape}-{METHOD}.gguf"
        words = train.words()
        # Some two tokens a word, by a vocabulary of syllables.
        self.words = words * (CHUNKS["gpu"] * CONTEXT // len(words) + 1)
        self.question = " ".join(words[:QUESTION_WORDS])

    def make(self) -> None:
        if not (self.base / "config.json").exists():
            self.base.mkdir(parents=True, exist_ok=True)
            making = f"make_model({self.base.name!r}, Path({str(self.base)!r}))"
            code = f"from benchmarks.train import *; {making}"
            train.run([sys.executable, "-c", code], self.folder / "make.log")
        if not self.source.exists():
            told("convert", lambda: self._convert())
        if not self.quant.exists():
            told(METHOD, lambda: self._quantize())

    def _convert(self) -> int:
        llamacpp.convert(self.base, self.source, dtype="bf16", name="model")
        return self.source.stat().st_size

    def _quantize(self) -> int:
        llamacpp.quantize(self.source, self.quant, METHOD, cores())
        return self.quant.stat().st_size

    def measure(self, where: str) -> None:
        """Measure both files, and print for each what it took."""
        text, logits = self.folder / f"{where}.txt", self.folder / f"{where}.logits"
        count = CHUNKS[where] * CONTEXT
        text.write_text(" ".join(self.words[:count]), encoding="utf-8")
        tokens = len(
            next(iter(llamacpp.tokenize(self.source, [text.read_text()], add_special=False)))
        )

        def perplexity() -> int:
            llamacpp.perplexity(self.source, text, CONTEXT, cores(), logits)
            return tokens

        def divergence() -> int:
            llamacpp.divergence(self.quant, logits, CONTEXT, cores())
            return tokens

        asked = [[{"role": "user", "content": self.question}]] * QUESTIONS[where]

        def answers(gguf: Path) -> int:
            answered = llamacpp.answers(gguf, asked, NEW_TOKENS, cores())
            return sum(answer.tokens + answer.prompt_tokens for answer in answered.answers)

        told(f"{where}: perplexity of bf16", perplexity)
        told(f"{where}: divergence of {METHOD}", divergence)
        for gguf in (self.source, self.quant):
            told(f"{where}: answers of {gguf.stem}", lambda gguf=gguf: answers(gguf))
        remove(logits)


def told(what: str, work: Callable[[], int]) -> None:
    """Do `work`, which returns how many tokens or bytes it went through, and print how long it took."""
    begin = time.perf_counter()
    count = work()
    seconds = time.perf_counter() - begin
    line = {"what": what, "seconds": round(seconds, 1), "count": count}
    print(json.dumps(line | {"per_second": round(count / seconds)}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="8b")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/retune-measure"))
    options = parser.parse_args()
    bench = Bench(options.shape, options.folder)
    bench.make()
    if accelerated():
        bench.measure("gpu")
    with patch.object(acceleration, "accelerated", lambda: None):
        bench.measure("cpu")


if __name__ == "__main__":
    main()
