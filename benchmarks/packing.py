"""Tokenise and pack: ours against TRL's own preparation, on the same rows, in turn, in one run.

    python -m benchmarks.packing [--rows 20000] [--repeats 3]

Ours is the format's rendering, encoding and proof, then TRL's packing of the stored ids, as the
training does it. TRL's is `SFTTrainer`'s preparation of a dataset of messages, in one process and in
two. Nothing is taken from a cache.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import made_up

LENGTH = 2048  # tokens per sequence


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    run(arguments.rows, arguments.repeats)


def run(count: int, repeats: int) -> None:
    """Measure each way `repeats` times in turn and print medians, ratios and one line of JSON."""
    import datasets

    datasets.disable_caching()
    datasets.disable_progress_bars()
    tokenizer = made_up.tokenizer()
    with tempfile.TemporaryDirectory() as folder:
        rows = accepted(count, tokenizer, Path(folder))
        ways: dict[str, Callable[[], int]] = {
            "retune": lambda: ours(rows, tokenizer, Path(folder)),
            "TRL, 1 process": lambda: theirs(rows, tokenizer, None),
            "TRL, 2 processes": lambda: theirs(rows, tokenizer, 2),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        tokens = {}
        for _ in range(repeats):
            for way, prepare in ways.items():
                started = time.perf_counter()
                tokens[way] = prepare()
                seconds[way].append(time.perf_counter() - started)
    assert len(set(tokens.values())) == 1, f"the ways differ in what they train on: {tokens}"
    fastest = median(seconds["retune"])
    print(
        f"{tokens['retune']:,} tokens\n\n| way | s | tokens/s | times ours |\n|---|---:|---:|---:|"
    )
    for way, taken in seconds.items():
        middle = median(taken)
        print(f"| {way} | {middle:.1f} | {tokens[way] / middle:,.0f} | {middle / fastest:.2f} |")
    print(json.dumps({"rows": count, "tokens": tokens["retune"], "seconds": seconds}))


def accepted(count: int, tokenizer: Any, folder: Path) -> Path:
    """Return the rows that the gate accepts, as it leaves them."""
    from expectations.messages import Rules
    from retune.chat import special_tokens
    from retune.config import Validation
    from tasks.validate.gate import gate

    gate(made_up.rows(count), Rules(Validation(), special_tokens(tokenizer)), folder)
    return folder / "rows.parquet"


def ours(rows: Path, tokenizer: Any, folder: Path) -> int:
    """Format the rows into files, read the ids back and pack them; return the number of tokens."""
    from datasets import Dataset
    from trl.data_utils import pack_dataset

    from tasks.format import write_chats

    write_chats(rows, tokenizer, 0.02, folder)
    tokens = 0
    for side in ("train", "held_out"):
        ids = Dataset.from_parquet(str(folder / f"{side}.parquet"), columns=["input_ids"])
        tokens += _tokens(pack_dataset(ids, LENGTH, strategy="bfd_split"))
    return tokens


def theirs(rows: Path, tokenizer: Any, processes: int | None) -> int:
    """Let TRL render, encode and pack the messages; return the number of tokens."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    with tempfile.TemporaryDirectory() as cache:
        data = Dataset.from_parquet(str(rows), columns=["messages"], cache_dir=cache)
        settings = SFTConfig(
            output_dir=cache, max_length=LENGTH, packing=True, packing_strategy="bfd_split",
            dataset_num_proc=processes, use_cpu=True, bf16=False, report_to="none",
        )  # fmt: skip
        trainer = SFTTrainer(
            model=_model(len(tokenizer)),
            args=settings,
            train_dataset=data,
            processing_class=tokenizer,
        )
        return _tokens(trainer.train_dataset)


def _model(vocabulary: int) -> Any:
    """Return a model of next to no weights: making the trainer is part of what TRL is timed by."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **sizes, **heads))


def _tokens(packed: Any) -> int:
    import pyarrow.compute as pc

    return pc.sum(pc.list_value_length(packed.data["input_ids"])).as_py()


if __name__ == "__main__":
    main()
