"""Tasks of lm-eval, EleutherAI's evaluation harness, as suites of a recipe."""

from typing import Annotated

from pydantic import Field

from retune.recipe.section import Line, Section, Source

SuiteName = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9][a-z0-9_-]*$",
        max_length=40,
        description="Name of the suite in measures and verdicts: a-z, 0-9, dash, underscore.",
    ),
]


class HarnessTask(Section):
    """A suite of lm-eval: a task or a group of tasks, by its name there or in a folder of your own."""

    name: SuiteName
    task: Line = Field(
        min_length=1, description="Task, group or tag as lm-eval names it, such as `arc_easy`."
    )
    folder: Source | None = Field(
        None,
        min_length=1,
        description="Folder of your own tasks, with their YAML files, Python functions and data; empty: "
        "the task comes with lm-eval.",
    )
    few_shot: int | None = Field(
        None,
        ge=0,
        le=1_000,
        description="Examples with their answers before each question; empty: as many as the task says.",
    )
    rows: int | None = Field(
        None,
        ge=1,
        le=1_000_000_000,
        description="Examples of each task, at most: its first ones; empty: all.",
    )
    metric: Line | None = Field(
        None,
        min_length=1,
        description="Metric that grades an example, as lm-eval writes it (`acc_norm`, "
        "`exact_match,flexible-extract`); empty: the task's first one that grades examples.",
    )
    revisions: dict[Line, Line] = Field(
        {},
        max_length=10_000,
        description="Branch, tag or commit of datasets on the Hub that its tasks read, by the dataset's "
        "id; others as they are now.",
    )
