"""What is said of the estimates of ten runs is what these runs took, by numbers read from MLflow alone.

How far they were off is printed: on a machine that does other work besides, it says little.
"""

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from statistics import median

import pytest
import yaml

from tests.databases import furnish
from tests.flows.test_line import Project, sums

# The first has nothing to go by, the second not the time of what a champion takes besides.
RUNS = int(os.environ.get("RETUNE_ESTIMATE_RUNS", "12"))
ALONE, JUDGED = 2, 10
LENGTHS = ((300, 4), (400, 8), (350, 12), (450, 6))  # rows and steps, one after the other


def recipe(project: Project) -> None:
    """Let the project train an adapter and make no files of it."""
    settings = yaml.safe_load((project.folder / "recipe.yaml").read_text())
    settings["training"]["backend"] = "trl"
    settings["merging"] = {"save_method": "lora"}
    del settings["quantization"]
    # A random model that is trained for fewer steps is worse, and forgets this and that: no matter here.
    names = (
        "budget",
        "no_worse",
        "no_worse_slice",
        "win",
        "anchor",
        "anchor_slice",
        "anchor_answers",
    )
    gates = [f"promote.{name}" for name in names]
    settings["gates"] = {"severities": dict.fromkeys(gates, "warning")}
    (project.folder / "recipe.yaml").write_text(yaml.safe_dump(settings))


def kept(home: Path) -> list[tuple[float, float | None]]:
    """Return of each run, the newest first, what it took and what was expected, in seconds."""
    query = """
        select t.value, e.value from runs r
        join latest_metrics t on t.run_uuid = r.run_uuid and t.key = 'run/seconds'
        left join latest_metrics e on e.run_uuid = r.run_uuid and e.key = 'run/expected_seconds'
        order by r.start_time desc"""
    with closing(sqlite3.connect(home / "mlflow.db")) as database:
        return database.execute(query).fetchall()


@pytest.mark.proof
@pytest.mark.timeout(2400)
def test_the_error_of_ten_estimates_is_told_as_it_was(tmp_path):
    project, home = Project(tmp_path), furnish(tmp_path / ".retune")
    recipe(project)
    for number in range(RUNS):
        rows, steps = LENGTHS[number % len(LENGTHS)]
        project.write("good.jsonl", sums(rows + number))  # none as before: nothing is reused
        length = f"training.max_steps={steps}"
        done = project.retune("run", "recipe.yaml", "--set", length)
        assert done.returncode == 0, done.stdout + done.stderr
        assert ("This run takes about" in done.stderr + done.stdout) == (number > 0)

    told(project, home)


def told(project: Project, home: Path) -> None:
    """See that what is told of the estimates is what was kept of them, and print it."""
    runs = kept(home)
    assert len(runs) == RUNS
    assert [expected for _, expected in runs[-ALONE:]] == [None] * ALONE
    judged = [(taken, expected) for taken, expected in runs[:-ALONE] if expected][:JUDGED]
    assert len(judged) == min(JUDGED, RUNS - ALONE)
    error = median(abs(expected - taken) / taken for taken, expected in judged)

    shown = project.retune("plan", "recipe.yaml", "--set", "training.max_steps=5", COLUMNS="400")
    words = f"the last {len(judged)} estimates were {error:.0%} off in the median"
    assert words in shown.stdout, shown.stdout + shown.stderr
    recipes = json.loads(project.retune("status", "--json").stdout)["recipes"]
    (one,) = [one for one in recipes if one["recipe"] == "sums"]
    assert (one["estimates"], one["estimate_error"]) == (len(judged), pytest.approx(error))
    each = ", ".join(f"{expected:.0f} for {taken:.0f}" for taken, expected in judged)
    print(f"off by {error:.1%} in the median; seconds expected for those taken: {each}")
