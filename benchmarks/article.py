"""The article's training recipe as a bare script, the yardstick of benchmarks/train.py.

Unsloth, QLoRA with rank 16 on all projections, TRL's trainer packing the text itself, Unsloth's
gradient checkpointing, 8-bit AdamW, batch 8 × 2; see Maxime Labonne, "Fine-tune Llama 3.1
Ultra-Efficiently with Unsloth", 2024. Prints one JSON line.
"""

import argparse
import json
import time
from typing import Any

from unsloth import FastLanguageModel  # isort: skip  # first: it patches the others


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", required=True, help="Parquet with a column `text`")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--length", type=int, default=2048)
    options = parser.parse_args()

    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = FastLanguageModel.from_pretrained(
        options.model, max_seq_length=options.length, load_in_4bit=True, dtype=None
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=16,
        lora_alpha=16,
        lora_dropout=0,
        target_modules=[
            "q_proj",
            "k_proj",
            "v_proj",
            "up_proj",
            "down_proj",
            "o_proj",
            "gate_proj",
        ],
        use_rslora=True,
        use_gradient_checkpointing="unsloth",
    )

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.ends: list[float] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            torch.cuda.synchronize()
            self.ends.append(time.perf_counter())

    clock = Clock()
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_parquet(options.rows).select_columns(["text"]),
        callbacks=[clock],
        args=SFTConfig(
            output_dir="/tmp/article",
            dataset_text_field="text",
            max_length=options.length,
            packing=True,
            learning_rate=3e-4,
            lr_scheduler_type="linear",
            per_device_train_batch_size=8,
            gradient_accumulation_steps=2,
            max_steps=options.steps,
            bf16=torch.cuda.is_bf16_supported(),
            fp16=not torch.cuda.is_bf16_supported(),
            logging_steps=1,
            optim="adamw_8bit",
            weight_decay=0.01,
            warmup_steps=2,
            seed=0,
            report_to="none",
            save_strategy="no",
        ),
    )
    trainer.train()
    # Three steps compile and warm up. A full pack is assumed, which favours this script.
    seconds = sorted(b - a for a, b in zip(clock.ends[3:], clock.ends[4:], strict=False))
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    result = {
        "tokens_per_second": 16 * options.length / seconds[len(seconds) // 2],
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        "losses": [float(loss) for loss in losses],
    }
    print("RESULT " + json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
