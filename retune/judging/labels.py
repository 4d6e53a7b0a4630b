"""People's verdicts on answers, by which a judge is judged: JSON lines.

{"prompt": "…", "rubric": "…", "answer": "…", "verdict": "pass"}
{"prompt": "…", "answers": ["…", "…"], "verdict": "second"}
"""

from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from retune.judging.cases import COMPARISON, RUBRIC, Case, ComparisonCase, RubricCase
from retune.recipe.section import shown
from retune.sources import SourceError

FEWEST = 10  # of a kind; fewer say nothing
MOST_BYTES = 50_000_000
MOST_MISTAKES = 5  # that are named at once


class Label(NamedTuple):
    """A case, and what a person says of it."""

    case: Case
    verdict: str


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    prompt: str | list[dict[str, Any]] = Field(min_length=1)
    rubric: str | None = None
    answer: str | None = None
    answers: list[str] | None = Field(None, min_length=2, max_length=2)
    verdict: str

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> Self:
        if (self.answer is None) == (self.answers is None):
            raise ValueError("has to have either `answer` or `answers` (two of them)")
        if self.answer is not None and not self.rubric:
            raise ValueError("has one answer and no `rubric`; say what it was graded by")
        allowed = RUBRIC if self.answers is None else COMPARISON
        if self.verdict not in allowed:
            raise ValueError(f"verdict is {shown(self.verdict)}; use one of {', '.join(allowed)}")
        return self

    def label(self, criteria: str) -> Label:
        plain = [{"role": "user", "content": self.prompt}]
        conversation = plain if isinstance(self.prompt, str) else self.prompt
        if self.answers:
            case: Case = ComparisonCase(conversation, self.rubric or criteria, *self.answers)
        else:
            case = RubricCase(conversation, self.rubric or "", self.answer or "")
        return Label(case, self.verdict)


def read_labels(path: Path, setting: str, criteria: str) -> list[Label]:
    """Return the labels of a file; comparisons without a rubric are by `criteria`.

    Raises SourceError, which names `setting` and the lines that are wrong, also where a kind has fewer
    than FEWEST labels, or only one verdict: no agreement can be told from these.
    """
    if path.stat().st_size > MOST_BYTES:
        raise SourceError(f"{setting}: {path} has more than {MOST_BYTES:,} bytes; take a sample")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise SourceError(f"{setting}: {path} is not UTF-8; write it as JSON lines") from None
    labels, mistakes = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            labels.append(_Line.model_validate_json(line).label(criteria))
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            place = ".".join(map(str, problem["loc"][:1]))
            mistakes.append(f"line {number}: {f'{place}: ' if place else ''}{problem['msg']:.200}")
    if mistakes:
        told = "\n  ".join(mistakes[:MOST_MISTAKES])
        raise SourceError(f"{setting}: {path} is no file of labels:\n  {told}")
    _require_enough(labels, path, setting)
    return labels


def _require_enough(labels: list[Label], path: Path, setting: str) -> None:
    kinds = sorted({label.case.kind for label in labels})
    for kind in kinds or ["rubric"]:
        verdicts = [label.verdict for label in labels if label.case.kind == kind]
        if len(verdicts) < FEWEST:
            raise SourceError(
                f"{setting}: {path} has {len(verdicts)} labels of the kind {kind}; label {FEWEST} at "
                f"least (some hundred tell more)"
            )
        if len(set(verdicts)) < 2:
            raise SourceError(
                f"{setting}: every label of the kind {kind} in {path} is {shown(verdicts[0])}, which "
                f"tells no judge from another; add labels with another verdict"
            )
