"""The recipe: one tree of settings, one section per stage, every default written once.

A deployment's `parameters:` in `prefect.yaml` is a recipe, and so is a YAML file given to the
command line. Prefect builds its run form from the descriptions.
"""

from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from retune.recipe.dataset import Dataset
from retune.recipe.evaluation import Evaluation
from retune.recipe.formatting import Formatting
from retune.recipe.gates import Gates
from retune.recipe.infra import Infra
from retune.recipe.merging import Merging
from retune.recipe.metrics import mistake
from retune.recipe.mistakes import explain
from retune.recipe.model import Model
from retune.recipe.promotion import Promotion
from retune.recipe.publishing import Publishing
from retune.recipe.quantization import Quantization
from retune.recipe.schedule import Schedule
from retune.recipe.section import RecipeError, Section, shown
from retune.recipe.tracking import Tracking
from retune.recipe.training import Training
from retune.recipe.validation import Validation

MOST_LINES = 20  # of mistakes that are named at once


class Recipe(Section):
    """Everything that determines a run. Sections stand in the order of the stages."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9._-]*$",
        max_length=100,  # it names an experiment, a model and runs
        description="Name of the recipe: a-z, 0-9, dot, dash, underscore.",
    )
    note: str = Field(
        "",
        max_length=2_000,
        description="Why this run is made, or what it tries; shown on its page and in MLflow.",
    )
    model: Model
    dataset: Dataset
    validation: Validation = Validation()
    formatting: Formatting = Formatting()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    merging: Merging = Merging()
    quantization: Quantization = Quantization()
    promotion: Promotion = Promotion()
    publishing: Publishing = Publishing()
    tracking: Tracking = Tracking()
    gates: Gates = Gates()
    schedule: Schedule = Schedule()
    infra: Infra = Infra()

    @model_validator(mode="after")
    def _new_rows_are_whole(self) -> Self:
        lora = self.training.method == "lora"
        if self.model.chat_tokens != "map_eos" and lora and self.training.shard:
            raise ValueError(
                f"model.chat_tokens={self.model.chat_tokens} trains single rows of the embeddings, which "
                f"training.shard would split; set model.chat_tokens=map_eos or training.shard=false"
            )
        return self

    @model_validator(mode="after")
    def _training_and_merging_agree(self) -> Self:
        full, in_4bit = self.training.method == "full", self.model.load_in_4bit
        merging = self.merging
        if full and in_4bit:
            raise ValueError(
                "training.method=full cannot train 4-bit weights; set model.load_in_4bit=false"
            )
        if full and merging.save_method == "lora":
            raise ValueError(
                "merging.save_method=lora: training.method=full makes no adapter; use merged_16bit"
            )
        if merging.base_16bit and not in_4bit:
            raise ValueError(
                "merging.base_16bit is for adapters trained on 4-bit weights; leave it empty with "
                "model.load_in_4bit=false"
            )
        return self

    @model_validator(mode="after")
    def _promotes_by_what_is_graded(self) -> Self:
        if wrong := mistake(self.promotion, self.evaluation):
            raise ValueError(wrong)
        return self

    @property
    def makes_gguf(self) -> bool:
        """Whether there is a merged model, and GGUF files of it."""
        return self.merging.save_method != "lora"

    @property
    def selects(self) -> bool:
        """Whether an adapter was trained on other weights than it may be merged on."""
        merging, adapter = self.merging, self.training.method == "lora" and self.makes_gguf
        # Of a base that is stored in 4 bits the recipe does not say so; what it wants may not be there.
        chosen = merging.onto == "best" and self.model.load_in_4bit
        return adapter and (chosen or merging.onto == "16bit")

    @property
    def artifacts(self) -> tuple[str, ...]:
        """What is uploaded, if anything is: what the recipe asks for, or all that it makes."""
        return self.publishing.artifacts or self._makes()

    def _makes(self) -> tuple[str, ...]:
        merging = {
            "lora": (),
            "merged_16bit": ("merged", "gguf"),
            "merged_4bit": ("merged", "merged_4bit", "gguf"),
        }[self.merging.save_method]
        return merging if self.training.method == "full" else ("adapter", *merging)

    @model_validator(mode="after")
    def _makes_what_it_publishes(self) -> Self:
        artifacts = self._makes()
        for artifact in self.publishing.artifacts or ():
            if artifact not in artifacts:
                raise ValueError(
                    f"publishing.artifacts: {artifact} is not made with training.method="
                    f"{self.training.method} and merging.save_method={self.merging.save_method}; "
                    f"change these, or name only {', '.join(artifacts)}"
                )
        return self

    @classmethod
    def parse(cls, values: Any, origin: str = "recipe") -> Self:
        """Check `values` (nested dicts) and return the recipe.

        Raises RecipeError with one line per mistake; `origin` names where the values came from.
        """
        if not isinstance(values, dict):
            raise RecipeError(
                f"{origin}: expected sections such as `model:` and `dataset:`, got {shown(values)}"
            )
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            lines = [explain(cls, problem) for problem in error.errors()]
            more = [f"and {len(lines) - MOST_LINES:,} more mistakes"] if lines[MOST_LINES:] else []
            messages = [f"{origin}: {line}" for line in (*lines[:MOST_LINES], *more)]
            raise RecipeError("\n".join(messages)) from None
