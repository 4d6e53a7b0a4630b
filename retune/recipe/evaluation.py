"""Base and tuned model side by side."""

from typing import Self

from pydantic import Field, model_validator

from retune.recipe.dataset import DataSource
from retune.recipe.harness import HarnessTask, SuiteName
from retune.recipe.judging import LLMJudge
from retune.recipe.section import Line, Phrase, Section, shown

# What the held-out rows and the battery are called among the suites, and the sides in measures.
ANCHOR = "anchor"  # the suite of the rows that the champion was judged by
RESERVED_SUITES = ("held_out", "battery", "base", "tuned", "champion", ANCHOR)
INCIDENTS = "incidents"  # the suite whose every case has to be passed, whoever else passes it


class ProbeFile(Section):
    """A suite of your own: probes that every model is asked, and how each answer is graded."""

    name: SuiteName
    path: DataSource = Field(
        min_length=1,
        description="The probes: a file of JSON lines, here or at an address (https://, s3://, gs://, "
        "az://).",
    )
    revision: Line | None = Field(
        None,
        pattern=r"^sha256:[0-9a-f]{64}$",
        description="`sha256:` and the digest that the file must have; empty: whatever it is now.",
    )
    max_new_tokens: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Longest answer to one of its probes, in tokens; empty: "
        "`evaluation.max_new_tokens`.",
    )


class Evaluation(Section):
    """Base and tuned model, side by side on the held-out conversations."""

    loss_rows: int = Field(
        500,
        ge=1,
        le=1_000_000_000,
        description="Held-out conversations for loss and perplexity, at most.",
    )
    generation_rows: int = Field(
        200,
        ge=0,
        le=1_000_000_000,
        description="Held-out conversations answered for exact match, at most.",
    )
    max_new_tokens: int = Field(
        128, ge=1, le=1_000_000, description="Longest generated answer, in tokens."
    )
    batch_size: int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="Conversations per forward pass, at most; not set: as many as memory takes.",
    )
    samples: int = Field(
        24, ge=0, le=1_000_000, description="Generated answers kept in the sample table."
    )
    prompts: tuple[Phrase, ...] = Field(
        ("Is 9.11 larger than 9.9?",),
        max_length=10_000,
        description="Further questions for the sample table.",
    )
    suites: tuple[ProbeFile, ...] = Field(
        (), max_length=100, description="Suites of your own that every model is asked."
    )
    tasks: tuple[HarnessTask, ...] = Field(
        (),
        max_length=100,
        description="Suites of lm-eval that every model is asked, which `retune[lm-eval]` installs.",
    )
    incidents: DataSource | None = Field(
        None,
        min_length=1,
        description="File of incidents, as `retune incident add` writes it: a suite that every candidate "
        "must pass as a whole; empty: none.",
    )
    battery: bool = Field(
        True,
        description="Ask the battery that comes with retune (instructions, JSON, arithmetic, facts, "
        "languages, safety), which shows what a model forgets.",
    )
    battery_rows: int = Field(
        80,
        ge=1,
        le=1_000_000,
        description="Probes of the battery that are asked, at most, spread evenly over its slices; with "
        "300, all of them.",
    )
    judge: LLMJudge = Field(LLMJudge(), description=LLMJudge.__doc__)
    max_loss_ratio: float = Field(
        1.0,
        gt=0,
        le=1e6,
        description="Gate: held-out loss of the tuned model over that of the base, at most.",
    )

    @property
    def probe_files(self) -> tuple[ProbeFile, ...]:
        """Every file of probes: the suites in their order, then the incidents."""
        if self.incidents is None:
            return self.suites
        return (*self.suites, ProbeFile(name=INCIDENTS, path=self.incidents))

    @property
    def answered_suites(self) -> tuple[str, ...]:
        """What the suites are called whose answers a judge may compare: those of tasks are graded by
        lm-eval alone."""
        battery = ("battery",) if self.battery else ()
        return ("held_out", *battery, *(suite.name for suite in self.suites))

    @property
    def task_names(self) -> tuple[str, ...]:
        """What the suites of lm-eval are called."""
        return tuple(task.name for task in self.tasks)

    @property
    def suite_names(self) -> tuple[str, ...]:
        """What the suites are called that models are compared by: all but the incidents."""
        return (*self.answered_suites, *self.task_names)

    @model_validator(mode="after")
    def _suites_have_names_of_their_own(self) -> Self:
        taken = {*RESERVED_SUITES, *([INCIDENTS] if self.incidents else [])}
        named = [("suites", number, suite.name) for number, suite in enumerate(self.suites)]
        named += [("tasks", number, task.name) for number, task in enumerate(self.tasks)]
        for kind, number, name in named:
            if name in taken:
                raise ValueError(
                    f"{kind}.{number}.name: {shown(name)} is taken; give the suite another name"
                )
            taken.add(name)
        return self

    @model_validator(mode="after")
    def _compares_suites_that_there_are(self) -> Self:
        known = self.answered_suites
        for name in self.judge.compare:
            if self.judge.enabled and name not in known:
                raise ValueError(
                    f"judge.compare: {shown(name)} is no suite that is asked; use {', '.join(known)}"
                )
        return self
