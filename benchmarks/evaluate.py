"""evaluate on a GPU: losses and answers of a QLoRA model, beside other ways to get the answers.

    python -m benchmarks.evaluate [--shape 8b] [--rows 200] [--new-tokens 128]

Weights and prompts are random (as long as FineTome's: 440 tokens on average, 1,800 at most), so that
every answer has its full length. Ways to answer, in the same run. With the adapter beside 4-bit weights:
`generate` on batches of at most 16 rows and 8,192 tokens; batches as large as the free memory takes;
transformers' own `generate_batch` (continuous batching with paged attention). Then what evaluate does:
the base with its weights unpacked to 16 bits, and the adapter merged into them. A line of JSON each:
seconds, new tokens per second, peak memory in GiB; of losses, rows.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks import train
from retune.merged import merge
from retune.models import TOKENS_PER_BATCH, nf4
from retune.row_losses import row_losses
from tasks.evaluate import answering
from tasks.evaluate.answering import AskedPrompt

GIB = 2**30
LOSS_ROWS = 500
LONGEST = 1800


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=train.SHAPES, default="8b")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/retune-evaluate"))
    options = parser.parse_args()
    if not train.HAS_GPU:
        raise SystemExit("no GPU is here: there is nothing to compare")
    base = options.folder / options.shape
    if not (base / "config.json").exists():
        base.mkdir(parents=True, exist_ok=True)
        train.make_model(options.shape, base)
    model = loaded(base)
    dice = random.Random(0)
    prompts = [ids(dice) for _ in range(options.rows)]
    rows = [ids(dice) for _ in range(LOSS_ROWS)]
    answers = Answers(model, base, prompts, options.new_tokens)
    with patch.object(answering, "room_for_tokens", lambda model: TOKENS_PER_BATCH):
        told("generate, batches of 16", lambda: answers.evaluate(batch_size=16))
    told("generate, large batches", lambda: answers.evaluate(batch_size=None))
    told("generate, losses", lambda: losses(model, rows), "rows")
    told("generate_batch", answers.paged)
    adapter = options.folder / f"{options.shape}-adapter"
    model.save_pretrained(adapter)
    answers.model = unpacked = model.unload().dequantize(torch.bfloat16)
    told("evaluate, base", lambda: answers.evaluate(batch_size=None))
    told("evaluate, base: losses", lambda: losses(unpacked, rows), "rows")
    answers.model = tuned = merge(unpacked, adapter)
    told("evaluate, tuned", lambda: answers.evaluate(batch_size=None))
    told("evaluate, tuned: losses", lambda: losses(tuned, rows), "rows")


def losses(model: Any, rows: list[list[int]]) -> int:
    return len(row_losses(model, rows, rows, 0, len(rows)))


def loaded(base: Path) -> Any:
    """Return the model in 4 bits with an adapter that is not zero."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        base,
        dtype=torch.bfloat16,
        device_map={"": "cuda"},
        quantization_config=nf4(torch.bfloat16),
    )
    tuned = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear"))
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=1e-3)
    return tuned.eval()


def ids(dice: random.Random) -> list[int]:
    length = min(LONGEST, max(40, int(dice.lognormvariate(5.8, 0.8))))
    return [dice.randrange(10, 3000) for _ in range(length)]


class Answers:
    """Ways to answer the same prompts, given as token ids."""

    def __init__(self, model: Any, base: Path, prompts: list[list[int]], new_tokens: int) -> None:
        from transformers import AutoTokenizer

        self.model, self.prompts, self.new_tokens = model, prompts, new_tokens
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        # Nothing ends an answer early.
        self.model.generation_config.eos_token_id = None
        self.tokenizer.eos_token = self.tokenizer.convert_ids_to_tokens(len(self.tokenizer) - 1)
        self.base = base

    def evaluate(self, batch_size: int | None) -> int:
        """Answer as evaluate does; return the number of new tokens, at most."""
        asked = [
            AskedPrompt(messages=[{"content": str(n)}], max_new_tokens=self.new_tokens)
            for n in range(len(self.prompts))
        ]
        with (
            tempfile.TemporaryDirectory() as folder,
            patch.object(answering, "_encoded", lambda *_: self.prompts),
        ):
            log = Path(folder) / "answers"
            replies = answering.answer(self.model, self.tokenizer, asked, batch_size, "tuned", log)
        return len(replies) * self.new_tokens

    def paged(self) -> int:
        """Answer by transformers' continuous batching."""
        settings = answering._greedy(self.model, self.tokenizer, self.new_tokens)
        inner = self.model.get_base_model()
        former = inner.config._attn_implementation
        inner.set_attn_implementation("paged|sdpa")
        try:
            results = inner.generate_batch(self.prompts, generation_config=settings)
        finally:
            inner.set_attn_implementation(former)
        return sum(len(result.generated_tokens) for result in results.values())


def told(way: str, work: Callable[[], int], unit: str = "new_tokens") -> None:
    """Do `work`, which returns how many of `unit` it did, and print how long it took."""
    import torch

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    count = work()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    peak = torch.cuda.max_memory_allocated() / GIB
    line = {"way": way, "seconds": round(seconds, 1), "peak_gib": round(peak, 1)}
    line[f"{unit}_per_second"] = round(count / seconds)
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
