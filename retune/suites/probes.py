"""SuiteProbe files: JSON lines, each a conversation to answer and how the answer is graded.

{"messages": […], "tools": […], "slice": "sums", "id": "sums-1", "grade": {"type": "number", "value": 4}}
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from retune.measures import format_bytes
from retune.outcomes import example_name
from retune.recipe.section import shown
from retune.sources import SourceError
from retune.suites.graders import DoesNotRefuse, Grader, MeetsRubric, Refuses, Reply

MOST_PROBES = 100_000
MOST_BYTES = 250_000_000  # of a file
MOST_MISTAKES = 5  # that are named at once


def _as_list(value: Any) -> Any:
    return (
        (value,) if isinstance(value, dict) else tuple(value) if isinstance(value, list) else value
    )


_Label = Annotated[str, Field(min_length=1, max_length=100)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ProbeMessage(_Part):
    """One message as chat templates take it; `tool_calls` are OpenAI's."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    tool_calls: tuple[dict[str, Any], ...] = ()
    tool_call_id: str | None = None
    name: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.content and not self.tool_calls:
            raise ValueError("has neither content nor tool_calls")
        return self

    def plain(self) -> dict[str, Any]:
        given = self.model_dump(mode="json", exclude_defaults=True)
        return {"role": self.role, "content": self.content or "", **given}


class IncidentNote(_Part):
    """Where an incident comes from: what was answered, why that was wrong, who `added` it and when,
    and the file or trace that it was taken from."""

    answer: str | None = None
    reason: str = Field("", max_length=500)
    added: str = ""
    by: str = ""
    source: str = ""


class SuiteProbe(_Part):
    """One line of a probe file; an `incident` has a note."""

    messages: tuple[ProbeMessage, ...] = Field(min_length=1)
    tools: tuple[dict[str, Any], ...] = ()
    slice: _Label = "all"
    id: _Label | None = None
    grade: Annotated[tuple[Grader, ...], BeforeValidator(_as_list), Field(min_length=1)]
    incident: IncidentNote | None = None

    @model_validator(mode="after")
    def _asks(self) -> Self:
        if self.messages[-1].role not in ("user", "tool"):
            raise ValueError(
                "messages end with an answer; the last one should be the user's or a tool's"
            )
        return self

    @property
    def chat(self) -> list[dict[str, Any]]:
        """The messages as a chat template takes them."""
        return [message.plain() for message in self.messages]

    @property
    def grading(self) -> list[dict[str, Any]]:
        """The graders as the file has them, without their defaults."""
        return [
            grader.model_dump(mode="json", by_alias=True, exclude_defaults=True)
            for grader in self.grade
        ]

    @property
    def example(self) -> str:
        """What identifies it in every run: what is asked, with which tools, and how it is graded."""
        return example_name(self.chat, [list(self.tools), self.grading])

    def passed(self, reply: Reply) -> bool | None:
        """Tell whether a reply is as all rules want it; None where there is none but the judge's."""
        rules = [grader for grader in self.grade if not isinstance(grader, MeetsRubric)]
        return all(grader.passes(reply) for grader in rules) if rules else None

    @property
    def is_judged(self) -> bool:
        """Whether it takes the LLM judge to grade it."""
        return any(isinstance(grader, MeetsRubric) for grader in self.grade)

    @property
    def label(self) -> str:
        """What people call an incident: its id and why it is one; "" for any other probe."""
        if self.incident is None:
            return ""
        return (
            f"{self.id or self.example}{f' ({reason})' if (reason := self.incident.reason) else ''}"
        )

    @property
    def wants_refusal(self) -> bool | None:
        """Whether the model should refuse, None where that is not what is graded."""
        if any(isinstance(grader, Refuses) for grader in self.grade):
            return True
        return False if any(isinstance(grader, DoesNotRefuse) for grader in self.grade) else None


def read_probes(path: Path, setting: str) -> tuple[SuiteProbe, ...]:
    """Return the probes of a file.

    Raises SourceError, which names `setting` and the first lines that are wrong, with the value seen,
    and for a file that is no text, empty, or larger than MOST_BYTES or MOST_PROBES.
    """
    if path.stat().st_size > MOST_BYTES:
        raise SourceError(
            f"{setting}: {path} has more than {format_bytes(MOST_BYTES)}; split the suite"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{setting}: {path} is not UTF-8 (byte {error.start:,}); write it as JSON lines in UTF-8"
        ) from None
    lines = [
        (number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()
    ]
    if not lines:
        raise SourceError(f"{setting}: {path} has no probe; write one JSON object per line")
    if len(lines) > MOST_PROBES:
        raise SourceError(
            f"{setting}: {path} has more than {MOST_PROBES:,} probes; split the suite"
        )
    return _checked(lines, path, setting)


def _checked(lines: list[tuple[int, str]], path: Path, setting: str) -> tuple[SuiteProbe, ...]:
    probes: list[SuiteProbe] = []
    mistakes: list[str] = []
    seen: dict[tuple[str, str], int] = {}
    for number, line in lines:
        probe, problems = parse_probe(line)
        if probe is None:
            mistakes += [f"line {number}: {words}" for words in problems]
            continue
        names = [("asks and grades the same as", probe.example)]
        names += [("has the id of", probe.id)] if probe.id else []
        for words, name in names:
            if (first := seen.setdefault((words, name), number)) != number:
                mistakes.append(f"line {number}: {words} line {first}; remove one")
        probes.append(probe)
    if mistakes:
        more = [f"and {len(mistakes) - MOST_MISTAKES:,} more"] if mistakes[MOST_MISTAKES:] else []
        told = "\n  ".join([*mistakes[:MOST_MISTAKES], *more])
        raise SourceError(f"{setting}: {path} is no file of probes:\n  {told}")
    return tuple(probes)


def parse_probe(line: str) -> tuple[SuiteProbe | None, list[str]]:
    """Return the probe of one line, or None and what is wrong with it."""
    try:
        return SuiteProbe.model_validate_json(line), []
    except ValidationError as error:
        return None, list(_words(error))


def _words(error: ValidationError) -> Iterator[str]:
    """Yield each mistake of a line: where, what, the value seen."""
    problems = error.errors(include_url=False)
    places = [problem["loc"] for problem in problems]
    for problem in problems:
        inside = [place for place in places if place[: len(problem["loc"])] == problem["loc"]]
        if problem["type"] == "too_short" and len(inside) > 1:
            continue  # it is too short without its entries that are wrong
        place = ".".join(f"{part!s:.60}" for part in problem["loc"])
        if problem["type"] == "json_invalid":
            yield f"no JSON ({problem['ctx']['error']}); write one object per line"
        elif problem["type"] == "missing":
            yield f"{place} is missing; add it"
        elif problem["type"] == "extra_forbidden":
            yield f"unknown key {place!r}; remove it, or correct its name"
        elif problem["type"] == "union_tag_not_found":
            yield f'{place} has no type; say which grader it is, such as {{"type": "exact"}}'
        else:
            message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
            value = _seen(problem["input"])
            yield f"{place or 'the probe'}: {message} (got {value})"


def _seen(value: Any) -> str:
    """Return what stood there in a few words."""
    return shown(value) if not isinstance(value, dict | list) else f"{json.dumps(value):.80}"
