"""Makes the probe of an upgrade: a tiny random model, conversations, and the recipe that trains on them.

    python -m demo.probe FOLDER

It is small enough to be trained in a minute on any machine, and says nothing of a model's quality: it is
there to be trained twice, by two environments, which must come to the same.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

STEPS = 4
ROWS = 400
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
RECIPE = {
    "name": "probe",
    "model": {"base": "base", "load_in_4bit": False, "max_length": 128},
    "dataset": {"source": "rows.jsonl"},
    "formatting": {"held_out_share": 0.1},
    "training": {
        "batch_size": 8,
        "gradient_accumulation": 1,
        "max_steps": STEPS,
        "warmup_steps": 0,
        "learning_rate": 2e-3,
        "optimizer": "adamw_torch",
        "packing": True,
        "gradient_checkpointing": "off",
        "logging_steps": 1,
    },
    # What it learns in so few steps is not judged; that it learns is.
    "evaluation": {
        "max_loss_ratio": 2.0,
        "generation_rows": 4,
        "max_new_tokens": 8,
        "battery_rows": 4,
        "batch_size": 8,
    },
    "quantization": {"methods": ["q8_0"], "context": 64, "answer_rows": 2},
    "promotion": {"mode": "never"},
}


def main(folder: Path) -> None:
    """Write `base/`, `rows.jsonl` and `recipe.yaml` into a folder."""
    import yaml

    folder.mkdir(parents=True, exist_ok=True)
    rows = [conversation(number) for number in range(ROWS)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    make_base(folder / "base", text)


def conversation(number: int) -> dict[str, Any]:
    """Return a row: sums, one in four of two turns, one in five with letters that are not ASCII."""
    turns = [
        {"from": "human", "value": f"What is {number} plus {number % 7}?"},
        {"from": "gpt", "value": f"It is {number + number % 7}."},
    ]
    if number % 4 == 0:
        turns += [
            {"from": "human", "value": "And one more?"},
            {"from": "gpt", "value": f"Then it is {number + number % 7 + 1}."},
        ]
    if number % 5 == 0:
        turns[0]["value"] = f"Wieviel ist {number} plus {number % 7}, größer gerechnet – 好吗?"
    return {
        "conversations": turns,
        "source": f"sums/{number % 2}",
        "score": 3.0 + number % 40 / 40,
    }


def make_base(folder: Path, text: str) -> None:
    """Save a Llama of two layers with random weights, and a tokenizer that was trained on `text`."""
    tokenizer = train_tokenizer(text.splitlines(), vocabulary=400)
    tokenizer.save_pretrained(folder)
    save_llama(folder, tokenizer, hidden=256)  # k-quants take no narrower matrix


def save_llama(
    folder: Path, tokenizer: "PreTrainedTokenizerFast", hidden: int, **settings: Any
) -> None:
    """Save a Llama of two layers with random weights; `settings` are others of LlamaConfig's."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="bfloat16",
        **{"tie_word_embeddings": False} | settings,
    )
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> "PreTrainedTokenizerFast":
    """Return a byte-level BPE tokenizer with ChatML's tokens; pad is not eos."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|begin|>", "<|pad|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin|>",
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        chat_template=CHATML,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
