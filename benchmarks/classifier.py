"""How fast rows are scored, against the plain transformers pipeline, all measured in one run.

    python -m benchmarks.classifier [--rows N] [--plain-rows N] [--repeats N] [--model PATH]

Without --model: random weights in the shape of HuggingFaceFW/fineweb-edu-classifier (BERT-base) and
a WordPiece tokenizer of made-up words. The rows are as long as FineTome's: about 2 kB, log-normal
between 200 B and 10 kB. Prints a Markdown table and one line of JSON. Needs torch, transformers,
numpy, pyarrow and pydantic, nothing else of what retune stands on.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from retune.models import device
from retune.recipe import Classifier
from tasks.validate import scoring_child

if TYPE_CHECKING:
    import numpy as np


SEED = 0
MIN_BYTES, MEDIAN_BYTES, MAX_BYTES, SPREAD = 200, 1600, 10_000, 0.7  # the mean is about 2 kB
VOCABULARY = 30_522
OURS, PLAIN = "retune", "pipeline, batch_size=1"


def main() -> None:
    """Make the inputs, measure every way of scoring in turn, print what came out."""
    import torch

    arguments = _arguments()
    words = make_words()
    texts = make_texts(words, arguments.rows)
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or make_model(Path(folder), words)
        config = Classifier(model=str(model), batch_tokens=arguments.batch_tokens)
        bench = Bench(scoring_child, config, texts, arguments.plain_rows)
        peak = matmul_peak(torch.float16 if device() == "cuda" else torch.float32)
        results = bench.results(bench.measured(arguments.repeats))
        report(results, bench.facts(), peak)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=16_384, help="rows that retune scores")
    parser.add_argument("--plain-rows", type=int, default=1024, help="rows for the pipelines")
    parser.add_argument("--repeats", type=int, default=5, help="times each way is measured")
    parser.add_argument("--batch-tokens", type=int, default=32_768, help="tokens a forward pass")
    parser.add_argument("--model", type=Path, help="folder of a classifier with one output")
    return parser.parse_args()


def make_words() -> list[str]:
    """Return made-up words, the most frequent and shortest first."""
    dice = random.Random(SEED)
    syllables = [a + b for a in "bcdfghjklmnprstvwz" for b in "aeiou"]
    made = ("".join(dice.choices(syllables, k=dice.choice((1, 2, 2, 3, 4)))) for _ in range(60_000))
    words = dict.fromkeys(made)  # a set would come in another order every time
    return sorted(words, key=lambda word: (len(word) + dice.random() * 4, word))


def make_texts(words: list[str], count: int) -> list[str]:
    """Return `count` texts of FineTome-like lengths; words follow Zipf's law."""
    dice = random.Random(SEED + 1)
    weights = [1 / (rank + 10) for rank in range(len(words))]
    pool = dice.choices(words, weights, k=200_000)
    texts = []
    for _ in range(count):
        size = min(max(dice.lognormvariate(0, SPREAD) * MEDIAN_BYTES, MIN_BYTES), MAX_BYTES)
        start, length = dice.randrange(len(pool)), 0
        some: list[str] = []
        while length < size:
            word = pool[(start + len(some)) % len(pool)]
            some.append(f"{word}." if len(some) % 12 == 11 else word)
            length += len(some[-1]) + 1
        texts.append(" ".join(some))
    return texts


def make_model(folder: Path, words: list[str]) -> Path:
    """Save a BERT-base with one output, random weights, and its WordPiece tokenizer."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    _make_tokenizer(words).save_pretrained(folder)
    torch.manual_seed(SEED)
    # Weights twice as large as BERT starts with: else all texts get nearly the same score (standard
    # deviation 0.01). The other defaults are BERT-base's.
    shape = BertConfig(num_labels=1, vocab_size=VOCABULARY, initializer_range=0.05)
    BertForSequenceClassification(shape).save_pretrained(folder)
    return folder


def _make_tokenizer(words: list[str]) -> Any:
    """Frequent words are one token; the others fall into syllables or letters."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = [f"##{a}{b}" for a in letters for b in "aeiou"]
    entries = [*special, ".", *letters, *(f"##{letter}" for letter in letters), *pieces, *words]
    vocabulary = {entry: n for n, entry in enumerate(dict.fromkeys(entries[:VOCABULARY]))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(
        ("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"])
    )
    names = zip(("pad", "unk", "cls", "sep", "mask"), special, strict=True)
    tokens = {f"{name}_token": token for name, token in names}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **tokens)


class Bench:
    """One classifier in memory, and every way of scoring the texts with it."""

    def __init__(
        self, child: Any, config: Classifier, texts: list[str], plain_rows: int, shard: int = 4096
    ) -> None:
        self.child, self.texts, self.plain = child, texts, texts[:plain_rows]
        self.scorer = child.load(config)
        self.shards = [
            child.Shard([*range(n, min(n + shard, len(texts)))], texts[n : n + shard])
            for n in range(0, len(texts), shard)
        ]
        self.batches = [self.scorer.batches(shard.texts) for shard in self.shards]
        self.lengths = self._lengths()
        self.scores: dict[str, list[float]] = {}
        self.ways = self._ways()

    def _lengths(self) -> "np.ndarray":
        """Return the tokens of each text, cut as they are scored."""
        import numpy as np

        lengths = np.zeros(len(self.texts), np.int64)
        for shard, batches in zip(self.shards, self.batches, strict=True):
            for batch in batches:
                places = np.array(batch.places) + shard.numbers[0]
                lengths[places] = batch.ids.shape[1] if batch.mask is None else batch.mask.sum(1)
        return lengths

    def _ways(self) -> dict[str, tuple[Callable[[], list[float]], int]]:
        """Return each way to score (or a part of ours), by name, and how many rows it takes."""
        ways = {
            OURS: (self._retune, len(self.texts)),
            f"{OURS}, tokenising alone": (self._tokenise, len(self.texts)),
            f"{OURS}, forward passes alone": (self._forward, len(self.texts)),
            PLAIN: (self._pipeline(1), len(self.plain)),
            "pipeline, batch_size=32": (self._pipeline(32), len(self.plain)),
        }
        if device() == "cuda":
            half = self._pipeline(32, "float16")
            ways["pipeline, batch_size=32, float16"] = (half, len(self.plain))
        return ways

    def measured(self, repeats: int) -> dict[str, list[float]]:
        """Return the seconds a row of every way, alternating, after one turn that is not counted."""
        seconds: dict[str, list[float]] = {name: [] for name in self.ways}
        for turn in range(repeats + 1):
            for name, (way, rows) in self.ways.items():
                start = time.perf_counter()
                scores = way()
                spent = (time.perf_counter() - start) / rows
                if turn:
                    seconds[name].append(spent)
                    self.scores[name] = scores
        return seconds

    def _retune(self) -> list[float]:
        scored = self.child.scored(self.scorer, self.shards, lambda rows, tokens: None)
        return [score for _, scores in scored for score in scores.tolist()]

    def _tokenise(self) -> list[float]:
        for shard in self.shards:
            self.scorer.batches(shard.texts)
        return []

    def _forward(self) -> list[float]:
        scored = (self.scorer.scores(batches) for batches in self.batches)
        return [score for shard in scored for _, scores in shard for score in scores.tolist()]

    def _pipeline(self, batch_size: int, dtype: str = "float32") -> Callable[[], list[float]]:
        import torch
        from transformers import AutoModelForSequenceClassification, pipeline

        path = self.scorer.config.model
        model = AutoModelForSequenceClassification.from_pretrained(
            path, dtype=getattr(torch, dtype)
        )
        classify = pipeline(
            "text-classification",
            model=model,
            tokenizer=self.scorer.tokenizer,
            device=device(),
            batch_size=batch_size,
            truncation=True,
            max_length=self.scorer.config.max_length,
            function_to_apply="none",
        )
        # A generator, as its documentation advises; a list is served one row at a time.
        return lambda: [row["score"] for row in classify(text for text in self.plain)]

    def facts(self) -> dict[str, Any]:
        """Return what was scored, how much of it was padding, and how good the scores are."""
        import numpy as np

        exact, ours = np.array(self.scores[PLAIN]), np.array(self.scores[OURS])
        slots = sum(batch.ids.size for batches in self.batches for batch in batches)
        return {
            "device": _device_name(),
            "precision": self.scorer.precision,
            "rows": len(self.texts),
            "bytes_per_row": sum(map(len, self.texts)) / len(self.texts),
            "tokens_per_row": float(self.lengths.mean()),
            "padding_share": float(1 - self.lengths.sum() / slots),
            "max_difference": float(np.abs(ours[: len(exact)] - exact).max()),
            "score_std": float(ours.std()),
            "distinct_scores": len(np.unique(ours)),
        }

    def results(self, seconds: dict[str, list[float]]) -> list[dict[str, Any]]:
        """Return the rates of every way: rows, tokens and FLOPs (no padding) a second."""
        results = []
        for name, some in seconds.items():
            rows, rate = self.ways[name][1], 1 / median(some)
            results.append(
                {
                    "way": name,
                    "rows": rows,
                    "rows_per_second": rate,
                    "slowest": 1 / max(some),
                    "fastest": 1 / min(some),
                    "tokens_per_second": rate * float(self.lengths[:rows].mean()),
                    "flops": rate * self._flops(rows) if self.scores[name] else None,
                }
            )
        return results

    def _flops(self, rows: int) -> float:
        """Return the encoder's mean FLOPs for one of the first rows: its weights and attention."""
        model = self.scorer.exact
        weights = sum(weight.numel() for weight in model.base_model.encoder.parameters())
        attention = 4 * model.config.num_hidden_layers * model.config.hidden_size
        lengths = self.lengths[:rows].astype(float)
        return float((2 * weights * lengths + attention * lengths**2).mean())


def _device_name() -> str:
    import torch

    return (
        torch.cuda.get_device_name() if device() == "cuda" else f"CPU × {torch.get_num_threads()}"
    )


def matmul_peak(dtype: Any) -> float:
    """Return the FLOP/s of a large square matrix product in `dtype`, the best of ten."""
    import torch

    size = 8192 if device() == "cuda" else 2048
    left, right = (torch.randn(size, size, device=device(), dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(13):
        start = time.perf_counter()
        left @ right
        if device() == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds[3:])


def report(results: list[dict[str, Any]], facts: dict[str, Any], peak: float) -> None:
    """Print the table and, for machines, the same as one line of JSON."""
    print(f"{facts['device']}, encoder in {facts['precision']}; matmul {peak / 1e12:.2f} TFLOP/s")
    print(
        f"{facts['rows']:,} rows of {facts['bytes_per_row']:,.0f} B and "
        f"{facts['tokens_per_row']:.0f} tokens; padding {facts['padding_share']:.1%}; largest "
        f"difference from float32, row by row: {facts['max_difference']:.1e} (standard deviation of "
        f"the scores: {facts['score_std']:.2f}); {facts['distinct_scores']:,} distinct scores\n"
    )
    print("| way | rows | rows/s (slowest – fastest) | tokens/s | TFLOP/s | of matmul |")
    print("|---|---:|---:|---:|---:|---:|")
    for way in results:
        flops = way["flops"]
        work = f"{flops / 1e12:.2f} | {flops / peak:.1%}" if flops else "|"
        spread = f"({way['slowest']:,.1f} – {way['fastest']:,.1f})"
        print(
            f"| {way['way']} | {way['rows']:,} | {way['rows_per_second']:,.1f} {spread} "
            f"| {way['tokens_per_second']:,.0f} | {work} |"
        )
    print()
    print(json.dumps(facts | {"matmul_flops": peak, "ways": results}))


if __name__ == "__main__":
    main()
