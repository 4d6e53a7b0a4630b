"""evaluate: base and tuned model side by side on the held-out conversations, on the weights that ship.

select chooses these for an adapter that was trained on 4-bit weights.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import create_table_artifact

from retune.bases import bases_unchanged, original_of, selected
from retune.child import run_child
from retune.comparison import Yardstick
from retune.escaping import table
from retune.held_out import Question, questions, sources
from retune.recipe import Recipe
from retune.records import Adapter, Chats, Pins, Scores, Selection
from retune.workspace import Step, building, remove, write_json
from tasks.evaluate.child import EvaluateJob
from tasks.evaluate.row_losses import HeldOut, RowLoss
from tasks.evaluate.scores import SIDES, behaviour, exact_match, likelihoods, losses
from tasks.evaluate.select_child import SelectJob
from tasks.evaluate.selection import preferred
from tasks.stage import stage

CHILD = Path(__file__).with_name("child.py")
SELECTING = Path(__file__).with_name("select_child.py")
SAMPLES, ANSWERS = "samples.json", "answers.json"


@stage(name="select")
def select(adapter: Adapter, chats: Chats, recipe: Recipe, pins: Pins, step: Step) -> Selection:
    """Choose the weights that the adapter is evaluated and merged on (`merging.onto`, see
    `preferred`), by what it is on both."""
    with building(step) as build, bases_unchanged(recipe, pins):
        original = original_of(recipe, pins)
        yardstick = Yardstick(
            held_out=chats.held_out,
            rows=recipe.merging.check_rows,
            logits=build.path / "logits",
        )
        job = SelectJob(
            held_out=held_out(chats, recipe),
            adapter=adapter.path,
            model=recipe.model,
            revision=pins.commit(pins.model),
            original=original,
            wanted=recipe.merging.onto == "16bit",
            yardstick=yardstick,
        )
        hub = bool(job.revision or original.revision)
        said = run_child(SELECTING, job, build.path / "select.log", hub=hub, forked=True)
        remove(yardstick.logits)
        if onto := said.get("onto"):
            return build.finish(Selection, onto=onto, files=("select.log",))
        by_row = {side: [RowLoss(*row) for row in rows] for side, rows in said["losses"].items()}
        comparison = said["comparison"]
        onto = preferred(by_row, comparison)
        metrics = likelihoods(by_row) | {
            f"{name}/16bit": comparison[name] for name in ("kl_divergence", "same_top_token")
        }
        get_run_logger().info(
            "held-out loss of the adapter %.4f on the 4-bit weights, %.4f on the 16-bit ones (KL "
            "divergence %.2g, same top token %.1f %%): it is put on the %s",
            *(metrics["loss/trained"], metrics["loss/16bit"]),
            *(metrics["kl_divergence/16bit"], 100 * metrics["same_top_token/16bit"]),
            "16-bit ones" if onto == "16bit" else "4-bit ones",
        )
        return build.finish(Selection, onto=onto, metrics=metrics, files=("select.log",))


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
        hub = bool(job.revision or (job.original and job.original.revision))
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
        show_samples(samples, config.samples)
        get_run_logger().info(
            "held-out loss %.4f → %.4f, exact match %s",
            *(metrics["loss/base"], metrics["loss/tuned"]),
            " → ".join(f"{metrics[f'exact_match/{side}']:.1%}" for side in SIDES)
            if "exact_match/base" in metrics
            else "does not apply to free text",
        )
        return build.finish(Scores, metrics=metrics, files=("evaluate.log", SAMPLES, ANSWERS))


def held_out(chats: Chats, recipe: Recipe) -> HeldOut:
    """Return the rows that the loss is taken of."""
    return HeldOut(
        path=chats.held_out,
        tokenizer=chats.tokenizer,
        rows=recipe.evaluation.loss_rows,
        max_length=recipe.model.max_length,
        train_on=recipe.training.train_on,
        batch_size=recipe.evaluation.batch_size,
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
        {"row": question.row} | answer for question, answer in zip(questions, answers, strict=False)
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
