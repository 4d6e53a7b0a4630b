"""Where the conversations come from."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from retune.recipe.section import Line, Section, Source, all_known

Role = Literal["user", "assistant", "system", "tool"]
# What `dataset.columns` gives a column, or a key of a message (role, content, reasoning), as a name.
COLUMN_NAMES = (
    *("messages", "question", "answer", "context", "system", "history", "tools", "source", "score"),
    *("role", "content", "reasoning"),
)


class Dataset(Section):
    """Where the conversations come from."""

    source: Source = Field(
        description="Hub dataset id, or a local .jsonl, .json, .parquet, .csv or .arrow file.",
        min_length=1,
    )
    revision: Line | None = Field(
        None, description="Branch, tag or commit of the Hub dataset; empty: its main branch."
    )
    subset: Line | None = Field(None, description="Subset (configuration name) of the Hub dataset.")
    split: Line = Field(
        "train",
        pattern=r"^[\w.]+(\[\d*%?:\d*%?\])?$",
        description="Split to read, with an optional slice in rows or percent, e.g. train[:10000].",
    )
    columns: dict[Line, Line] = Field(
        default_factory=dict,
        max_length=len(COLUMN_NAMES),
        description="Which of the source's columns is what, for names that are not known, e.g. "
        f"{{question: q, answer: a}}; the keys are {', '.join(COLUMN_NAMES[:-1])} or "
        f"{COLUMN_NAMES[-1]}. Of several conversations in a row it chooses the one that is named.",
    )
    roles: dict[Line, Role] = Field(
        default_factory=dict,
        max_length=1000,
        description="What the source's roles are called here, for names that are not known, e.g. "
        "{customer: user, agent: assistant}; in any case.",
    )
    ignore: tuple[Line, ...] = Field(
        (),
        max_length=1000,
        description="Columns, and keys of messages, that are not used on purpose, whatever they hold, "
        "e.g. [id, lang]; all others that are not used are warned of.",
    )
    mid_system: Literal["refuse", "user", "system"] = Field(
        "refuse",
        description="What becomes of a system message that is not the first: it stays, and the gate "
        "finds the roles out of order (refuse), or its text goes before the next user message (user) or "
        "behind the first system message (system).",
    )
    max_row_bytes: int = Field(
        64 << 20,
        ge=1024,
        le=1 << 40,
        description="Largest row that is read, in bytes as stored; a larger one is quarantined.",
    )
    max_row_values: int = Field(
        500_000,
        ge=10,
        le=10**9,
        description="Most values of a row that is read: keys of its objects and elements of its "
        "lists, at all depths; a row with more is quarantined.",
    )
    max_row_depth: int = Field(
        100,
        ge=5,
        le=900,  # beyond it Python's own reader of JSON gives up
        description="Deepest nesting of a row that is read, in lists and objects within each other; "
        "a deeper row is quarantined.",
    )
    max_rows: int = Field(
        50_000_000,
        ge=1,
        le=10**12,
        description="Most rows that are read; a source with more ends the run.",
    )
    max_unpacked_bytes: int = Field(
        64 << 30,
        ge=1 << 20,
        le=1 << 50,
        description="Most that the compressed files of a split may unfold to in all, in bytes.",
    )
    memory_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share of the machine's free memory that reading may take, 0 to 1, but 1 GiB in "
        "any case; a source that takes more ends the run.",
    )
    quiet_minutes: int = Field(
        30,
        ge=1,
        le=10_000,
        description="Longest time without a further batch of rows, in minutes; then reading ends.",
    )

    @field_validator("columns")
    @classmethod
    def _names_are_ours(cls, columns: dict[str, str]) -> dict[str, str]:
        return all_known(columns, COLUMN_NAMES, "what a column can be")

    @model_validator(mode="after")
    def _columns_are_one_thing_each(self) -> Self:
        theirs = list(self.columns.values())
        for name in theirs:
            if theirs.count(name) > 1:
                raise ValueError(f"dataset.columns: {name!r} is given two meanings; choose one")
            if name in self.ignore:
                raise ValueError(
                    f"dataset.ignore names {name!r}, which dataset.columns uses; remove one of them"
                )
        if "messages" in self.columns and {"question", "answer"} & self.columns.keys():
            raise ValueError(
                "dataset.columns: a conversation is either `messages`, or `question` and `answer`; "
                "choose one"
            )
        return self
