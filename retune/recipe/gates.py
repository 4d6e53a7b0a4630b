"""The expectations of every gate but the data gate's (see `retune.recipe.flaws`), by the stage judged.

`<gate>.<name>` is a key of a recipe's `gates.severities`. Most names of conform's depend on the base.
"""

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
    "promote": ("win", "no_worse", "no_worse_slice", "floor", "budget", "incidents"),
    "publish": (),  # nothing that is not verified is published
}


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

    @field_validator("severities")
    @classmethod
    def _gates_are_known(cls, severities: dict[str, Severity]) -> dict[str, Severity]:
        allowed = [f"{gate}.{name}" for gate, names in EXPECTATIONS.items() for name in names]
        all_known(
            [key for key in severities if not is_known(key)], allowed, "an expectation of a gate"
        )
        return severities
