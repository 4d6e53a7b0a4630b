"""evaluate: base and tuned model side by side on the held-out conversations; the regression gate."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import create_table_artifact

from retune.child import run_child
from retune.escaping import table
from retune.held_out import Question, questions
from retune.recipe import Evaluation, Model, Recipe
from retune.records import Adapter, Chats, Pins, Scores
from retune.sources import unchanged
from retune.workspace import Step, building, write_json
from tasks.evaluate.child import SIDES, EvaluateJob
from tasks.stage import stage

CHILD = Path(__file__).with_name("child.py")
SAMPLES, ANSWERS = "samples.json", "answers.json"


@stage(name="evaluate")
def evaluate(adapter: Adapter, chats: Chats, recipe: Recipe, pins: Pins, step: Step) -> Scores:
    """Measure base and tuned model by their losses and their answers to the same questions."""
    model, config = recipe.model, recipe.evaluation
    revision = pins.commit(pins.model)
    with building(step) as build, unchanged(model.base, pins.model, "model.base"):
        selection = questions(chats.held_out, config.generation_rows)
        job = make_job(adapter, chats, model, config, revision, selection)
        result = run_child(
            CHILD, job, build.path / "evaluate.log", hub=revision is not None, forked=True
        )
        answers = result["answers"]
        texts = {side: [answer["text"] for answer in answers[side]] for side in SIDES}
        metrics = (
            losses(result["losses"])
            | exact_match(selection, texts)
            | stopped(answers, len(selection))
        )
        samples = sample_table(selection, texts, config.prompts)
        write_json(build.path / SAMPLES, samples)
        write_json(build.path / ANSWERS, by_row(selection, answers["tuned"]))
        show_samples(samples, config.samples)
        get_run_logger().info(
            "held-out loss %.4f → %.4f, exact match %s → %s",
            *(metrics["loss/base"], metrics["loss/tuned"]),
            *(f"{metrics.get(f'exact_match/{side}', math.nan):.1%}" for side in SIDES),
        )
        return build.finish(Scores, metrics=metrics, files=("evaluate.log", SAMPLES, ANSWERS))


def make_job(
    adapter: Adapter,
    chats: Chats,
    model: Model,
    config: Evaluation,
    revision: str | None,
    questions: list[Question],
) -> EvaluateJob:
    """Return the child's job: the questions first, then the recipe's own prompts."""
    return EvaluateJob(
        held_out=chats.held_out,
        tokenizer=chats.tokenizer,
        adapter=adapter.path,
        model=model,
        revision=revision,
        config=config,
        prompts=[question.prompt for question in questions]
        + [[{"role": "user", "content": prompt}] for prompt in config.prompts],
    )


def losses(by_side: dict[str, float]) -> dict[str, float]:
    """Return the losses (nats per token) and their perplexities; an overflow is infinite."""
    return {f"loss/{side}": loss for side, loss in by_side.items()} | {
        f"perplexity/{side}": math.exp(loss) if loss < 700 else math.inf
        for side, loss in by_side.items()
    }


def exact_match(questions: list[Question], answers: dict[str, list[str]]) -> dict[str, float]:
    """Return the share of answers (0 to 1) that equal the expected text, in all and per family."""
    groups: dict[str, list[int]] = {}
    for number, question in enumerate(questions):
        groups.setdefault("exact_match", []).append(number)
        groups.setdefault(f"exact_match/{metric_name(question.family)}", []).append(number)
    return {
        f"{name}/{side}": sum(questions[n].matches(answers[side][n]) for n in numbers)
        / len(numbers)
        for name, numbers in groups.items()
        for side in SIDES
    }


def stopped(answers: dict[str, list[dict[str, Any]]], count: int) -> dict[str, float]:
    """Return the share (0 to 1) of the first `count` answers that ended their turn by themselves."""
    if not count:
        return {}
    return {
        f"stopped/{side}": sum(answer["stopped"] for answer in answers[side][:count]) / count
        for side in SIDES
    }


def by_row(questions: list[Question], answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each question's `row` with the `text` of its answer and whether it `stopped`."""
    return [
        {"row": question.row} | answer for question, answer in zip(questions, answers, strict=False)
    ]


def metric_name(family: str) -> str:
    """Return `family` with everything that MLflow takes no metric name of replaced by `_`."""
    return re.sub(r"[^\w.-]", "_", family, flags=re.ASCII)[:60] or "_"


def sample_table(
    questions: list[Question], answers: dict[str, list[str]], prompts: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the sample table's rows: the questions, then the recipe's own prompts."""
    pairs = list(zip(answers["base"], answers["tuned"], strict=True))
    table = [
        {
            "prompt": question.prompt[-1]["content"] if question.prompt else "",
            "expected": question.expected,
            "base": base,
            "tuned": tuned,
            "family": question.family,
            "match": question.matches(tuned),
        }
        for question, (base, tuned) in zip(questions, pairs, strict=False)
    ]
    for prompt, (base, tuned) in zip(prompts, pairs[len(questions) :], strict=True):
        row = {"prompt": prompt, "expected": "", "base": base, "tuned": tuned}
        table.append(row | {"family": "prompt", "match": None})
    return table


def show_samples(samples: list[dict[str, Any]], limit: int) -> None:
    """Show what base and tuned model answered in Prefect, `limit` of the questions and all prompts.

    Questions and answers are data.
    """
    rows = [row for row in samples if row["match"] is not None][:limit]
    rows += [row for row in samples if row["match"] is None]
    create_table_artifact(table=table(rows), key="samples", description="Base and tuned, answering")
