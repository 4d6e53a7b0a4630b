"""evaluate: base and tuned model side by side on the held-out conversations and the suites, on the
weights that ship; and the champion on the same examples."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import create_table_artifact

from expectations.data.masking import masked_fields
from retune.bases import bases_unchanged, on_hub, selected
from retune.building import Build, building
from retune.child import Event, run_child
from retune.conditions import conditions
from retune.escaping import table
from retune.files import write_json
from retune.held_out import Question, held_out_rows, sources
from retune.home import remove
from retune.outcomes import FILE as OUTCOMES
from retune.outcomes import Outcome, write_outcomes
from retune.outputs import Step
from retune.recipe import Recipe
from retune.records import ASKED, Adapter, Champion, Chats, Contender, Pins, Scores, Selection
from retune.row_losses import RowLoss, held_out, likelihoods
from retune.suites.harness import asked_tasks, tasks_unchanged
from tasks.evaluate.asking import Questionnaire, asked
from tasks.evaluate.champion import (
    ChampionGone,
    asking,
    champion_job,
    take_recorded,
)
from tasks.evaluate.child import EvaluateJob
from tasks.evaluate.examples import names, outcomes
from tasks.evaluate.harness_outcomes import BySide, of_side, task_outcomes
from tasks.evaluate.probing import refusal_measures, suite_measures, task_measures
from tasks.evaluate.scores import SIDES, behaviour, exact_match, losses
from tasks.stage import show, stage

CHILD = Path(__file__).with_name("child.py")
# They stay in the output's folder: what MLflow gets of them, the flow masks.
SAMPLES, ANSWERS = "samples.json", "answers.json"
SAMPLED = ("prompt", "expected", "base", "tuned")
LOG, SO_FAR = "evaluate.log", "answers_so_far.jsonl"


@stage(name="evaluate")
def evaluate(
    adapter: Adapter,
    selection: Selection | None,
    chats: Chats,
    recipe: Recipe,
    pins: Pins,
    step: Step,
) -> Scores:
    """Measure base and tuned model by their losses and their answers to the same questions and probes.

    Both are on the weights that the adapter will be merged on: the numbers are those of what ships. An
    attempt that was killed goes on with the answers that it has.
    """
    config = recipe.evaluation
    with (
        building(step, keep_partial=True) as build,
        bases_unchanged(recipe, pins),
        tasks_unchanged(recipe, pins.tasks),
    ):
        questions = asked(chats, recipe, pins)
        job = make_job(adapter, selection, chats, recipe, pins, questions, build.path / SO_FAR)
        answers, by_row, tasks = _measured(job, build)
        replies = {side: questions.of_questions(answers[side]) for side in SIDES}
        texts = {side: [reply["text"] for reply in replies[side]] for side in SIDES}
        by_example = _by_example(questions, chats, recipe, pins, answers, by_row, tasks)
        metrics = (
            losses(by_row, sources(chats.held_out, config.loss_rows))
            | {"answered": len(questions.questions)}
            | exact_match(questions.questions, texts)
            | behaviour(questions.questions, replies)
            | refusal_measures(questions, by_example)
            | suite_measures(questions, by_example)
            | task_measures(questions.tasks, by_example)
        )
        samples = sample_table(questions, answers)
        write_json(build.path / SAMPLES, samples)
        write_json(build.path / ANSWERS, tuned_answers(questions.questions, replies["tuned"]))
        write_outcomes(build.path / OUTCOMES, by_example)
        show_samples(samples, config.samples)
        for line in spoken_measures(metrics, questions):
            get_run_logger().info("%s", line)
        return build.finish(Scores, metrics=metrics, files=(LOG, OUTCOMES))


@stage(name="champion")
def measure_champion(
    champion: Champion, chats: Chats, recipe: Recipe, pins: Pins, step: Step
) -> Contender:
    """Ask the champion what base and tuned model are asked, in the same way.

    If it cannot be asked any more, what its own run recorded of the same examples is taken, if it was
    measured under the same conditions. Only an answer of its own makes the output a finished one: else
    the next run tries again.
    """
    with building(step, keep_partial=True) as build:
        questions = asked(chats, recipe, pins)
        try:
            with tasks_unchanged(recipe, pins.tasks), asking(champion):
                contender = _asked_champion(champion, questions, chats, recipe, pins, build)
        except ChampionGone as gone:
            get_run_logger().warning("the champion (version %d): %s", champion.version, gone)
            contender = _recorded_champion(
                champion, questions, chats, recipe, pins, str(gone), build
            )
        build.is_final = contender.is_final
    return contender


def _asked_champion(
    champion: Champion,
    questions: Questionnaire,
    chats: Chats,
    recipe: Recipe,
    pins: Pins,
    build: Build,
) -> Contender:
    prompts = questions.chats(recipe.evaluation)
    job = champion_job(champion, prompts, chats, recipe, pins, build.path / SO_FAR)
    answers, by_row, tasks = _measured(job, build)
    by_example = _by_example(questions, chats, recipe, pins, answers, by_row, tasks)
    write_outcomes(build.path / OUTCOMES, by_example)
    metrics = (
        likelihoods(by_row)
        | refusal_measures(questions, by_example)
        | suite_measures(questions, by_example)
        | task_measures(questions.tasks, by_example)
        | {"examples": len({one.example for one in by_example})}
    )
    params = {"version": str(champion.version), "source": ASKED}
    return build.finish(Contender, metrics=metrics, params=params, files=(LOG, OUTCOMES))


def _recorded_champion(
    champion: Champion,
    questions: Questionnaire,
    chats: Chats,
    recipe: Recipe,
    pins: Pins,
    gone: str,
    build: Build,
) -> Contender:
    params = {"version": str(champion.version)}
    rows = held_out_rows(chats.held_out, recipe.evaluation.loss_rows)
    try:
        examples, today = names(questions, rows), conditions(recipe, chats.tokenizer, pins)
        path, tasks = build.path / OUTCOMES, questions.tasks
        count = take_recorded(champion, examples, tasks, today, path)
    except ChampionGone as neither:
        missing = f"version {champion.version} cannot be asked: {gone}; and {neither}"
        return build.finish(Contender, missing=missing, params=params | {"source": "none"})
    params["source"] = f"run {champion.run_id}"
    return build.finish(Contender, metrics={"examples": count}, params=params, files=(OUTCOMES,))


def _measured(
    job: EvaluateJob, build: Build
) -> tuple[dict[str, list[Any]], dict[str, list[RowLoss]], BySide]:
    """Return the answers and the losses of each side, and what came of the tasks of lm-eval; the answers
    so far are of no use afterwards."""
    hub = on_hub(job.revision, job.original) or any(task.pin.commits for task in job.tasks)
    result = run_child(CHILD, job, build.path / LOG, _tell, hub=hub, forked=True)
    losses = {side: [RowLoss(*row) for row in rows] for side, rows in result["losses"].items()}
    tasks = {side: of_side(job.log, side, job.tasks) for side in result["answers"]}
    remove(job.log)
    return result["answers"], losses, tasks


def _tell(event: Event) -> None:
    """Say what the child is at."""
    if event["event"] == "progress":
        get_run_logger().info(
            "%s: %s of %s answers, %s tokens/s",
            event["side"],
            f"{event['done']:,}",
            f"{event['total']:,}",
            f"{event['tokens_per_second']:,.0f}",
        )
    elif event["event"] == "state":
        get_run_logger().info("%s", event["text"])


def _by_example(
    questions: Questionnaire,
    chats: Chats,
    recipe: Recipe,
    pins: Pins,
    answers: Mapping[str, list[Any]],
    by_row: Mapping[str, Sequence[RowLoss]],
    tasks: BySide,
) -> list[Outcome]:
    rows = held_out_rows(chats.held_out, recipe.evaluation.loss_rows)
    today = conditions(recipe, chats.tokenizer, pins)
    own = outcomes(questions, rows, by_row, answers)
    return [one._replace(conditions=today(one.suite).text) for one in (*own, *task_outcomes(tasks))]


def spoken_measures(metrics: Mapping[str, float], questions: Questionnaire) -> list[str]:
    """Return what is logged of a comparison: losses, exact match, and what passed of each suite."""
    lines = [
        f"held-out loss {metrics['loss/base']:.4f} → {metrics['loss/tuned']:.4f}, exact match "
        + (
            " → ".join(f"{metrics[f'exact_match/{side}']:.1%}" for side in SIDES)
            if "exact_match/base" in metrics
            else "does not apply to free text"
        )
    ]
    for suite, probes in questions.suites.items():
        shares = [metrics.get(f"passed/{suite}/{side}") for side in SIDES]
        none = "left to the judge" if all(probe.is_judged for probe in probes) else "none asked"
        passed = " → ".join(none if share is None else f"{share:.1%}" for share in shares)
        unasked = metrics.get(f"unasked/{suite}/tuned")
        left_out = f"; the model cannot be asked {unasked:,.0f} of them" if unasked else ""
        lines.append(f"{suite}: {passed} of {len(probes):,} probes passed{left_out}")
    for task in questions.tasks:
        shares = [metrics.get(f"passed/{task}/{side}") for side in SIDES]
        passed = " → ".join("none graded" if share is None else f"{share:.1%}" for share in shares)
        lines.append(f"{task}: {passed}, by lm-eval")
    return lines


def make_job(
    adapter: Adapter,
    selection: Selection | None,
    chats: Chats,
    recipe: Recipe,
    pins: Pins,
    questions: Questionnaire,
    log: Path,
) -> EvaluateJob:
    """Return the child's job; the answers so far are kept in `log`."""
    config = recipe.evaluation
    return EvaluateJob(
        held_out=held_out(chats, recipe),
        tokenizer=chats.tokenizer,
        adapter=adapter.path,
        model=recipe.model,
        revision=pins.commit(pins.model),
        original=selected(selection, recipe, pins),
        batch_size=config.batch_size,
        prompts=questions.chats(config),
        log=log,
        tasks=asked_tasks(recipe, pins.tasks),
    )


def tuned_answers(questions: list[Question], answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each question's `row` with the `text` of its answer and whether it `stopped`."""
    return [
        {"row": question.row, "text": answer["text"], "stopped": answer["stopped"]}
        for question, answer in zip(questions, answers, strict=False)
    ]


def sample_table(
    questions: Questionnaire, answers: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """Return the sample table's rows: the questions, then the recipe's own prompts."""
    count = len(questions.questions) + len(questions.prompts)
    pairs = [tuple(answers[side][number]["text"] for side in SIDES) for number in range(count)]
    table = [
        {
            "prompt": question.prompt[-1]["content"] if question.prompt else "",
            "expected": question.expected,
            "base": base,
            "tuned": tuned,
            "family": question.family,
            "match": question.matches(tuned),
        }
        for question, (base, tuned) in zip(questions.questions, pairs, strict=False)
    ]
    for prompt, (base, tuned) in zip(questions.prompts, pairs[len(table) :], strict=True):
        row = {"prompt": prompt, "expected": "", "base": base, "tuned": tuned}
        table.append(row | {"family": "prompt", "match": None})
    return table


def show_samples(samples: list[dict[str, Any]], limit: int) -> None:
    """Show what base and tuned model answered in Prefect, `limit` of the questions and all prompts.

    Questions and answers are data, and masked.
    """
    rows = [row for row in samples if row["match"] is not None][:limit]
    rows += [row for row in samples if row["match"] is None]
    rows = masked_fields(rows, SAMPLED)
    show(
        create_table_artifact,
        table=table(rows),
        key="samples",
        description="Base and tuned, answering",
    )
