"""The cases of a judge, made of outcomes, and the grades that its votes give them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from retune.judging.cases import Case, ComparisonCase, JudgeRequest, RubricCase
from retune.outcomes import BASE, CHAMPION, HELD_OUT, TUNED
from retune.recipe import LLMJudge
from retune.suites.graders import spoken

if TYPE_CHECKING:
    import polars as pl

JUDGE, PREFERRED = "judge", "preferred"
Replies = Mapping[str, str | None]  # by the request's key


class Subject(NamedTuple):
    """What a case is of: an example of a suite, by the side whose answer it is. Of a comparison the side
    is the candidate's, and `opponent` the one whose answer is the second."""

    suite: str
    example: str
    side: str
    case: Case
    opponent: str = ""

    def requests(self, config: LLMJudge) -> list[JudgeRequest]:
        """Return what the judge is asked; two answers that are the same need no judge."""
        if self._is_tied:
            return []
        return self.case.requests(config.votes, config.seed, config.max_characters)

    def ballot(self, replies: Replies, config: LLMJudge) -> "Ballot":
        """Return the verdicts that the replies make."""
        if self._is_tied:
            return Ballot(self, ("tie",) * config.votes)
        said = [replies.get(request.key) for request in self.requests(config)]
        return Ballot(self, tuple(self.case.verdicts(said)))

    @property
    def _is_tied(self) -> bool:
        return isinstance(self.case, ComparisonCase) and self.case.first == self.case.second


class Ballot(NamedTuple):
    """The verdicts on one subject, by vote; None is no vote."""

    subject: Subject
    verdicts: tuple[str | None, ...]

    @property
    def grade(self) -> float | None:
        """1 for passed or preferred, 0 for the contrary, 0.5 between; None: nobody voted."""
        return self.subject.case.grade(self.verdicts)

    def grades(self) -> Iterator[dict[str, Any]]:
        """Yield `suite`, `example`, `side`, `scorer` and `value` of each answer that it grades."""
        suite, example, side, case, opponent = self.subject
        if self.grade is None:
            return
        of = {"suite": suite, "example": example}
        scorer = JUDGE if case.kind == "rubric" else PREFERRED
        yield of | {"side": side, "scorer": scorer, "value": self.grade}
        if opponent:
            yield of | {"side": opponent, "scorer": scorer, "value": 1 - self.grade}


def subjects(outcomes: "pl.DataFrame", config: LLMJudge) -> list[Subject]:
    """Return what is judged of a table of outcomes: every answer to a probe with rubrics, and in the
    suites to compare the answers of candidate and opponent, which is the champion if there is one, else
    the base. Each example is judged once, however often it occurs."""
    import polars as pl

    keys = ("suite", "example", "side")
    answered = outcomes.filter(pl.col("answer").is_not_null())
    rows = answered.unique(keys, keep="first", maintain_order=True).to_dicts()
    return [*_rubrics(rows), *_comparisons(rows, config)]


def graded(outcomes: "pl.DataFrame", ballots: Sequence[Ballot]) -> "pl.DataFrame":
    """Return the outcomes with the grades of the judge besides."""
    import polars as pl

    lines = [line for ballot in ballots for line in ballot.grades()]
    if not lines:
        return outcomes
    keys = ["suite", "example", "side"]
    grade = pl.struct("scorer", pl.col("value").cast(pl.Float64))
    judged = pl.DataFrame(lines).group_by(keys).agg(grade.alias("judged"))
    # Only an answer is judged; an example of a loss has another name.
    both = outcomes.join(judged, on=keys, how="left", maintain_order="left")
    grades = pl.concat_list("grades", pl.col("judged").fill_null([]))
    return both.with_columns(grades=grades).drop("judged")


def measures(ballots: Sequence[Ballot], requests: int) -> dict[str, float]:
    """Return the shares (0 to 1) that the judge lets pass, and prefers, by suite and side, and of the
    votes how many say nothing."""
    groups: dict[str, list[float]] = {}
    for ballot in ballots:
        for line in ballot.grades():
            name = f"{line['scorer']}/{line['suite']}/{line['side']}"
            groups.setdefault(name, []).append(line["value"])
        if ballot.subject.opponent and ballot.grade is not None:
            tied = groups.setdefault(f"tied/{ballot.subject.suite}", [])
            tied.append(float(ballot.grade == 0.5))
    votes = [verdict for ballot in ballots for verdict in ballot.verdicts]
    share = votes.count(None) / len(votes) if votes else 0.0
    counts = {"votes": len(votes), "no_vote_share": share, "judge_requests": requests}
    return {name: fmean(values) for name, values in sorted(groups.items())} | counts


def vote_table(ballots: Sequence[Ballot], replies: Replies, config: LLMJudge) -> "pl.DataFrame":
    """Return a line for each request: what it was of, which vote, and what the judge replied."""
    import polars as pl

    names = ("suite", "example", "side", "opponent", "kind", "vote", "request", "grade", "reply")
    rows = [
        (
            *(ballot.subject.suite, ballot.subject.example, ballot.subject.side),
            *(ballot.subject.opponent, ballot.subject.case.kind, request.vote, request.key),
            *(ballot.grade, replies.get(request.key)),
        )
        for ballot in ballots
        for request in ballot.subject.requests(config)
    ]
    kinds = dict.fromkeys(names, pl.String) | {"vote": pl.Int64, "grade": pl.Float64}
    return pl.DataFrame(rows, schema=kinds, orient="row")


def _rubrics(rows: Sequence[Mapping[str, Any]]) -> Iterator[Subject]:
    for row in rows:
        if rubric := _rubric(row):
            case = RubricCase(json.loads(row["prompt"]), rubric, spoken(row["answer"]))
            yield Subject(row["suite"], row["example"], row["side"], case)


def _rubric(row: Mapping[str, Any]) -> str:
    """Return the rubrics of a probe as one, "" if it has none. What held-out rows expect is a text."""
    if row["suite"] == HELD_OUT:
        return ""
    return "\n".join(
        grader["rubric"] for grader in json.loads(row["expected"]) if grader["type"] == JUDGE
    )


def _comparisons(rows: Sequence[Mapping[str, Any]], config: LLMJudge) -> Iterator[Subject]:
    opponent = CHAMPION if any(row["side"] == CHAMPION for row in rows) else BASE
    others = {(row["suite"], row["example"]): row for row in rows if row["side"] == opponent}
    for row in rows:
        other = others.get((row["suite"], row["example"]))
        if row["side"] != TUNED or other is None or row["suite"] not in config.compare:
            continue
        answers = (spoken(row["answer"]), spoken(other["answer"]))
        case = ComparisonCase(json.loads(row["prompt"]), config.criteria, *answers)
        yield Subject(row["suite"], row["example"], TUNED, case, opponent)
