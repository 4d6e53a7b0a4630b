"""The expectations of every gate but the data gate's (see `retune.recipe.flaws`), by the stage judged.

`<gate>.<name>` is a key of a recipe's `gates.severities`. Most names of conform's depend on the base.
"""

from typing import Annotated

from pydantic import Field, field_validator

from retune.recipe.flaws import Severity
from retune.recipe.section import Line, Section, all_known

EXPECTATIONS: dict[str, tuple[str, ...]] = {
    "conform": ("target_modules", "trained_share", "untrained_layers"),
    "format": ("truncated_share", "unlearned_share", "refused_share", "altered_share"),
    "rehearse": ("train", "merge", "convert", "compute"),
    "parity": ("differing_rows",),
    "train": (),  # of one that diverged there is no output that could pass
    "evaluate": ("loss_ratio",),
    "judge": ("agreement", "no_votes"),  # of the LLM judge itself
    "merge": ("changed_share", "kl_divergence", "same_top_token", "perplexity_ratio", "4bit"),
    "convert": ("eos", "prompts", "stopped", "exact_match"),
    "quantize": (
        *("loads", "perplexity_ratio", "kl_divergence", "same_top_token"),
        *("exact_match", "stopped"),
    ),
    # A candidate, beside the champion and the base (see `expectations.promotion`).
    "promote": (
        *("win", "no_worse", "no_worse_slice", "floor", "budget", "incidents"),
        *("anchor", "anchor_slice", "anchor_answers", "anchor_waiver"),
    ),
    "publish": (),  # nothing that is not verified is published
}

# What takes time, by the name of its folder below the work folder.
STAGES = (
    *("conform", "rehearse", "fetch", "screen", "validate", "format", "parity", "train", "select"),
    *("evaluate", "champion", "judge", "merge", "convert", "calibrate", "quantize", "publish"),
    "anchor",
)
Hours = Annotated[float, Field(gt=0, le=1e6)]


def is_known(key: str) -> bool:
    """Tell whether `<gate>.<name>` names an expectation; of conform any may exist."""
    gate, _, name = key.partition(".")
    return name in EXPECTATIONS.get(gate, ()) or (gate == "conform" and bool(name))


class Gates(Section):
    """What happens when an expectation is not met; the names are in docs/settings.md."""

    severities: dict[Line, Severity] = Field(
        default_factory=dict,
        max_length=1000,
        description="critical (ends the run), warning (is shown) or info (is logged), by gate and "
        'expectation, e.g. {"merge.kl_divergence": "warning"}; those of the data gate are '
        "validation.severities.",
    )

    stage_hours: dict[Line, Hours] = Field(
        default_factory=dict,
        max_length=100,
        description="Longest time of a stage, in hours by its name, e.g. {train: 12, merge: 1}; a stage "
        "that takes longer is told to end, a training with a checkpoint. No limit: not named.",
    )

    @field_validator("stage_hours")
    @classmethod
    def _stages_are_known(cls, hours: dict[str, float]) -> dict[str, float]:
        return all_known(hours, STAGES, "a stage")

    @field_validator("severities")
    @classmethod
    def _gates_are_known(cls, severities: dict[str, Severity]) -> dict[str, Severity]:
        allowed = [f"{gate}.{name}" for gate, names in EXPECTATIONS.items() for name in names]
        all_known(
            [key for key in severities if not is_known(key)], allowed, "an expectation of a gate"
        )
        return severities
