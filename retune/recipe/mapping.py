"""What a source's columns and roles are called: of a dataset, and of each part of a mix."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from retune.recipe.origin import Origin
from retune.recipe.section import Line, all_known

Role = Literal["user", "assistant", "system", "tool"]
# What `dataset.columns` gives a column, or a key of a message (role, content, reasoning), as a name.
COLUMN_NAMES = (
    *("messages", "question", "answer", "context", "system", "history", "tools", "source", "score"),
    "split_group",
    *("role", "content", "reasoning"),
)


class ColumnMapping(Origin):
    """Where rows come from, and what their columns and roles are called there."""

    columns: dict[Line, Line] = Field(
        default_factory=dict,
        max_length=len(COLUMN_NAMES),
        description="Which of the source's columns is what, for names that are not known, e.g. "
        '{"question": "q", "answer": "a"}; the keys are '
        f"{', '.join(COLUMN_NAMES[:-1])} or {COLUMN_NAMES[-1]}. Of several "
        "conversations in a row it chooses the one that is named. Rows with one value of `split_group`, "
        "such as a user's id, go to one side of the split between training and held-out rows.",
    )
    roles: dict[Line, Role] = Field(
        default_factory=dict,
        max_length=1000,
        description="What the source's roles are called here, for names that are not known, e.g. "
        '{"customer": "user", "agent": "assistant"}; in any case.',
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
