"""The graders of a probe: each tells of one reply whether it is as it should be.

They take linear time in the reply, whatever a model says: no pattern is run by an engine that goes back.
"""

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from retune.suites.calls import tool_calls
from retune.suites.json_answers import (
    NotJSON,
    conforms,
    json_of,
    matches,
    require_pattern,
    require_schema,
)
from retune.suites.numbers import last_number

_REASONING = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))


class Reply(NamedTuple):
    """What is graded: the `text` of an answer without its reasoning, whether it `stopped` by itself,
    and whether it `refuses` (see `retune.refusals`)."""

    text: str
    stopped: bool
    refuses: bool


def spoken(answer: str) -> str:
    """Return an answer without the reasoning before it; reasoning that never ends says nothing.

    A template may have opened the block already: then only its end is there.
    """
    text = answer.strip()
    for opening, closing in _REASONING:
        before, end, rest = text.partition(closing)
        if text.startswith(opening) or (end and opening not in before):
            text = rest.strip()
    return text


def _several(value: Any) -> Any:
    return (
        (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value
    )


def _is_pattern(value: str) -> str:
    require_pattern(value)
    return value


def _is_schema(value: dict[str, Any]) -> dict[str, Any]:
    require_schema(value)
    return value


_Word = Annotated[str, Field(min_length=1)]
_Words = Annotated[tuple[_Word, ...], BeforeValidator(_several), Field(min_length=1)]
_Tolerance = Annotated[float, Field(ge=0)]


class _Grader(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class Exact(_Grader):
    """The reply is one of the texts, white space at the ends aside."""

    type: Literal["exact"]
    text: _Words
    ignore_case: bool = False

    def passes(self, reply: Reply) -> bool:
        said = _folded(reply.text.strip(), self.ignore_case)
        return any(said == _folded(text.strip(), self.ignore_case) for text in self.text)


class Contains(_Grader):
    """One of the texts is in the reply, or `all` of them."""

    type: Literal["contains"]
    text: _Words
    all: bool = False
    ignore_case: bool = False

    def passes(self, reply: Reply) -> bool:
        said = _folded(reply.text, self.ignore_case)
        inside = (_folded(text, self.ignore_case) in said for text in self.text)
        return all(inside) if self.all else any(inside)


class NotContains(_Grader):
    """None of the texts is in the reply, which says something."""

    type: Literal["not_contains"]
    text: _Words
    ignore_case: bool = False

    def passes(self, reply: Reply) -> bool:
        said = _folded(reply.text, self.ignore_case)
        return bool(said.strip()) and not any(
            _folded(text, self.ignore_case) in said for text in self.text
        )


class Regex(_Grader):
    """The pattern (Rust's syntax) matches somewhere in the reply; `^` and `$` mean its ends."""

    type: Literal["regex"]
    pattern: Annotated[_Word, AfterValidator(_is_pattern)]

    def passes(self, reply: Reply) -> bool:
        return matches(reply.text.strip(), self.pattern)


class Number(_Grader):
    """The last number of the reply is `value`, within the larger of the tolerances, `absolute` and
    `relative` (a share of the value); see `retune.suites.numbers` for what is a number."""

    type: Literal["number"]
    value: float
    absolute: _Tolerance = 0.0
    relative: _Tolerance = 0.0
    decimal_comma: bool = False

    def passes(self, reply: Reply) -> bool:
        number = last_number(reply.text, self.decimal_comma)
        if number is None:
            return False
        # What a float cannot hold is no difference: 0.1 + 0.2.
        tolerance = max(self.absolute, self.relative * abs(self.value), 1e-12 * abs(self.value))
        return abs(number - self.value) <= tolerance


class JSONSchema(_Grader):
    """The reply is JSON, and nothing else (but one code `fence` around it), as `schema` wants it."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    type: Literal["json_schema"]
    wanted: Annotated[dict[str, Any], AfterValidator(_is_schema)] = Field(alias="schema")
    fence: bool = True

    def passes(self, reply: Reply) -> bool:
        try:
            return conforms(json_of(reply.text, self.fence), self.wanted)
        except NotJSON:
            return False


class CallsTool(_Grader):
    """The reply calls the tool `name` (null: none at all) with these `arguments` (null: any).

    `others` lets it have further arguments, `alone` says that there is no other call.
    """

    type: Literal["tool_call"]
    name: _Word | None
    arguments: dict[str, Any] | None = None
    others: bool = False
    alone: bool = True

    def passes(self, reply: Reply) -> bool:
        calls = tool_calls(reply.text)
        if self.name is None:
            return not calls and bool(reply.text.strip())
        if self.alone and len(calls) != 1:
            return False
        return any(call.name == self.name and self._has(call.arguments) for call in calls)

    def _has(self, arguments: dict[str, Any]) -> bool:
        wanted = self.arguments
        if wanted is None:
            return True
        return (self.others or arguments.keys() == wanted.keys()) and all(
            name in arguments and same(arguments[name], value) for name, value in wanted.items()
        )


class Stops(_Grader):
    """The model ended its answer by itself."""

    type: Literal["stops"]

    def passes(self, reply: Reply) -> bool:
        return reply.stopped


class Refuses(_Grader):
    """The reply refuses what was asked."""

    type: Literal["refusal"]

    def passes(self, reply: Reply) -> bool:
        return reply.refuses


class DoesNotRefuse(_Grader):
    """The reply says something and does not refuse."""

    type: Literal["not_refusal"]

    def passes(self, reply: Reply) -> bool:
        return bool(reply.text.strip()) and not reply.refuses


class MeetsRubric(_Grader):
    """The reply meets the rubric, in the eyes of the LLM judge (see `retune.judging`), who grades it
    after all else and by itself."""

    type: Literal["judge"]
    rubric: Annotated[_Word, Field(max_length=20_000)]


Rule = (
    Exact
    | Contains
    | NotContains
    | Regex
    | Number
    | JSONSchema
    | CallsTool
    | Stops
    | Refuses
    | DoesNotRefuse
)
Grader = Annotated[Rule | MeetsRubric, Field(discriminator="type")]


def same(one: Any, other: Any) -> bool:
    """Tell whether two JSON values are the same: 5 is 5.0, and neither is true."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one == other
    return type(one) is type(other) and one == other


def _folded(text: str, ignore_case: bool) -> str:
    return text.casefold() if ignore_case else text
