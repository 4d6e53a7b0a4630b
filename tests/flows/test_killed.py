"""`kill -9` of the whole run, twice: the third run ends what the first began, in one MLflow run."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.flows.test_line import RETUNE, Project
from tests.tasks.conftest import read_json_lines

STEPS = 12
SETTINGS = {
    "training.backend": "trl",
    "training.max_steps": STEPS,
    "training.checkpoint_steps": 2,
    "merging.save_method": "lora",
}
PATIENCE = 240  # seconds until a run must have come to where it is killed


def command() -> list[str]:
    changes = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
    return [str(RETUNE), "run", "recipe.yaml", *changes]


def kill_when(project: Project, reached: Callable[[], bool]) -> None:
    output = project.folder / "output.txt"
    with output.open("w") as file:
        process = subprocess.Popen(
            command(),
            cwd=project.folder,
            env=project.environment(),
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    until = time.monotonic() + PATIENCE
    while not reached():
        assert process.poll() is None, f"it ended before it was killed: {output.read_text()}"
        assert time.monotonic() < until, "the run never came to where it is killed"
        time.sleep(0.02)
    process.kill()
    process.wait()


@pytest.mark.proof
@pytest.mark.timeout(600)
def test_a_run_that_is_killed_twice_loses_nothing(tmp_path):
    project = Project(tmp_path)
    work = tmp_path / ".retune" / "work"

    def log() -> list[dict]:
        return [row for path in work.glob("train/*/training_log.jsonl") for row in rows(path)]

    kill_when(project, lambda: len(log()) >= 5)
    kill_when(project, lambda: any(work.glob("evaluate/*.partial")))
    trained = log()
    done = subprocess.run(
        command(), cwd=tmp_path, env=project.environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert log() == trained  # the third run did not train again
    client, run, _ = project.newest_mlflow_run()
    assert len(client.search_runs([run.info.experiment_id])) == 1
    assert run.info.status == "FINISHED"
    history = sorted(client.get_metric_history(run.info.run_id, "train/loss"), key=lambda m: m.step)
    curve = {metric.step: metric.value for metric in history if metric.step}
    assert list(curve) == list(range(1, STEPS + 1))
    assert len(history) == STEPS  # none is there twice
    assert list(curve.values()) == pytest.approx([r["train/loss"] for r in trained], rel=1e-4)


def rows(log: Path) -> list[dict]:
    """Return the rows of a training log that may be written, moved or cut at this moment."""
    try:
        return read_json_lines(log)
    except (ValueError, OSError):
        return []
