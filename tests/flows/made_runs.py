"""Runs as MLflow keeps them, made up in a second: rows, outcomes, curves and files of small models."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import polars as pl
import yaml

from flows.compared.rows import log_rows
from retune.building import building
from retune.outcomes import HELD_OUT, LOSS, Outcome, example_name, write_outcomes
from retune.outputs import Step
from retune.recipe import Recipe
from retune.records import Chats, Rows
from retune.tracking import Run, start_run

SECRET = "sk-ant-" + "api03-AbCdEf0123456789AbCdEf0123456789"  # invented
PROMPTS = 60


class Made(NamedTuple):
    """What a run is made of: its rows as pairs of texts, how many of its answers are wrong."""

    rows: list[tuple[str, str]]
    learning_rate: float = 0.001
    wrong: int = 0
    torch: str = "2.1"
    loss: float = 1.0
    sha256: str = "a" * 64


def recipe(made: Made, name: str = "sums") -> Recipe:
    return Recipe.parse(
        {
            "name": name,
            "model": {"base": "a/b"},
            "dataset": {"source": "c/d"},
            "training": {"learning_rate": made.learning_rate},
        }
    )


def run_of(made: Made, title: str, name: str = "sums") -> str:
    """Log a run and return its id."""
    settings = recipe(made, name)
    with start_run(settings, title, {}) as run:
        texts = {
            "recipe.resolved.yaml": yaml.safe_dump(settings.model_dump(mode="json")),
            "software.json": json.dumps({"number": "0.1", "packages": {"torch": made.torch}}),
            "machine.json": json.dumps({"cpu": "a CPU", "cores": 2}),
        }
        run.log_texts(texts, "provenance")
        rows(run, made.rows)
        for step in (1, 2, 3):
            line = {"train/tokens": 100.0 * step, "train/loss": made.loss / step}
            run.log_metrics(line, step)
        run.log_metrics({"evaluate/loss/tuned": made.loss, "validate/accepted": len(made.rows)})
        outcomes(run, made)
        with TemporaryDirectory() as folder:
            file = {"method": "q4_k_m", "bytes": 1000, "kl_divergence": 0.01, "exact_match": None}
            file |= {"sha256": made.sha256, "ships": True}
            (Path(folder) / "gguf_files.json").write_text(json.dumps([file]))
            run.log_files(Path(folder), ("gguf_files.json",), "quantize")
    return run.id


def rows(run: Run, pairs: list[tuple[str, str]]) -> None:
    """Log the rows as validate and format leave them; every tenth is held out."""
    table = pl.DataFrame([row(number, *pair) for number, pair in enumerate(pairs)], schema=SCHEMA)
    with building(Step(stage="validate", key={"of": run.id})) as build:
        table.write_parquet(build.path / "rows.parquet")
        sound = build.finish(Rows, metrics={"accepted": len(table)})
    with building(Step(stage="format", key={"of": run.id})) as build:
        held_out = table["row"] % 10 == 9
        table.filter(~held_out).select("row").write_parquet(build.path / "train.parquet")
        table.filter(held_out).select("row").write_parquet(build.path / "held_out.parquet")
        chats = build.finish(Chats)
    run.log(sound)
    log_rows(run, sound, chats)


_TURN = pl.Struct({"role": pl.String, "content": pl.String, "learn": pl.Boolean})
SCHEMA = {
    "row": pl.Int64,
    "messages": pl.List(_TURN),
    "source": pl.String,
    "score": pl.Float64,
}


def row(number: int, question: str, answer: str) -> dict[str, Any]:
    turns = [("user", question), ("assistant", answer)]
    return {
        "row": number,
        "messages": [{"role": role, "content": text, "learn": None} for role, text in turns],
        "source": f"source {number % 2}",
        "score": 3.0,
    }


def outcomes(run: Run, made: Made) -> None:
    """Log what base and tuned model did with PROMPTS questions; the first `wrong` are answered wrong."""
    lines = []
    for side in ("base", "tuned"):
        for number in range(PROMPTS):
            prompt = [{"role": "user", "content": asked(number)}]
            right = side == "tuned" and number >= made.wrong
            grades = {"exact_match": float(right), "stopped": 1.0}
            lines.append(outcome(side, prompt, "yes" if right else "no", grades))
            lines.append(outcome(side, prompt, None, {LOSS: made.loss + number / 100}))
    with TemporaryDirectory() as folder:
        write_outcomes(Path(folder) / "outcomes.parquet", lines)
        run.log_files(Path(folder), ("outcomes.parquet",), "evaluate")


def asked(number: int) -> str:
    secret = f" My key is {SECRET}." if number == 0 else ""
    return f"Does the parcel number {number} weigh as much as a brick?{secret}"


def outcome(
    side: str, prompt: list[dict[str, str]], answer: str | None, grades: dict[str, float]
) -> Outcome:
    return Outcome(
        side=side,
        suite=HELD_OUT,
        slice="source 0",
        example=example_name(prompt, "yes" if answer else LOSS),
        prompt=json.dumps(prompt),
        expected="yes" if answer else "",
        answer=answer,
        stopped=True if answer else None,
        tokens=5,
        seconds=None,
        grades=grades,
    )
