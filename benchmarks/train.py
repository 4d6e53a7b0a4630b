"""Training speed, side by side with the article's bare script, on whatever GPU is here.

    python -m benchmarks.train [--shape 8b] [--steps 12] [--only name ...]

Each variant is a process of its own, on the same random weights and the same rows (lengths like
FineTome's: a few hundred tokens, a long tail), with the same effective batch of 16 × 2,048 tokens.
Ours runs through the pipeline's own child process. Speeds are medians over steps; MFU is against a
matrix product measured in the same process.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from retune.home import mark, remove
from retune.recipe import Model, Training
from tasks.train.job import TrainJob

ROOT = Path(__file__).resolve().parents[1]
SHAPES = {
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
    | {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16}
    | {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256},
    "1.1b": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22}
    | {"num_attention_heads": 32, "num_key_value_heads": 4, "vocab_size": 32000},
    "135m": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
    | {"num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152},
    "tiny": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 2}
    | {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 4096},
}
AUTO = "ours (memory: auto)"
# What is changed in the recipe, by the name in the table.
OURS: dict[str, dict[str, object]] = {
    AUTO: {},
    "ours, bf16 base": {"load_in_4bit": False},
    "ours, checkpointing as in the article": {
        "memory": "as_written",
        "gradient_checkpointing": "unsloth",
    },
    "ours, trl backend": {"backend": "trl"},
    "ours, trl backend, fp8": {"backend": "trl", "fp8": True},
    "ours, trl backend, 2 GPUs": {"backend": "trl", "processes": 2},
}
ARTICLE = "the article's script"
HAS_GPU = shutil.which("nvidia-smi") is not None


def make_model(shape: str, folder: Path) -> None:
    """Write a Llama with random bf16 weights and a small byte-level BPE tokenizer with ChatML."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    from retune.chat import CHATML

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|begin_of_text|>", "<|pad|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=4000, special_tokens=special, initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator([" ".join(words())], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=special[0],
        pad_token=special[1],
        eos_token=special[3],
    )
    fast.chat_template = CHATML
    fast.save_pretrained(folder)
    config = LlamaConfig(
        **SHAPES[shape],
        max_position_embeddings=131072,
        rms_norm_eps=1e-5,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=3,
        tie_word_embeddings=False,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    with torch.device("cuda" if HAS_GPU else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)


def words() -> list[str]:
    rng = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    return ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(3000)]


def make_rows(folder: Path, model: Path, count: int) -> None:
    """Write `count` conversations as the format stage would."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from transformers import AutoTokenizer

    rng, known = random.Random(1), words()
    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = []
    for _ in range(count):
        length = min(2000, max(20, int(rng.lognormvariate(5.2, 0.9))))
        turns = [
            {"role": "user", "content": " ".join(rng.choices(known, k=max(8, length // 4)))},
            {"role": "assistant", "content": " ".join(rng.choices(known, k=length))},
        ]
        texts.append(tokenizer.apply_chat_template(turns, tokenize=False))
    ids = tokenizer(texts, add_special_tokens=False).input_ids
    pq.write_table(pa.table({"text": texts, "input_ids": ids}), folder / "rows.parquet")


def run_ours(name: str, folder: Path, model: Path, steps: int) -> dict[str, object]:
    job_folder = folder / folder_of(name)
    remove(job_folder)
    job_folder.mkdir()
    job = job_of(folder, job_folder, model, {"max_steps": steps, "warmup_steps": 2} | OURS[name])
    (job_folder / "job.json").write_text(job.model_dump_json())
    child = ROOT / "tasks" / "train" / f"{job.config.backend}_child.py"
    run([sys.executable, "-P", str(child), str(job_folder / "job.json")], job_folder / "log")
    rows = [json.loads(line) for line in job.log.read_text().splitlines()][3:]
    return {
        "tokens_per_second": statistics.median(row["train/tokens_per_second"] for row in rows),
        "mfu": statistics.median(row["train/mfu"] for row in rows),
        "peak_gib": result_in(job_folder / "log")["metrics"]["peak_memory_gib"],
        "losses": [row["train/loss"] for row in rows],
        "fit": json.loads((job_folder / "fit.json").read_text()),
    }


def job_of(folder: Path, job_folder: Path, model: Path, changes: Mapping[str, object]) -> TrainJob:
    """Return a training of the rows in `folder`; `changes` are of the recipe."""
    settings = dict(changes)
    four_bits = bool(settings.pop("load_in_4bit", HAS_GPU))
    if not HAS_GPU:
        settings["optimizer"] = "adamw_torch"
    return TrainJob(
        rows=folder / "rows.parquet",
        held_out=folder / "rows.parquet",
        tokenizer=model,
        model=Model(base=str(model), max_length=2048, load_in_4bit=four_bits),
        revision=None,
        config=Training.model_validate(settings),
        folder=job_folder,
    )


def run_article(folder: Path, model: Path, steps: int) -> dict[str, object]:
    script = Path(__file__).with_name("article.py")
    arguments = [
        "--model",
        str(model),
        "--rows",
        str(folder / "rows.parquet"),
        "--steps",
        str(steps),
    ]
    log = folder / "article.log"
    run([sys.executable, "-P", str(script), *arguments], log)
    line = next(line for line in log.read_text().splitlines() if line.startswith("RESULT "))
    return json.loads(line.removeprefix("RESULT "))


def folder_of(name: str) -> str:
    return name.replace(" ", "-").translate(str.maketrans("", "", ":,()"))


def run(command: list[str], log: Path) -> None:
    """Run a child to its end; end this process with the last lines of `log` if it failed."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | {"PYTHONPATH": path, "UNSLOTH_DISABLE_STATISTICS": "1"}
    with log.open("w") as output:
        ended = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    if ended.returncode:
        raise SystemExit(f"{command[2]} failed:\n" + "\n".join(log.read_text().splitlines()[-25:]))


def result_in(log: Path) -> dict[str, dict[str, float]]:
    """Return what a child of the pipeline reported, which without a parent it prints."""
    results = [line for line in log.read_text().splitlines() if '"event": "result"' in line]
    return json.loads(results[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/retune-benchmark"))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--only", nargs="*", default=[ARTICLE, *OURS])
    options = parser.parse_args()
    mark(options.folder)
    model = options.folder / options.shape
    if not (model / "config.json").exists():
        model.mkdir(parents=True)
        # A process of its own, so that its GPU memory returns.
        code = (
            f"from benchmarks.train import *; make_model({options.shape!r}, Path({str(model)!r}))"
        )
        run([sys.executable, "-c", code], options.folder / "make.log")
    make_rows(options.folder, model, options.rows)
    first = None
    for name in options.only:
        try:
            article = name == ARTICLE
            result = (
                run_article(options.folder, model, options.steps)
                if article
                else run_ours(name, options.folder, model, options.steps)
            )
        except SystemExit as error:
            print(f"{name}: {error}", flush=True)
            continue
        first = first or result["tokens_per_second"]
        print(
            f"| {name} | {result['tokens_per_second']:,.0f} | "
            f"{result['tokens_per_second'] / first:.2f} × | {result.get('mfu', 0):.0%} | "
            f"{result['peak_gib']:.1f} | {result['losses'][-1]:.3f} |",
            flush=True,
        )
        print(json.dumps({"name": name} | result), flush=True)


if __name__ == "__main__":
    main()
