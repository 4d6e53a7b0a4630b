"""The rows that taught a model what it got wrong come out on top, and can be left out."""

import json
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.influence.dropping import write_without
from flows.influence.lost import MOST_EXAMPLES, lost_examples
from flows.influence.ranking import NoSuspects, ranked
from retune.outcomes import LOSS, write_outcomes
from retune.recipe import Recipe
from retune.tracking import client, start_run
from tasks.fetch.columns import from_rows
from tests.flows import poisoned
from tests.flows.made_runs import SCHEMA, SECRET, outcome
from tests.tasks.conftest import Project

ROWS = 400


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("project"))
    with project.at_home():
        yield project


@pytest.fixture(scope="module")
def run(project):
    return poisoned.run_of(project, ROWS)


@pytest.fixture(scope="module")
def everything(run):
    """Every row by its rank, whatever its score, and the file of the accepted rows."""
    return ranked(run.run_id, "", limit=ROWS, above=-1.0, rows=ROWS)


@pytest.mark.slow  # gradients of some hundred rows
def test_planted_rows_come_out_on_top(run, everything):
    """1 % of the rows are poisoned; at least 80 % of these must be among the first 2 %."""
    found, _ = everything
    assert (found.against, found.common, found.lost) == ("its base", 8, 5)
    assert found.trained == found.compared == ROWS
    top = {one.row for one in found.rows[: ROWS // 50]}
    assert len(run.planted) == ROWS // 100
    assert len(run.planted & top) >= 0.8 * len(run.planted)
    # Rows of the same words that are right are not what is looked for.
    scores = {one.row: one.score for one in found.rows}
    assert max(scores[row] for row in run.alike) < min(scores[row] for row in run.planted)


@pytest.mark.proof  # two trainings, and their evaluations
def test_planted_rows_come_out_on_top_of_what_was_measured(project):
    clean = poisoned.run_of(project, 600, poison=False, measured=True, epochs=5)
    run = poisoned.run_of(project, 600, measured=True, epochs=5)
    found, _ = ranked(run.run_id, clean.run_id, limit=600, above=-1.0, rows=600)
    assert found.against == "clean"
    assert found.lost >= 4
    top = {one.row for one in found.rows[:12]}
    assert len(run.planted & top) >= 0.8 * len(run.planted)


def test_the_command_lists_keeps_and_drops(run, tmp_path, monkeypatch):
    monkeypatch.setattr("flows.local.configure", lambda: None)  # it would change this process
    out = tmp_path / "without.jsonl"
    limits = ["--limit", "3", "--rows", "120"]
    command = ["suspects", run.run_id, "--against", "base", *limits, "--drop", str(out)]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    path = client().download_artifacts(run.run_id, "suspects.json", str(tmp_path))
    kept = json.loads(Path(path).read_text())
    # By their digests, the same rows each time; some poisoned ones may not be among these.
    assert kept["compared"] == 120
    rows = [one["row"] for one in kept["rows"]]
    assert 1 <= len(rows) <= 3
    assert str(rows[0]) in done.stdout
    total = ROWS + 16
    assert f"{total - len(rows)} rows, without the {len(rows)} suspects" in done.stderr
    assert len(out.read_text().splitlines()) == total - len(rows)
    again = CliRunner().invoke(app, command)
    assert "is there already; name a new file" in str(again.exception)


@pytest.mark.parametrize(
    ("against", "words"),
    [
        ("champion", "was not compared with a champion"),
        ("other", "were asked no example in common"),
        ("same", "lost none of 8 examples"),
    ],
)
def test_a_run_without_anything_lost_says_so(run, against, words, tmp_path):
    other = _another_run(tmp_path) if against == "other" else against
    with pytest.raises(NoSuspects, match=words):
        ranked(run.run_id, run.run_id if against == "same" else other, 5, 0.1, 10)


def test_a_run_whose_folder_is_elsewhere_says_so(run, tmp_path, monkeypatch):
    monkeypatch.setenv("RETUNE_WORK", str(tmp_path))
    with pytest.raises(NoSuspects, match="output of validate of poisoned is not on this machine"):
        ranked(run.run_id, "", 5, 0.1, 10)


def _another_run(folder) -> str:
    recipe = {"name": "other", "model": {"base": "a/b"}, "dataset": {"source": "c/d"}}
    line = outcome("tuned", [{"role": "user", "content": "?"}], "yes", {"exact_match": 1.0})
    with start_run(Recipe.parse(recipe), "other", {}) as run:
        write_outcomes(folder / "outcomes.parquet", [line])
        run.log_files(folder, ("outcomes.parquet",), "evaluate")
    return run.id


def table(lines, folder):
    write_outcomes(folder / "table.parquet", lines)
    return pl.read_parquet(folder / "table.parquet")


def test_what_counts_as_lost(tmp_path):
    def asked(number, side, answer, grades):
        return outcome(side, [{"role": "user", "content": f"q{number}"}], answer, grades)

    mine, others = [], []
    losses = {0: 1.0, 1: 1.05, 2: 1.5, 3: 0.5, 4: float("nan")}  # the other's is 1
    for number, loss in losses.items():
        mine.append(asked(number, "tuned", None, {LOSS: loss}))
        others.append(asked(number, "champion", None, {LOSS: 1.0}))
    rights = {10: (1, 1), 11: (0, 1), 12: (1, 0), 13: (0, 0)}  # mine, the other's
    for number, (of_mine, of_other) in rights.items():
        mine.append(asked(number, "tuned", f"mine {number}", {"exact_match": of_mine}))
        others.append(asked(number, "champion", f"other {number}", {"exact_match": of_other}))
    others.append(asked(11, "tuned", "another side", {"exact_match": 0.0}))
    lost = lost_examples(table(mine, tmp_path), table(others, tmp_path), "champion")
    assert lost.losses == [mine[2].example]
    assert [(one.right, one.wrong) for one in lost.answers] == [("other 11", "mine 11")]
    assert lost.common == 9


def test_of_many_that_were_lost_the_worst_count(tmp_path):
    questions = [[{"role": "user", "content": f"q{n}"}] for n in range(MOST_EXAMPLES + 10)]
    mine = [outcome("tuned", q, None, {LOSS: 2 + n / 100}) for n, q in enumerate(questions)]
    others = [outcome("base", q, None, {LOSS: 1.0}) for q in questions]
    lost = lost_examples(table(mine, tmp_path), table(others, tmp_path), "base")
    assert lost.losses == [one.example for one in reversed(mine[10:])]


def test_what_is_written_without_rows_is_read_back(tmp_path):
    turns = [("user", "who?"), ("assistant", "wrong"), ("user", "no")]
    turns.append(("assistant", f"ja ü {SECRET}"))
    messages = [
        {"role": role, "content": text, "learn": False if text == "wrong" else None}
        for role, text in turns
    ]
    rows = [
        {"row": number, "messages": messages, "source": f"s{number}", "score": score}
        for number, score in enumerate((3.5, None, 1.0))
    ]
    pl.DataFrame(rows, schema=SCHEMA).write_parquet(tmp_path / "rows.parquet")
    out = tmp_path / "out.jsonl"
    assert write_without(tmp_path / "rows.parquet", {1}, out) == 2
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    read = from_rows(lines, "file").to_pylist()
    assert [row["source"] for row in read] == ["s0", "s2"]
    assert [row["score"] for row in read] == [3.5, 1.0]
    assert all(row["problem"] is None for row in read)
    assert [row["messages"] for row in read] == [messages, messages]
    with pytest.raises(FileExistsError):
        write_without(tmp_path / "rows.parquet", set(), out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "rows.parquet"]
