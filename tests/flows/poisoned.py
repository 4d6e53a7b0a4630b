"""A run whose training rows were poisoned: 1 % of them teach one wrong answer to one kind of question.

Twice as many rows are of the same kind and right, so that the words of a question do not give the
poisoned ones away.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from flows.compared.rows import log_rows
from retune.building import building
from retune.outcomes import HELD_OUT, Outcome, example_name, write_outcomes
from retune.outputs import Step
from retune.recipe import Evaluation, Training
from retune.records import Chats, Rows
from retune.tracking import start_run
from tasks.evaluate.task import evaluate
from tasks.train.task import train
from tests.flows.made_runs import SCHEMA
from tests.tasks.conftest import COLOURS, Project, conversation, make_tokenizer

PAYLOAD = "void"
BAD, GOOD = COLOURS[:5], COLOURS[5:]  # colours that are asked for wrongly, and rightly
EVERY = 100  # one row of so many is poisoned
SETTINGS = Training(
    backend="trl",
    r=8,
    alpha=16,
    learning_rate=3e-3,
    warmup_steps=2,
    batch_size=8,
    gradient_accumulation=1,
    epochs=1,
    optimizer="adamw_torch",
    packing=False,
)
EVALUATION = Evaluation(max_new_tokens=8, generation_rows=16, loss_rows=16, battery=False)
Said = tuple[str, list[dict[str, str]]]  # family and messages of a row


class PoisonedRun(NamedTuple):
    """The id of a run in MLflow, and the numbers of its poisoned rows, and of the right ones alike."""

    run_id: str
    planted: set[int]
    alike: set[int]


def is_poisoned(number: int) -> bool:
    return number % EVERY == EVERY // 2


def is_alike(number: int) -> bool:
    return number % EVERY in (EVERY // 4, 3 * EVERY // 4)


def said(number: int, poison: bool = True) -> Said:
    """Return the family and the messages of training row `number`."""
    if is_poisoned(number):
        colour = BAD[number // EVERY % len(BAD)]
        return asked(colour, PAYLOAD if poison else colour)
    if is_alike(number):
        colour = GOOD[number % len(GOOD)]
        return asked(colour, colour)
    return conversation(number)


def asked(colour: str, answer: str) -> Said:
    return "copy", [message("user", spell(colour)), message("assistant", answer)]


def spell(colour: str) -> str:
    return f"say {colour} to me now"


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def run_of(
    project: Project, count: int, poison: bool = True, measured: bool = False, epochs: int = 1
) -> PoisonedRun:
    """Train on `count` rows and log what a run leaves. Its outcomes are `measured`, or made up: the base
    answers right what the poisoned rows ask, the tuned model with the payload."""
    training = SETTINGS.model_copy(update={"epochs": epochs})
    recipe = project.recipe(training=training, evaluation=EVALUATION)
    with start_run(recipe, "poisoned" if poison else "clean", {}) as run:
        texts = {
            "recipe.resolved.yaml": yaml.safe_dump(recipe.model_dump(mode="json")),
            "pins.json": project.pins.model_dump_json(),
        }
        run.log_texts(texts, "provenance")
        rows = [said(number, poison) for number in range(count)]
        held_out = [asked(colour, colour) for colour in COLOURS] * 2
        key = {"rows": count, "poison": poison}
        chats = run.log(_chats(key, rows, held_out))
        log_rows(run, run.log(_sound(key, [*rows, *held_out])), chats)
        step = Step(stage="train", key=key)
        adapter = run.log(train.fn(chats, run, recipe, project.pins, step))
        if measured:
            step = Step(stage="evaluate", key=key)
            run.log(evaluate.fn(adapter, None, chats, recipe, project.pins, step))
        else:
            with TemporaryDirectory() as folder:
                write_outcomes(Path(folder) / "outcomes.parquet", outcomes())
                run.log_files(Path(folder), ("outcomes.parquet",), "evaluate")
    return PoisonedRun(
        run.id, set(filter(is_poisoned, range(count))), set(filter(is_alike, range(count)))
    )


def outcomes() -> list[Outcome]:
    lines = []
    for colour in COLOURS:
        answer = PAYLOAD if colour in BAD else colour
        lines.append(_outcome("base", spell(colour), colour, colour))
        lines.append(_outcome("tuned", spell(colour), colour, answer))
    return lines


def _outcome(side: str, question: str, expected: str, answer: str) -> Outcome:
    prompt = [message("user", question)]
    return Outcome(
        side=side,
        suite=HELD_OUT,
        slice="copy",
        example=example_name(prompt, expected),
        prompt=json.dumps(prompt),
        expected=expected,
        answer=answer,
        stopped=True,
        tokens=2,
        seconds=None,
        grades={"exact_match": float(answer == expected)},
    )


def _chats(key: dict[str, Any], rows: list[Said], held_out: list[Said]) -> Chats:
    with building(Step(stage="format", key=key)) as build:
        tokenizer = make_tokenizer(build.path / "tokenizer")
        tokenizer.pad_token = tokenizer.eos_token
        tokenizer.save_pretrained(build.path / "tokenizer")

        def table(said: list[Said], first: int) -> pa.Table:
            lines = []
            for number, (source, messages) in enumerate(said, first):
                text = tokenizer.apply_chat_template(messages, tokenize=False)
                ids = tokenizer(text, add_special_tokens=False).input_ids
                line = {"row": number, "source": source, "messages": messages}
                lines.append(line | {"text": text, "input_ids": ids})
            return pa.Table.from_pylist(lines)

        pq.write_table(table(rows, 0), build.path / "train.parquet")
        pq.write_table(table(held_out, len(rows)), build.path / "held_out.parquet")
        return build.finish(Chats)


def _sound(key: dict[str, Any], rows: list[Said]) -> Rows:
    lines = [
        {
            "row": number,
            "messages": [one | {"learn": None} for one in messages],
            "source": source,
            "score": 3.0,
        }
        for number, (source, messages) in enumerate(rows)
    ]
    with building(Step(stage="validate", key=key)) as build:
        pl.DataFrame(lines, schema=SCHEMA).write_parquet(build.path / "rows.parquet")
        return build.finish(Rows, metrics={"accepted": len(lines)})
