"""By which rules rows are taken from production: the settings of a harvest."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from retune.recipe.assignment import set_value
from retune.recipe.mistakes import explain
from retune.recipe.section import Line, RecipeError, Section, Share, shown

FILE = Path("harvest.yaml")  # in the current folder
Names = Annotated[tuple[Line, ...], Field(max_length=100)]


class Harvest(Section):
    """How rows are taken from production; a field is a tag, metadata or an assessment of a trace, or a
    key of a logged row, of its `metadata` or of its request."""

    consent_field: Line = Field(
        "consent",
        description="Field that says whether a conversation may be trained on; empty: that is not asked, "
        "for all of it may.",
    )
    consent_values: Names = Field(
        ("yes", "true", "1", "granted"),
        min_length=1,
        description="Values of it that mean yes, in any case; a conversation with another value, or "
        "without one, is not taken.",
    )
    user_field: Line = Field(
        "user",
        min_length=1,
        description="Field with the id of the person who asked; of a trace, `mlflow.trace.user` counts "
        "too. Only a salted hash of it is kept.",
    )
    time_field: Line = Field(
        "timestamp",
        min_length=1,
        description="Field of logged rows with the time of the request: ISO 8601, or seconds or "
        "milliseconds since 1970; `created` and `created_at` count too.",
    )
    retention_days: float = Field(
        180.0,
        gt=0,
        le=36_500,
        description="Age in days from which a conversation is not taken, and a row that was taken "
        "leaves.",
    )
    revisit_days: float = Field(
        14.0,
        ge=0,
        le=3_650,
        description="How many days before the watermark traces are looked at again, for feedback, edits "
        "and withdrawals that came later.",
    )
    feedback_fields: Names = Field(
        ("feedback", "user_feedback", "thumbs", "rating"),
        description="Fields with a person's verdict on the answer; of MLflow's assessments those whose "
        "source is HUMAN.",
    )
    feedback_up: Names = Field(
        ("up", "thumbs_up", "positive", "good", "like", "yes", "true", "1", "👍"),
        description="Values of it that mean a good answer, in any case.",
    )
    feedback_down: Names = Field(
        ("down", "thumbs_down", "negative", "bad", "dislike", "no", "false", "0", "-1", "👎"),
        description="Values of it that mean a bad answer, which is taken only if it was edited.",
    )
    edit_fields: Names = Field(
        ("edit", "edited_answer", "correction", "expected_response"),
        description="Fields with the answer as a person corrected it, which takes the answer's place; of "
        "MLflow's assessments (feedback and expectations) those whose source is HUMAN.",
    )
    min_answer_characters: int = Field(
        1, ge=1, le=1_000_000, description="Shortest answer that is taken, in characters."
    )
    redaction: Literal["mask", "drop"] = Field(
        "mask",
        description="What becomes of a conversation with a password, a key or what belongs to a person: "
        "a word such as [e-mail] takes its place (mask), or it is not taken (drop).",
    )
    max_self_generated_share: Share = Field(
        0.5,
        description="Largest share of the harvested rows whose answer is the model's own, without a "
        "person's thumb up or edit, 0 to 1; of more, a fixed sample is taken.",
    )
    max_line_bytes: int = Field(
        16 << 20,
        ge=1024,
        le=1 << 30,
        description="Longest line of a log that is read, in bytes; a longer one is not taken.",
    )

    @field_validator("consent_values", "feedback_up", "feedback_down")
    @classmethod
    def _in_any_case(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(value.strip().casefold() for value in values)

    @model_validator(mode="after")
    def _verdicts_are_one_thing_each(self) -> Self:
        if both := sorted({*self.feedback_up} & {*self.feedback_down}):
            raise ValueError(f"feedback_up and feedback_down both name {both[0]!r:.80}; choose one")
        return self

    @classmethod
    def load(cls, path: Path | None, assignments: list[str]) -> Self:
        """Return the settings of a YAML file (None: of FILE, if it is there) with `key=value` applied.

        Raises RecipeError, with one line for each mistake.
        """
        from retune.documents import read_yaml_file

        values: Any = {}
        file = path or FILE
        if path or FILE.is_file():
            if not file.is_file():
                raise RecipeError(f"no file {str(file)!r:.200} in {Path.cwd()}; correct the path")
            values = read_yaml_file(file, file.name) or {}
        if not isinstance(values, dict):
            raise RecipeError(
                f"{file.name}: expected settings such as retention_days: 90, got {shown(values)}"
            )
        for assignment in assignments:
            values = set_value(values, assignment)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            lines = [f"harvest: {explain(cls, problem)}" for problem in error.errors()]
            raise RecipeError("\n".join(lines[:20])) from None
