"""Merging an adapter: memory and seconds, ours beside PEFT's merge of the whole model.

    python -m benchmarks.merge [--layers 4 16] [--shard-mb 128]

Models with random weights, of several depths, are merged into files of one size, each way in a
process of its own. Memory is the most that a process holds besides mapped files (RSS without
shared pages), and what it held of that when its libraries were imported.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

WAYS = ("ours", "peft")
SIZES = {"hidden_size": 1024, "intermediate_size": 4096, "vocab_size": 16000}
EVERY = 0.005  # seconds between two looks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--layers", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--shard-mb", type=int, default=128)
    parser.add_argument("--part", choices=("make", *WAYS), help="do this part here, in --folder")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.part:
        do(options.part, options.layers[0], options.shard_mb * 10**6, options.folder)
    else:
        run(options.layers, options.shard_mb)


def run(layers: list[int], shard_mb: int) -> None:
    """Measure both ways on each model; print a table and one line of JSON."""
    print("| layers | model MB | files | way | libraries MB | peak MB | more MB | s | CPU s |")
    print("|---:|---:|---:|---|---:|---:|---:|---:|---:|")
    records = []
    for count in layers:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            watched("make", count, shard_mb, folder)
            for way in WAYS:
                record = watched(way, count, shard_mb, folder)
                files = [file.stat().st_size for file in (folder / way).glob("*.safetensors")]
                record |= {"layers": count, "way": way, "bytes": sum(files), "files": len(files)}
                record["largest"] = max(files)
                records.append(record)
                print(row(record), flush=True)
    print(json.dumps(records))


def row(seen: dict[str, float]) -> str:
    sizes = [seen["imported"], seen["peak"], seen["peak"] - seen["imported"]]
    shown = " | ".join(f"{size / 1e6:,.0f}" for size in sizes)
    return (
        f"| {seen['layers']} | {seen['bytes'] / 1e6:,.0f} | {seen['files']} | {seen['way']} | {shown} | "
        f"{seen['seconds']:.1f} | {seen['cpu']:.1f} |"
    )


def watched(part: str, layers: int, shard_mb: int, folder: Path) -> dict[str, float]:
    """Do one part in a child process; return the bytes it held when its libraries were `imported`,
    the most it held (`peak`), and its `seconds` and `cpu` seconds after the import."""
    options = ["--part", part, "--layers", str(layers), "--shard-mb", str(shard_mb)]
    command = [sys.executable, "-m", "benchmarks.merge", *options, "--folder", str(folder)]
    peak = 0
    with (folder / "log").open("w+") as log:
        child = psutil.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        while child.poll() is None:
            try:
                peak = max(peak, held(child))
            except psutil.NoSuchProcess:
                break
            time.sleep(EVERY)
        log.seek(0)
        said = log.read()
    assert child.wait() == 0, f"{part} failed:\n{said}"
    return json.loads(said.splitlines()[-1]) | {"peak": peak}


def held(process: psutil.Process) -> int:
    used = process.memory_info()
    return used.rss - used.shared


def do(part: str, layers: int, shard: int, folder: Path) -> None:
    import peft  # noqa: F401  # each way needs these
    import torch
    import transformers  # noqa: F401

    torch.set_num_threads(2)
    imported, begun, cpu = held(psutil.Process()), time.perf_counter(), time.process_time()
    if part == "make":
        make(layers, folder)
    else:
        {"ours": merge_by_shard, "peft": merge_whole}[part](folder, shard)
    spent = {"seconds": time.perf_counter() - begun, "cpu": time.process_time() - cpu}
    print(json.dumps({"imported": imported, **spent}))


def make(layers: int, folder: Path, sizes: dict[str, int] | None = None) -> None:
    """Write a Llama of random bf16 weights to `base`, and an adapter on it to `adapter`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(**sizes or SIZES, num_hidden_layers=layers, dtype="bfloat16")
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder / "base")
    lora = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
    tuned = get_peft_model(model, lora)
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.02)
    tuned.save_pretrained(folder / "adapter")
    words = models.WordLevel({"<s>": 0, "</s>": 1}, unk_token="<s>")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(words), bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    for part in ("base", "adapter"):
        tokenizer.save_pretrained(folder / part)


def merge_by_shard(folder: Path, shard: int) -> None:
    from retune.recipe import Model
    from tasks.merge.sources import Base, open_source
    from tasks.merge.writing import write_model

    base = Base(name=str(folder / "base"), revision=None, setting="model.base")
    model = Model(base=base.name, load_in_4bit=False)
    source = open_source(folder / "adapter", base, model, None, folder / "adapter")
    written = write_model(source, folder / "adapter", folder / "ours", shard)
    assert all(written.changed.values())


def merge_whole(folder: Path, shard: int) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.bfloat16)
    merged = PeftModel.from_pretrained(base, str(folder / "adapter")).merge_and_unload()
    merged.save_pretrained(folder / "peft", max_shard_size=shard)
    AutoTokenizer.from_pretrained(folder / "adapter").save_pretrained(folder / "peft")


if __name__ == "__main__":
    main()
