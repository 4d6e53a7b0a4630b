"""When runs begin, and when they need not."""

from typing import Literal, Self

from pydantic import Field, model_validator

from retune.recipe.section import Section, Share

Cause = Literal["dataset", "model", "suites"]


class Schedule(Section):
    """When runs begin by themselves, and when there is nothing for them to do.

    Nothing here changes what a run makes: it is in no fingerprint.
    """

    skip_unchanged: Literal["scheduled", "always", "never"] = Field(
        "scheduled",
        description="Which runs end as Skipped when dataset, base, recipe and code are those of an "
        "accepted run: scheduled: those that a schedule or a trigger started; always: also those "
        "started by hand; never: none. A run by hand reuses what exists and says so.",
    )
    force: bool = Field(
        False,
        description="Whether this run does its work though nothing has changed or too few rows are new; "
        "`--force` of `retune run` sets it.",
    )
    triggers: tuple[Cause, ...] = Field(
        (),
        max_length=10,
        description="What starts a run when `retune watch` finds another version of it than the newest "
        "accepted run had: dataset: the dataset or a part of a mix; model: the base; suites: a suite or "
        "the file of incidents.",
    )
    cooldown_hours: float = Field(
        20,
        ge=0,
        le=10_000,
        description="Hours from the start of a recipe's newest run until a trigger starts another one; "
        "what changes meanwhile starts one run after that.",
    )
    min_new_rows: int = Field(
        0,
        ge=0,
        le=10**12,
        description="Fewest accepted rows that the champion's run did not have, by their content, for "
        "which a scheduled or triggered run trains; with fewer it ends as Skipped before a GPU is used. "
        "0: any.",
    )
    min_new_share: Share = Field(
        0.0,
        description="The same as a share of the accepted rows of the champion's run, 0 to 1; both must "
        "be reached.",
    )
    gpu: Literal["alone", "shared"] = Field(
        "alone",
        description="alone: a run waits until no other run of this user works on the NVIDIA GPUs that it "
        "may use; shared: it begins at once. Without a GPU runs do not wait.",
    )

    @model_validator(mode="after")
    def _triggers_differ(self) -> Self:
        if len(set(self.triggers)) < len(self.triggers):
            raise ValueError("triggers names a cause twice; name each once")
        return self
