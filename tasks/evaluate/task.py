"""evaluate: base and tuned model side by side on the held-out conversations, on the weights that ship."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import create_table_artifact

from retune.bases import bases_unchanged, on_hub, selected
from retune.child import run_child
from retune.escaping import table
from retune.held_out import Question, held_out_rows, questions, sources
from retune.outcomes import write_outcomes
from retune.recipe import Recipe
from retune.records import Adapter, Chats, Pins, Scores, Selection
from retune.row_losses import RowLoss, held_out
from retune.workspace import Step, building, write_json
from tasks.evaluate.child import EvaluateJob
from tasks.evaluate.examples import outcomes
from tasks.evaluate.scores import SIDES, behaviour, exact_match, losses
from tasks.stage import stage

CHILD = Path(__file__).with_name("child.py")
SAMPLES, ANSWERS, OUTCOMES = "samples.json", "answers.json", "outcomes.parquet"


@stage(name="evaluate")
def evaluate(
    adapter: Adapter,
    selection: Selection | None,
    chats: Chats,
    recipe: Recipe,
    pins: Pins,
    step: Step,
) -> Scores:
    """Measure base and tuned model by their losses and their answers to the same questions.

    Both are on the weights that the adapter will be merged on: the numbers are those of what ships.
    """
    config = recipe.evaluation
    with building(step) as build, bases_unchanged(recipe, pins):
        asked = questions(chats.held_out, config.generation_rows, recipe.model.max_length)
        job = make_job(adapter, selection, chats, recipe, pins, asked)
        hub = on_hub(job.revision, job.original)
        result = run_child(CHILD, job, build.path / "evaluate.log", hub=hub, forked=True)
        answers = result["answers"]
        texts = {side: [answer["text"] for answer in answers[side]] for side in SIDES}
        by_row = {side: [RowLoss(*row) for row in rows] for side, rows in result["losses"].items()}
        metrics = (
            losses(by_row, sources(chats.held_out, config.loss_rows))
            | exact_match(asked, texts)
            | behaviour(asked, answers)
        )
        samples = sample_table(asked, texts, config.prompts)
        write_json(build.path / SAMPLES, samples)
        write_json(build.path / ANSWERS, tuned_answers(asked, answers["tuned"]))
        rows = held_out_rows(chats.held_out, config.loss_rows)
        by_example = outcomes(rows, by_row, asked, answers)
        write_outcomes(build.path / OUTCOMES, by_example)
        show_samples(samples, config.samples)
        get_run_logger().info(
            "held-out loss %.4f → %.4f, exact match %s",
            *(metrics["loss/base"], metrics["loss/tuned"]),
            " → ".join(f"{metrics[f'exact_match/{side}']:.1%}" for side in SIDES)
            if "exact_match/base" in metrics
            else "does not apply to free text",
        )
        return build.finish(
            Scores, metrics=metrics, files=("evaluate.log", SAMPLES, ANSWERS, OUTCOMES)
        )


def make_job(
    adapter: Adapter,
    selection: Selection | None,
    chats: Chats,
    recipe: Recipe,
    pins: Pins,
    questions: list[Question],
) -> EvaluateJob:
    """Return the child's job: the questions first, then the recipe's own prompts."""
    config = recipe.evaluation
    return EvaluateJob(
        held_out=held_out(chats, recipe),
        tokenizer=chats.tokenizer,
        adapter=adapter.path,
        model=recipe.model,
        revision=pins.commit(pins.model),
        original=selected(selection, recipe, pins),
        config=config,
        prompts=[question.prompt for question in questions]
        + [[{"role": "user", "content": prompt}] for prompt in config.prompts],
    )


def tuned_answers(questions: list[Question], answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each question's `row` with the `text` of its answer and whether it `stopped`."""
    return [
        {"row": question.row, "text": answer["text"], "stopped": answer["stopped"]}
        for question, answer in zip(questions, answers, strict=False)
    ]


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
