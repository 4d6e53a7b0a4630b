"""The six GGUF files: one conversion and a fan-out, beside the article's loop, in the same run.

    python -m benchmarks.quantize [--shape 1.1b] [--folder /tmp/retune-quantize]

Four ways from an adapter and its base to the same six files. The floor: the checkpoint's bytes copied
once and llama-quantize's own CPU time spread over the cores. Ours: convert once, then all methods side
by side, as the flow does. The article's loop: merge, convert and quantize again for every method
(Unsloth's `push_to_hub_gguf` in a `for`). And that loop without its merges. Measuring the files is
part of none. llama.cpp has to be built (`make llamacpp`).
"""

import argparse
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks import train
from benchmarks.line import Watch
from retune import llamacpp
from retune.files import sha256
from retune.home import mark, remove
from retune.machine import cores
from retune.recipe import Quantization
from retune.recipe.methods import DEFAULT
from tasks.quantize.fan_out import fan_out

GIB = 2**30
MAKE = """
import sys; from pathlib import Path; from benchmarks.train import make_model
make_model(sys.argv[1], Path(sys.argv[2]))
"""
MERGE = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base, adapter, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out)
AutoTokenizer.from_pretrained(base).save_pretrained(out)
"""
ADAPTER = """
import sys, torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
base, adapter = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
config = LoraConfig(
    r=16, lora_alpha=16, use_rslora=True, target_modules="all-linear", task_type="CAUSAL_LM"
)
model = get_peft_model(model, config)
torch.manual_seed(0)
for name, value in model.named_parameters():
    if "lora_B" in name:
        torch.nn.init.normal_(value, std=0.002)
model.save_pretrained(adapter)
"""


class Workshop:
    """A base, an adapter and a merged checkpoint; each way works in an empty folder beside them."""

    def __init__(self, shape: str, folder: Path, methods: tuple[str, ...]) -> None:
        self.folder, self.methods = folder / shape, methods
        self.base, self.adapter = self.folder / "base", self.folder / "adapter"
        # The converter reads a size out of a folder's name: the article's loop has the same one.
        self.merged = self.folder / "merged"
        self.base.mkdir(parents=True, exist_ok=True)
        if not (self.base / "config.json").exists():
            self._python(MAKE, shape, str(self.base))
        if not self.adapter.exists():
            self._python(ADAPTER, str(self.base), str(self.adapter))
        if not self.merged.exists():
            self.merge(self.merged)

    def _python(self, code: str, *arguments: str) -> None:
        train.run([sys.executable, "-c", code, *arguments], self.folder / "child.log")

    def merge(self, out: Path) -> None:
        self._python(MERGE, str(self.base), str(self.adapter), str(out))

    def copy(self, work: Path) -> None:
        for file in self.merged.glob("*.safetensors"):
            shutil.copyfile(file, work / file.name)
        os.sync()

    def ours(self, work: Path) -> None:
        source = work / "source.gguf"
        llamacpp.convert(self.merged, source, dtype="bf16", name="model")
        how = fan_out(source, self.methods, Quantization(methods=self.methods), work)
        with ThreadPoolExecutor(how.parallel) as pool:
            list(pool.map(lambda method: self._quantize(source, work, method), how.methods))

    def article(self, work: Path, merging: bool) -> None:
        for method in self.methods:
            model = self.merged
            if merging:
                model = work / "merged"
                self.merge(model)
            source = work / "source.gguf"
            llamacpp.convert(model, source, dtype="bf16", name="model")
            self._quantize(source, work, method)
            if merging:
                remove(model)
            remove(source)

    def _quantize(self, source: Path, work: Path, method: str) -> None:
        llamacpp.quantize(source, self.file(work, method), method, cores())

    def file(self, work: Path, method: str) -> Path:
        return work / f"model-{method}.gguf"


@dataclass(frozen=True)
class Seen:
    """What one way took: wall and CPU seconds, peaks in bytes, and the files' SHA-256."""

    seconds: float
    cpu: float
    rss: int
    disk: int
    digests: dict[str, str]


def watched(shop: Workshop, way: Callable[[Path], None]) -> Seen:
    """Run one way in an empty folder, which is removed afterwards."""
    work = shop.folder / "work"
    remove(work)
    work.mkdir()
    os.sync()
    begun, cpu = time.perf_counter(), cpu_seconds()
    with Watch(work) as watch:
        way(work)
    seconds, cpu = time.perf_counter() - begun, cpu_seconds() - cpu
    files = {method: shop.file(work, method) for method in shop.methods}
    digests = {method: sha256(file) for method, file in files.items() if file.exists()}
    remove(work)
    return Seen(seconds, cpu, watch.most["rss"], watch.most["disk"], digests)


def cpu_seconds() -> float:
    """Return the CPU seconds of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def quantizers_cpu(shop: Workshop) -> float:
    """Return the CPU seconds of llama-quantize alone over all methods, one after another."""
    source = shop.folder / "floor.gguf"
    llamacpp.convert(shop.merged, source, dtype="bf16", name="model")
    before = cpu_seconds()
    for method in shop.methods:
        out = shop.folder / "floor-quant.gguf"
        llamacpp.quantize(source, out, method, 1)
        remove(out)
    remove(source)
    return cpu_seconds() - before


def run(shape: str, folder: Path, methods: tuple[str, ...] = DEFAULT) -> None:
    shop = Workshop(shape, mark(folder), methods)
    copied = watched(shop, shop.copy).seconds
    floor = copied + quantizers_cpu(shop) / cores()
    print("| way | s | times the floor | times ours | CPU s | peak RSS GiB | peak disk GiB |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    print(
        f"| floor: copy ({copied:.1f} s), quantizers' CPU over {cores()} cores | {floor:.0f} | 1.00 |"
    )
    ways = {
        "ours: one conversion, fan-out": shop.ours,
        "the article's loop": lambda work: shop.article(work, merging=True),
        "the loop without its merges": lambda work: shop.article(work, merging=False),
    }
    seen: dict[str, Seen] = {}
    for name, way in ways.items():
        now = seen[name] = watched(shop, way)
        first = next(iter(seen.values()))
        assert now.digests == first.digests, f"{name} gave other files"
        print(
            f"| {name} | {now.seconds:.0f} | {now.seconds / floor:.2f} | "
            f"{now.seconds / first.seconds:.2f} | {now.cpu:.0f} | {now.rss / GIB:.2f} | "
            f"{now.disk / GIB:.1f} |",
            flush=True,
        )
    record = {name: vars(one) for name, one in seen.items()} | {"floor": floor, "copy": copied}
    print(json.dumps(record))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--shape", choices=train.SHAPES, default="1.1b")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/retune-quantize"))
    parser.add_argument("--methods", nargs="+", default=DEFAULT)
    options = parser.parse_args()
    run(options.shape, options.folder, tuple(options.methods))


if __name__ == "__main__":
    main()
