"""judge: what a language model says of the answers, where a rule cannot tell."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from prefect import get_run_logger

from retune.building import building
from retune.home import remove
from retune.judging.agreement import agreement
from retune.judging.cases import JudgeRequest, templates
from retune.judging.errors import JudgeFailed
from retune.judging.labels import Label, read_labels
from retune.judging.votes import key_of, replies
from retune.outcomes import FILE as OUTCOMES
from retune.outcomes import write_table
from retune.outputs import Step
from retune.recipe import LLMJudge, Recipe
from retune.records import Contender, JudgedAnswers, Pins, Scores
from retune.sources import unchanged
from tasks.judge.grading import Replies, graded, measures, subjects, vote_table
from tasks.stage import secret_block, stage

REPLIES, VOTES = "replies_so_far.jsonl", "votes.parquet"
NO_VOTE = "none"  # what the judge said where it said nothing, beside what a person said


@stage(name="judge")
def ask_judge(
    scores: Scores, contender: Contender | None, recipe: Recipe, pins: Pins, step: Step
) -> JudgedAnswers:
    """Ask the judge about the answers of base and tuned model and, if it could be asked, the champion.

    It is this process that asks: children that hold models have no network and no secret. An attempt
    that was killed goes on with the replies that it has.
    """
    import polars as pl

    config = recipe.evaluation.judge
    files = [scores.outcomes]
    is_final = contender is None or contender.is_final
    if contender and not contender.missing:
        files.append(contender.outcomes)
    with building(step, keep_partial=True) as build, _inputs_unchanged(config, pins):
        outcomes = pl.concat([pl.read_parquet(file) for file in files])
        cases, labels = subjects(outcomes, config), _labels(config)
        requests = [one for subject in cases for one in subject.requests(config)]
        requests += [one for label in labels for one in _requests(label, config)]
        said = replies(requests, config, key_of(config, secret), build.path / REPLIES, _tell)
        ballots = [subject.ballot(said, config) for subject in cases]
        write_table(build.path / OUTCOMES, graded(outcomes, ballots))
        vote_table(ballots, said, config).write_parquet(build.path / VOTES)
        remove(build.path / REPLIES)
        metrics = measures(ballots, len(said)) | _agreements(labels, said, config)
        params = {"model": config.model or "GGUF", "templates": templates()}
        params |= {"gguf": pins.judge} if pins.judge else {}
        judged = build.finish(
            JudgedAnswers, metrics=metrics, params=params, files=(OUTCOMES, VOTES)
        )
        build.is_final = is_final  # as the champion's, which the next run tries to ask
    return judged


def secret(name: str) -> str:
    """Return what the Secret block of Prefect holds. Raises JudgeFailed."""
    key = secret_block(name)
    if not key:
        raise JudgeFailed(
            f"evaluation.judge.key_secret: Prefect has no Secret block {name!r} that holds a key: make "
            f"one in its UI below Blocks"
        )
    return key


@contextlib.contextmanager
def _inputs_unchanged(config: LLMJudge, pins: Pins) -> Iterator[None]:
    with (
        unchanged(config.gguf, pins.judge, "evaluation.judge.gguf"),
        unchanged(config.labels, pins.judge_labels, "evaluation.judge.labels"),
    ):
        yield


def _labels(config: LLMJudge) -> list[Label]:
    if not config.labels:
        return []
    path = Path(config.labels).expanduser()
    return read_labels(path, "evaluation.judge.labels", config.criteria)


def _requests(label: Label, config: LLMJudge) -> list[JudgeRequest]:
    return label.case.requests(config.votes, config.seed, config.max_characters)


def _agreements(labels: list[Label], said: Replies, config: LLMJudge) -> dict[str, float]:
    """Return κ of the judge with people, its bounds and the number of labels, by kind."""
    metrics: dict[str, float] = {}
    for kind in sorted({label.case.kind for label in labels}):
        own = [label for label in labels if label.case.kind == kind]
        verdicts = [_verdict(label, said, config) for label in own]
        measured = agreement([label.verdict for label in own], verdicts)
        metrics |= {
            f"kappa/{kind}": measured.kappa,
            f"kappa_low/{kind}": measured.low,
            f"kappa_high/{kind}": measured.high,
            f"labels/{kind}": measured.examples,
        }
    return metrics


def _verdict(label: Label, said: Replies, config: LLMJudge) -> str:
    """Return the judge's verdict on a labelled case, as a person would give it."""
    votes = label.case.verdicts([said.get(one.key) for one in _requests(label, config)])
    return label.case.decided(votes) or NO_VOTE


def _tell(done: int, total: int) -> None:
    get_run_logger().info("judge: %s of %s replies", f"{done:,}", f"{total:,}")
