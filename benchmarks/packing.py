"""Tokenise and pack: ours against TRL's own preparation, on the same rows, in turn, in one run.

    python -m benchmarks.packing [--rows 20000] [--repeats 3]

Ours is the format (rendering, encoding, proof, split, files), then what the training does with its
files: read the ids, cut them, and let TRL pack them. TRL's is `SFTTrainer`'s preparation of the
messages, in this process and in two others. Making the trainers is not timed, and there is a turn on
a few rows that is not counted. Nothing is taken from a cache.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks import made_up
from benchmarks.row_by_row import Clock

if TYPE_CHECKING:
    from trl import SFTTrainer

LENGTH = 2048  # tokens per sequence
WARM_UP = 300  # rows
OURS = "retune"


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
    with tempfile.TemporaryDirectory() as name:
        folder, clock = Path(name), Clock()
        few, many = (accepted(n, tokenizer, folder / str(n)) for n in (WARM_UP, count))
        ours = Ours(tokenizer, folder, clock)
        ways: dict[str, Callable[[Path], tuple[int, int]]] = {
            OURS: ours.prepared,
            "TRL, in this process": Theirs(tokenizer, folder, None).prepared,
            "TRL, 2 processes": Theirs(tokenizer, folder, 2).prepared,
        }
        for prepare in ways.values():
            prepare(few)
        clock.seconds.clear()
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        packed = {}
        for _ in range(repeats):
            for way, prepare in ways.items():
                started = time.perf_counter()
                packed[way] = prepare(many)
                seconds[way].append(time.perf_counter() - started)
    tokens = {some for some, _ in packed.values()}
    assert len(tokens) == 1, f"the ways differ in what they train on: {packed}"
    report(seconds, packed, {part: spent / repeats for part, spent in clock.seconds.items()})
    print(json.dumps({"rows": count, "tokens": tokens.pop(), "packed": packed, "seconds": seconds}))


def report(
    seconds: dict[str, list[float]], packed: dict[str, tuple[int, int]], parts: dict[str, float]
) -> None:
    """Print a table of all ways, and what ours is made of."""
    print("| way | s | tokens/s | sequences | times ours |\n|---|---:|---:|---:|---:|")
    fastest = median(seconds[OURS])
    for way, taken in seconds.items():
        spent, (tokens, sequences) = median(taken), packed[way]
        print(
            f"| {way} | {spent:.1f} | {tokens / spent:,.0f} | {sequences:,} | {spent / fastest:.2f} |"
        )
    print(f"\n{OURS}: {', '.join(f'{part} {spent:.1f} s' for part, spent in parts.items())}\n")


def accepted(count: int, tokenizer: Any, folder: Path) -> Path:
    """Return the rows that the gate accepts, as it leaves them in `folder`."""
    from expectations.data.messages import Rules
    from retune.chat import special_tokens
    from retune.recipe import Validation
    from tasks.validate.gate import gate

    folder.mkdir(exist_ok=True)
    gate(made_up.rows(count), Rules(Validation(), special_tokens(tokenizer)), folder)
    return folder / "rows.parquet"


class Ours:
    """The format, and the first steps of the training (`tasks.train.unsloth_child`)."""

    def __init__(self, tokenizer: Any, folder: Path, clock: Clock) -> None:
        self.tokenizer, self.folder, self.clock = tokenizer, folder, clock
        self.trainer = make_trainer(tokenizer, folder, 1)  # as the training makes it

    def prepared(self, rows: Path) -> tuple[int, int]:
        """Return the number of tokens and of packed sequences, of both sides of the split."""
        from datasets import Dataset

        from retune.models import token_ids
        from tasks.format.chats import write_chats

        self.clock.lap("between")
        write_chats(rows, self.tokenizer, 0.02, self.folder)
        self.clock.lap("format")
        ids = [
            some
            for side in ("train", "held_out")
            for some in token_ids(self.folder / f"{side}.parquet", limit=2**62, max_length=LENGTH)
        ]
        data = Dataset.from_dict({"input_ids": ids, "labels": ids})
        self.clock.lap("reading")
        found = size(prepare(self.trainer, data))
        self.clock.lap("packing")
        del self.clock.seconds["between"]
        return found


class Theirs:
    """TRL's preparation of a dataset of messages."""

    def __init__(self, tokenizer: Any, folder: Path, processes: int | None) -> None:
        self.trainer, self.folder = make_trainer(tokenizer, folder, processes), folder

    def prepared(self, rows: Path) -> tuple[int, int]:
        """Return the number of tokens and of packed sequences."""
        from datasets import Dataset

        # A folder of its own: a dataset read before would lend its files.
        with tempfile.TemporaryDirectory(dir=self.folder) as cache:
            data = Dataset.from_parquet(str(rows), columns=["messages"], cache_dir=cache)
            return size(prepare(self.trainer, data))


def make_trainer(tokenizer: Any, folder: Path, processes: int | None) -> "SFTTrainer":
    """Return a trainer of next to no weights that packs as ours does."""
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
    )
    settings = SFTConfig(
        output_dir=str(folder),
        max_length=LENGTH,
        packing=True,
        dataset_num_proc=processes,
        use_cpu=True,
        bf16=False,
        report_to="none",
    )
    one = Dataset.from_dict({"input_ids": [[1, 2]], "labels": [[1, 2]]})
    return SFTTrainer(
        LlamaForCausalLM(shape), settings, train_dataset=one, processing_class=tokenizer
    )


def prepare(trainer: "SFTTrainer", data: Any) -> Any:
    """Return `data` as the trainer would train on it; making one does this and nothing else slow."""
    return trainer._prepare_dataset(
        data, trainer.processing_class, trainer.args, True, None, "train"
    )


def size(packed: Any) -> tuple[int, int]:
    """Return the number of tokens and of sequences."""
    import pyarrow.compute as pc

    return pc.sum(pc.list_value_length(packed.data["input_ids"])).as_py(), len(packed)


if __name__ == "__main__":
    main()
