"""What the recipe says of a source's columns and roles, and the names that are known without it."""

from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, NamedTuple

from retune.recipe import Dataset

# The names that datasets give to roles, in lower case; names not listed stay, for the gate to judge.
ROLES = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "ai": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
    "function_response": "tool",
    "tool_response": "tool",
}
CALL_ROLES = ("function_call", "tool_call")  # ShareGPT: what the assistant says is a call

# Columns that hold a conversation's messages, and the format that they are typical of.
TURN_COLUMNS = {"conversations": "sharegpt", "conversation": "sharegpt", "messages": "openai"}


class PairLayout(NamedTuple):
    """Columns that together are one question and its answer; `contexts` belong to the question."""

    format: str
    question: str
    answer: str
    contexts: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.question, self.answer, *self.contexts)


# In this order: a row may have the columns of several.
PAIRS = (
    PairLayout("alpaca", "instruction", "output", ("input",)),
    PairLayout("alpaca", "instruction", "response", ("input", "context")),  # GPTeacher, Dolly
    PairLayout("prompt_completion", "prompt", "completion", ("input",)),
    PairLayout("prompt_completion", "prompt", "response", ("input",)),
    PairLayout("prompt_completion", "question", "answer", ("context",)),
    PairLayout("prompt_completion", "question", "response", ("context",)),  # OpenOrca
    PairLayout("prompt_completion", "query", "response"),  # ms-swift
)
SYSTEM_COLUMNS = ("system", "system_prompt")
TOOL_COLUMNS = ("tools", "functions")
PREFERENCE_COLUMNS = ("chosen", "rejected")
VERDICT_COLUMNS = ("label", "kto_tag")  # KTO: whether the answer is one to give
MEDIA_COLUMNS = ("images", "image", "audios", "audio", "videos", "video")
SPLIT_GROUP = "split_group"  # rows with one value go to one side of the split
SEGMENTS = "segments"  # Axolotl's `input_output`
KNOWN_COLUMNS = {
    *TURN_COLUMNS,
    *(name for pair in PAIRS for name in pair.columns),
    *SYSTEM_COLUMNS,
    *TOOL_COLUMNS,
    *PREFERENCE_COLUMNS,
    *VERDICT_COLUMNS,
    *MEDIA_COLUMNS,
    *("history", "source", "score", SPLIT_GROUP, SEGMENTS),
}

LEARN_KEYS = ("weight", "train", "training", "loss", "loss_weight")  # whether a message is learnt
REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")
CALL_KEYS = ("tool_calls", "function_call")
# Keys of a message that are used; the id of a call says which result is whose.
KNOWN_KEYS = {
    *("role", "from", "content", "value", "tool_call_id"),
    *LEARN_KEYS,
    *REASONING_KEYS,
    *CALL_KEYS,
}
_OF_MESSAGES = ("role", "content")  # what `dataset.columns` names within a message


class Shape(NamedTuple):
    """What is known of a source's shape beforehand; see the settings of the same names in `dataset`.

    `columns` are the source's names by ours, `roles` ours by the source's in lower case.
    """

    columns: Mapping[str, str] = MappingProxyType({})
    roles: Mapping[str, str] = MappingProxyType(ROLES)
    ignore: frozenset[str] = frozenset()
    mid_system: str = "refuse"

    @classmethod
    def of(cls, dataset: Dataset) -> "Shape":
        roles = {name.lower(): role for name, role in dataset.roles.items()}
        return cls(
            dataset.columns, {**ROLES, **roles}, frozenset(dataset.ignore), dataset.mid_system
        )

    @property
    def role_keys(self) -> tuple[str, ...]:
        """The keys of a message's role, the first that it has counts; `content_keys` likewise."""
        return (self.columns["role"],) if "role" in self.columns else ("role", "from")

    @property
    def content_keys(self) -> tuple[str, ...]:
        return (self.columns["content"],) if "content" in self.columns else ("content", "value")

    @property
    def reasoning_keys(self) -> tuple[str, ...]:
        own = self.columns.get("reasoning")
        return (own, *REASONING_KEYS) if own else REASONING_KEYS

    @property
    def known_keys(self) -> frozenset[str]:
        """The keys of a message that are used."""
        return frozenset({*KNOWN_KEYS, *self.columns.values()})

    def reads(self, column: str) -> bool:
        """Tell whether anything is done with a column of this name."""
        return self.ours(column) is not None

    def ours(self, column: str) -> str | None:
        """Return our name for a column of the source, None if there is none.

        Names in another case (`Instruction`) are known too.
        """
        if column in self.ignore:
            return None
        for ours, theirs in self.columns.items():
            if theirs == column and ours not in _OF_MESSAGES:
                return ours
        name = column.strip().lower()
        # A name that the recipe gives to another column, or whose kind of conversation it did not choose.
        if name not in KNOWN_COLUMNS or name in self.columns or self._is_passed_over(name):
            return None
        return name

    def _is_passed_over(self, name: str) -> bool:
        """Tell whether another conversation than this column's was chosen."""
        if "messages" in self.columns:
            return name in TURN_COLUMNS
        if name in TURN_COLUMNS:
            return not self.columns.keys().isdisjoint(("question", "answer"))
        return any(
            ours in self.columns and name in (getattr(pair, ours) for pair in PAIRS)
            for ours in ("question", "answer")
        )

    def renamed(self, columns: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Return what has a name of ours by it, and the names of the rest; of two that have one name
        the one that is spelt so, or that comes first."""
        known: dict[str, Any] = {}
        rest = []
        as_they_are = not self.columns and not self.ignore
        for name, value in columns.items():
            if as_they_are and name in KNOWN_COLUMNS:
                known[name] = value
                continue
            ours = self.ours(name)
            respelt = ours not in (None, name) and self.columns.get(ours or "") != name
            if ours is None or ours in known or (respelt and ours in columns):
                rest.append(name)
            else:
                known[ours] = value
        return known, rest

    def shown(self, ours: str) -> str:
        """Return a column's name for a message to a person: as the source has it."""
        return f"`{self.columns.get(ours, ours)}`"


# Of the dataset that is read, like its budget; what asks for it is deep inside of rows.
SHAPE = ContextVar("SHAPE", default=Shape())  # noqa: B039  (it is never changed in place)
