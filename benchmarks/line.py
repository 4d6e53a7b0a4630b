"""The line from training to six GGUFs, once, on whatever GPU is here: seconds, memory and disk.

    python -m benchmarks.line [--shape 8b] [--folder /tmp/retune-line] [--lean]

The stages are the pipeline's own code, on a model with random weights; a run that was interrupted
goes on behind the last finished stage. `--lean` removes what no later stage reads, for a small disk.
llama.cpp has to be built (`make llamacpp`).
"""

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks import train
from retune import llamacpp
from retune.home import mark, remove
from retune.machine import cores
from retune.recipe import Merging, Model, Quantization
from retune.recipe.methods import DEFAULT
from tasks.quantize.fan_out import fan_out

TEXT_ROWS = 4  # a few windows of perplexity: enough to show that a file loads and computes
CONTEXT = 512
EVERY = 0.5  # seconds between two looks


class Watch:
    """The most that this process and its children hold while it is entered, in bytes."""

    def __init__(self, folder: Path) -> None:
        self.most = {"rss": 0, "gpu": 0, "disk": 0}
        self._folder = folder
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(EVERY):
            seen = {"rss": held_memory(), "gpu": held_gpu_memory(), "disk": size(self._folder)}
            self.most = {name: max(most, seen[name]) for name, most in self.most.items()}


def held_memory() -> int:
    """Return the private bytes of this process's tree: mapped files are left out."""
    total = 0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            used = process.memory_info()
            total += used.rss - used.shared
    return total


def held_gpu_memory() -> int:
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    if not shutil.which(query[0]):
        return 0
    return 2**20 * int(subprocess.run(query, capture_output=True, text=True).stdout.split()[0])


def size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


class Line:
    """The stages' work on one model in one folder; what is finished stands in `line.json`."""

    def __init__(self, shape: str, folder: Path, steps: int, lean: bool):
        self.folder, self.steps, self.lean = folder, steps, lean
        self.base = folder / shape
        self.gguf = folder / "model-BF16.gguf"
        self.text, self.logits = folder / "text.txt", folder / "logits.bin"
        self.imatrix = folder / "imatrix.gguf"
        self._record = folder / "line.json"
        self._done = json.loads(self._record.read_text()) if self._record.exists() else {}

    def run(self, name: str, stage: Callable[[], object]) -> None:
        if name not in self._done:
            begun = time.perf_counter()
            with Watch(self.folder) as watch:
                result = stage()
            seconds = time.perf_counter() - begun
            self._done[name] = {"seconds": seconds, "result": result} | watch.most
            self._record.write_text(json.dumps(self._done))
        seen = self._done[name]
        sizes = " | ".join(f"{seen[what] / 2**30:.1f}" for what in ("rss", "gpu", "disk"))
        print(f"| {name} | {seen['seconds']:.0f} | {sizes} | {seen['result']} |", flush=True)

    def make(self) -> None:
        self.base.mkdir(parents=True, exist_ok=True)
        code = f"from benchmarks.train import *; make_model({self.base.name!r}, Path({str(self.base)!r}))"
        train.run([sys.executable, "-c", code], self.folder / "make.log")
        train.make_rows(self.folder, self.base, 1000)
        import pyarrow.parquet as pq

        rows = pq.read_table(self.folder / "rows.parquet", columns=["text"])["text"].to_pylist()
        self.text.write_text("\n".join(rows[:TEXT_ROWS]))

    def train(self) -> str:
        seen = train.run_ours(train.AUTO, self.folder, self.base, self.steps)
        return f"{seen['tokens_per_second']:,.0f} tokens/s, MFU {seen['mfu']:.0%}"

    def merge(self) -> str:
        """Write the checkpoint on the 16-bit weights, where most adapters do better, and compare it."""
        folder = self.folder / "merged"
        remove(folder)
        folder.mkdir()
        model = Model(base=str(self.base), max_length=2048, load_in_4bit=train.HAS_GPU)
        original = {"name": str(self.base), "revision": None, "setting": "model.base"}
        trained = {
            "model": model.model_dump(),
            "revision": None,
            "original": original,
            "trained": self.folder / train.folder_of(train.AUTO) / "adapter",
            "yardstick": {
                "held_out": self.folder / "rows.parquet",
                "rows": Merging().check_rows,
                "logits": folder / "logits",
            },
        }
        self._merge_child("trained_child", trained)
        job = {"base": original, "tokenizer": self.base, "folder": folder / "model"}
        job["max_shard_gb"] = Merging().max_shard_gb
        said = self._merge_child("child", trained | job)["metrics"]
        remove(folder / "logits")
        self._drop(self.base)
        return json.dumps(said)

    def _merge_child(self, name: str, job: dict[str, object]) -> dict[str, Any]:
        """Run a child of the merge stage on `job`; to import the stage would need Prefect here."""
        file, log = self.folder / "merged" / f"{name}.json", self.folder / "merged" / "log"
        file.write_text(json.dumps(job, default=str))
        child = train.ROOT / "tasks" / "merge" / f"{name}.py"
        train.run([sys.executable, "-P", str(child), str(file)], log)
        return train.result_in(log)

    def convert(self) -> str:
        merged = self.folder / "merged"
        llamacpp.convert(merged / "model", self.gguf, dtype="bf16", name="model")
        self._drop(merged)
        return f"{self.gguf.stat().st_size / 1e9:.2f} GB"

    def calibrate(self) -> str:
        """Make an importance matrix, of a text of a few chunks only."""
        chunks = llamacpp.calibrate(self.gguf, self.text, self.imatrix, CONTEXT, cores())
        return f"{chunks * CONTEXT} tokens"

    def quantize(self) -> str:
        how = fan_out(self.gguf, DEFAULT, Quantization(), self.folder)
        with ThreadPoolExecutor(how.parallel) as pool:
            made = pool.map(self._quantize, how.methods)
            return f"{how}: " + ", ".join(made)

    def measure(self) -> str:
        perplexity = llamacpp.perplexity(self.gguf, self.text, CONTEXT, cores(), self.logits)
        return f"perplexity {perplexity:.6g}"

    def _quantize(self, method: str) -> str:
        out, begun = self._quant(method), time.perf_counter()
        imatrix = self.imatrix if Quantization().uses_imatrix(method) else None
        if not out.exists():
            llamacpp.quantize(self.gguf, out, method, cores(), imatrix)
        facts = llamacpp.facts(out)
        seconds = time.perf_counter() - begun
        return f"{method} {facts.size / 1e9:.2f} GB {facts.bits_per_weight:.2f} bpw {seconds:.0f} s"

    def compare(self) -> str:
        """Measure each quant, as the quantize stage does, with all cores on one file."""
        said = []
        for method in DEFAULT:
            seen = llamacpp.divergence(self._quant(method), self.logits, CONTEXT, cores())
            said.append(f"{method} KL {seen.mean:.4f} top-1 {seen.same_top:.1%}")
        return ", ".join(said)

    def _drop(self, folder: Path) -> None:
        if self.lean:
            remove(folder)

    def _quant(self, method: str) -> Path:
        return self.folder / f"model-{method.upper()}.gguf"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--shape", choices=train.SHAPES, default="8b")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/retune-line"))
    parser.add_argument("--steps", type=int, default=10, help="of training")
    parser.add_argument("--lean", action="store_true", help="remove what no later stage reads")
    options = parser.parse_args()
    line = Line(options.shape, options.folder, options.steps, options.lean)
    mark(line.folder)
    print("| stage | s | RSS GiB | GPU GiB | disk GiB | result |\n|---|---:|---:|---:|---:|---|")
    for stage in (
        line.make,
        line.train,
        line.merge,
        line.convert,
        line.calibrate,
        line.quantize,
        line.measure,
        line.compare,
    ):
        line.run(stage.__name__, stage)


if __name__ == "__main__":
    main()
