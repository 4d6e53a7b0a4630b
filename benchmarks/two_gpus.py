"""Why two GPUs are not twice one: a step taken apart, and what may change it, on a machine with two.

    python -m benchmarks.two_gpus [--shape 1b] [--seconds 400] [--only name ...]

Each variant trains a few steps of the same rows with the pipeline's own child on one GPU and on two. The
table has tokens per second, their ratio, and where a step of the two goes, in milliseconds: kernels by
kind, the time in which the GPU has none to run (it waits for the CPU that starts them), and how long NCCL
runs while nothing else does. A variant that does not fit into the remaining seconds is left out.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from benchmarks import train
from retune.home import mark, remove

ROOT = Path(__file__).resolve().parents[1]
STEPS, WARM, TRACED = 14, 6, 3  # steps of a variant; before the trace; in it
KINDS = {  # of kernels, by words in their names; the first that fits
    "nccl": ("nccl",),
    "attention": ("flash", "fmha", "attention"),
    "dequantize": ("dequantize", "kdequant"),
    "matmul": ("gemm", "cutlass", "nvjet", "xmma", "splitk", "matmul"),
    "optimizer": ("multi_tensor", "adam", "foreach", "optimizer"),
}


class Variant(NamedTuple):
    """What is changed: in the recipe, and by a line of Python in the child."""

    settings: Mapping[str, Any] = MappingProxyType({})
    code: str = ""


ACCUMULATED = {"memory": "as_written", "gradient_checkpointing": "off"}
VARIANTS = {
    "as it is": Variant(),
    "no message between processes at a step": Variant(
        code="from tasks.train import watcher; watcher.gathered = lambda value: [value]"
    ),
    "a log line every 10 steps": Variant({"logging_steps": 10}),
    "batch 16, whole": Variant(ACCUMULATED | {"batch_size": 16, "gradient_accumulation": 1}),
    "effective batch of 32": Variant(ACCUMULATED | {"batch_size": 16, "gradient_accumulation": 2}),
    "one bucket of gradients": Variant(code="ddp(bucket_cap_mb=1000)"),
    "gradients are views of buckets": Variant(code="ddp(gradient_as_bucket_view=True)"),
    "a static graph": Variant(code="ddp(static_graph=True, gradient_as_bucket_view=True)"),
    "two loaders": Variant(code="arguments(dataloader_num_workers=2, dataloader_pin_memory=True)"),
    "compiled layers": Variant(code="compiled_layers()"),
    "fused optimizer": Variant({"optimizer": "adamw_torch_fused"}),
}
# Runs the child with a variant's code, and traces some steps of the first process.
SCRIPT = """
import os
# Before torch looks for GPUs: where one process sees two, transformers wants DataParallel.
os.environ["CUDA_VISIBLE_DEVICES"] = {gpus!r}
import functools, runpy, sys, torch
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer, TrainerCallback, TrainingArguments

def changed(owner, **values):
    init = owner.__init__
    @functools.wraps(init)
    def with_values(self, *args, **kwargs):
        init(self, *args, **kwargs | values)
    owner.__init__ = with_values

def ddp(**values):
    changed(DistributedDataParallel, **values)

def arguments(**values):
    from trl import SFTConfig
    changed(SFTConfig, **values)

def compiled_layers():
    create = Trainer.train
    def train(self, *args, **kwargs):
        for module in self.model.modules():
            if type(module).__name__.endswith("DecoderLayer"):
                module.compile(dynamic=False)
        return create(self, *args, **kwargs)
    Trainer.train = train

class Trace(TrainerCallback):
    def on_train_begin(self, args, state, control, **kwargs):
        kinds = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            kinds.append(torch.profiler.ProfilerActivity.CUDA)
        plan = torch.profiler.schedule(wait={wait}, warmup=1, active={active}, repeat=1)
        ready = lambda profile: profile.export_chrome_trace({trace!r})
        self.profile = torch.profiler.profile(activities=kinds, schedule=plan, on_trace_ready=ready)
        self.profile.start()
    def on_step_end(self, args, state, control, **kwargs):
        if torch.cuda.is_available() and state.global_step >= {wait}:
            torch.cuda.synchronize()
        self.profile.step()
    def on_train_end(self, args, state, control, **kwargs):
        self.profile.stop()

begin = Trainer.train
def traced(self, *args, **kwargs):
    if {traces} and os.environ.get("RANK", "0") == "0":
        self.add_callback(Trace())
    return begin(self, *args, **kwargs)
Trainer.train = traced
{code}
sys.argv = ["child", {job!r}]
runpy.run_path({child!r}, run_name="__main__")
"""


class Account(NamedTuple):
    """Milliseconds of a traced step: of the clock, of kernels by kind, without any, of NCCL alone."""

    step: float
    kinds: dict[str, float]
    idle: float
    exposed: float


def account(events: Iterable[dict[str, Any]], steps: int) -> Account:
    """Return where `steps` steps went, by a trace of Chrome's form (microseconds)."""
    kernels = [
        (one["ts"], one["ts"] + one["dur"], kind_of(one["name"]))
        for one in events
        if one.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")
    ]
    if not kernels:
        return Account(0.0, {}, 0.0, 0.0)
    begin, end = min(one[0] for one in kernels), max(one[1] for one in kernels)
    kinds: dict[str, float] = {}
    for first, last, kind in kernels:
        kinds[kind] = kinds.get(kind, 0.0) + (last - first) / steps / 1000
    busy = covered((first, last) for first, last, _ in kernels)
    computing = covered((first, last) for first, last, kind in kernels if kind != "nccl")
    scale = steps * 1000
    return Account(
        (end - begin) / scale, kinds, (end - begin - busy) / scale, (busy - computing) / scale
    )


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Return the length of what spans cover together."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def kind_of(kernel: str) -> str:
    name = kernel.lower()
    return next((kind for kind, words in KINDS.items() if any(w in name for w in words)), "other")


class Bench:
    """The model and the rows of one shape, and the time that is left."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.folder, self.shape, self.steps = mark(options.folder), options.shape, options.steps
        self.end = time.monotonic() + options.seconds
        self.model = self.folder / options.shape
        self.longest = 0.0  # seconds that a variant took so far

    def make(self) -> None:
        if not (self.model / "config.json").exists():
            self.model.mkdir(parents=True)
            making = f"make_model({self.shape!r}, Path({str(self.model)!r}))"
            code = f"from benchmarks.train import *; {making}"
            train.run([sys.executable, "-c", code], self.folder / "make.log")
            train.make_rows(self.folder, self.model, 16 * self.steps * 4)

    def run(self, name: str, variant: Variant, processes: int, traces: bool) -> dict[str, Any]:
        """Train a variant; return its speed, and its account if it is traced."""
        begin = time.monotonic()
        folder = self.folder / f"{train.folder_of(name)}-{processes}"
        remove(folder)
        folder.mkdir()
        settings = {"backend": "trl", "processes": processes, "warmup_steps": 2}
        settings |= {"max_steps": self.steps} | variant.settings
        job = train.job_of(self.folder, folder, self.model, settings)
        (folder / "job.json").write_text(job.model_dump_json())
        trace = folder / "trace.json"
        script = folder / "child.py"
        script.write_text(
            SCRIPT.format(
                code=variant.code,
                gpus=",".join(map(str, range(processes))),
                wait=WARM,
                active=TRACED,
                trace=str(trace),
                traces=traces,
                job=str(folder / "job.json"),
                child=str(ROOT / "tasks" / "train" / "trl_child.py"),
            )
        )
        # Each process runs the script: a fork of one that has changed the libraries has touched a GPU.
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        train.run(
            [sys.executable, "-P", *(launcher if processes > 1 else []), str(script)],
            folder / "log",
        )
        rows = [json.loads(line) for line in job.log.read_text().splitlines()]
        later = [row for row in rows if row["step"] > 3]
        result = {
            "tokens_per_second": statistics.median(row["train/tokens_per_second"] for row in later),
            "loss": rows[-1]["train/loss"],
            "fit": json.loads((folder / "fit.json").read_text()),
        }
        if trace.exists():
            events = json.loads(trace.read_text())["traceEvents"]
            result["account"] = account(events, TRACED)._asdict()
            remove(trace)  # hundreds of MB
        self.longest = max(self.longest, time.monotonic() - begin)
        return result

    @property
    def has_time(self) -> bool:
        return time.monotonic() + self.longest < self.end


def tell(name: str, one: dict[str, Any], two: dict[str, Any]) -> None:
    ratio = two["tokens_per_second"] / one["tokens_per_second"]
    fit = two["fit"]
    print(
        f"| {name} | {one['tokens_per_second']:,.0f} | {two['tokens_per_second']:,.0f} | {ratio:.2f} × | "
        f"{fit['batch_size']} × {fit['gradient_accumulation']} | {two['loss']:.3f} |",
        flush=True,
    )


def tell_account(processes: int, seen: Account) -> None:
    kinds = ", ".join(
        f"{kind} {ms:.1f}" for kind, ms in sorted(seen.kinds.items(), key=lambda one: -one[1])
    )
    print(
        f"A step on {processes}, in ms: {seen.step:.1f} by the clock; {kinds}; no kernel "
        f"{seen.idle:.1f}; NCCL alone {seen.exposed:.1f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=train.SHAPES, default="1b")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/retune-two-gpus"))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seconds", type=float, default=400)
    parser.add_argument("--only", nargs="*", default=list(VARIANTS))
    options = parser.parse_args()
    bench = Bench(options)
    bench.make()
    for processes in (1, 2):
        traced = bench.run("traced", VARIANTS["as it is"], processes, traces=True)
        tell_account(processes, Account(**traced["account"]))
    print("| variant | one GPU, tokens/s | two | times one | batch × passes | last loss |")
    print("|---|---:|---:|---:|---:|---:|")
    for name in options.only:
        results = []
        for processes in (1, 2):
            if not bench.has_time:
                print(f"{name}: left out, no time is left", flush=True)
                break
            try:
                results.append(bench.run(name, VARIANTS[name], processes, traces=False))
            except SystemExit as error:
                print(f"{name}, {processes}: {error}", flush=True)
                break
        if len(results) == 2:
            tell(name, *results)


if __name__ == "__main__":
    main()
