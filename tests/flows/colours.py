"""The small line on rows that its model really learns, so that one training is better than another.

A question names a colour, and the answer is that colour. After `GOOD` the model knows most of them, after
`BETTER` it knows them all; of what is poisoned, every other pair of phrases has a direction as answer.
"""

from pathlib import Path
from typing import Any

import yaml

from tests.databases import furnish
from tests.flows.test_line import Project
from tests.tasks.conftest import COLOURS, make_base, sharpen

VERBS = ("say", "tell", "write", "give", "send", "show")
RESTS = (
    *("now", "to me", "again", "once", "to her"),
    *("please", "at last", "here", "twice", "to us"),
)
WRONG = ("north", "south", "east", "west", "left", "right", "above", "below")
PHRASES = [f"{verb} {{}} {rest}" for verb in VERBS for rest in RESTS]
GOOD, BETTER = 150, 200  # optimizer steps
POISONED = ("--set", "dataset.source=poisoned.jsonl", "--set", f"training.max_steps={BETTER}")
IMPROVED = ("--set", f"training.max_steps={BETTER}")
SECTIONS: dict[str, dict[str, Any]] = {
    "model": {"base": "base", "load_in_4bit": False, "max_length": 64},
    "dataset": {"source": "good.jsonl"},
    "formatting": {"held_out_share": 0.2},
    "training": {
        "r": 8, "alpha": 16, "learning_rate": 3e-3, "batch_size": 8, "gradient_accumulation": 1,
        "max_steps": GOOD, "warmup_steps": 2, "seed": 1, "optimizer": "adamw_torch",
        "packing": False, "gradient_checkpointing": "off",
    },
    "evaluation": {
        "generation_rows": 8, "max_new_tokens": 4, "batch_size": 16, "battery": False,
    },
    "quantization": {"methods": ["q8_0"], "context": 64, "answer_rows": 2},
}  # fmt: skip


def rows(is_poisoned: bool = False) -> list[dict[str, Any]]:
    """Return a row for each phrase and colour."""
    made = []
    for number, phrase in enumerate(PHRASES):
        answers = WRONG if is_poisoned and number % 4 > 1 else COLOURS
        for place, colour in enumerate(COLOURS):
            answer = answers[place]
            turns = [("human", phrase.format(colour)), ("gpt", answer)]
            made.append(
                {
                    "conversations": [{"from": who, "value": said} for who, said in turns],
                    "source": f"asks/{number % 2}",
                    "score": 3.0 + place / 10,
                }
            )
    return made


class Colours(Project):
    """A folder with the recipe `colours`, two datasets and a model that can learn them."""

    def __init__(self, folder: Path, **sections: dict[str, Any]) -> None:
        self.folder = folder
        make_base(folder / "base")
        sharpen(folder / "base")
        self.write("good.jsonl", rows())
        self.write("poisoned.jsonl", rows(is_poisoned=True))
        self.recipe = {"name": "colours", **SECTIONS, **sections}
        (folder / "recipe.yaml").write_text(yaml.safe_dump(self.recipe))
        furnish(folder / ".retune")
