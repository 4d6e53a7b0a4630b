"""What `retune gc` removes, and what it never does, in a real MLflow store."""

import os
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from retune import registry, retention, tracking
from retune.building import building
from retune.files import size
from retune.home import work
from retune.outputs import Step
from retune.recipe import Recipe
from retune.retention import Retention, collect, inventory
from retune.store import cache
from tests.candidates import EVIDENCE, PINS, candidate
from tests.databases import furnish_mlflow, working_in

NOW = Retention(keep_runs=2, keep_days=0, checkpoint_days=7)
RECIPE = Recipe.parse({"name": "sums", "model": {"base": "a/b"}, "dataset": {"source": "c/d"}})


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    with working_in(monkeypatch, furnish_mlflow(tmp_path)):
        yield


def retrain(key: str, promote: bool = True) -> registry.RegisteredVersion:
    """Do what a run leaves behind: outputs, tags, a version that serves from then on."""
    parts = candidate(key, weights=key * 50_000)
    with tracking.start_run(RECIPE, f"run {key}", {}) as run:
        for output in (parts.rows, parts.adapter, parts.scores):
            run.log(output)
        for file in parts.files:
            run.log_child(file, file.method)
        version = registry.register_candidate(run, RECIPE, PINS, parts)
    if promote:
        serving = registry.champion(RECIPE.name)
        registry.promote(
            RECIPE.name, version.number, "test", key, EVIDENCE, serving and serving.version
        )
    return version


def names() -> set[str]:
    return {f"{path.parent.name}/{path.name}" for path in work().glob("*/*") if path.is_dir()}


def old(folder: Path, days: float) -> None:
    then = time.time() - days * retention.DAY
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (then, then))


@pytest.mark.parametrize("count", [4, pytest.param(10, marks=pytest.mark.proof)])
def test_retrains_grow_the_disk_by_what_retention_says(count):
    sizes = []
    for number in range(count):
        retrain(str(number))
        collect(inventory(NOW).leftovers, NOW)
        sizes.append(size(work()))
    # Champion and previous are the two newest runs: the third retrain is the last that adds anything.
    assert sizes[1] > 1.5 * sizes[0]
    assert max(sizes[2:]) <= 1.02 * sizes[1]
    for version in registry.versions(RECIPE.name)[-2:]:
        assert version.aliases
        assert f"train/{version.tags['retune.adapter']}" in names()


def test_a_dry_run_removes_nothing_and_says_why():
    for key in "abcde":
        retrain(key)
    before = names()
    there = inventory(NOW)
    assert names() == before
    assert {one.folder.parent.name for one in there.leftovers} == {"train", "evaluate", "quantize"}
    assert all("none of the 2 newest runs needs it" in one.reason for one in there.leftovers)
    assert there.freed == sum(one.bytes for one in there.leftovers) >= 3 * 50_000
    assert inventory(Retention(keep_days=1)).leftovers == ()


def test_what_an_alias_names_stays_however_old_it_is():
    first = retrain("first")
    second = retrain("second")
    for key in ("x1", "x2", "x3"):
        retrain(key, promote=False)  # the newest one is the challenger
    collect(inventory(NOW).leftovers, NOW)
    for version in (first, second, registry.versions(RECIPE.name)[-1]):
        assert f"train/{version.tags['retune.adapter']}" in names()
        assert f"evaluate/{version.tags['retune.evaluate']}" in names()
    gone = registry.versions(RECIPE.name)[2]
    assert f"train/{gone.tags['retune.adapter']}" not in names()


def test_an_open_run_keeps_what_it_is_going_to_reuse():
    version = retrain("old")
    for key in "abc":
        retrain(key)
    step = f"train/{version.tags['retune.adapter']}"
    with tracking.start_run(RECIPE, "open", {retention.PLANNED: f"merge/0,{step}"}):
        collect(inventory(NOW).leftovers, NOW)
        assert step in names()
    leftovers = inventory(NOW).leftovers
    assert step not in {f"{one.folder.parent.name}/{one.folder.name}" for one in leftovers}
    for key in "de":  # that run was one of the two newest
        retrain(key)
    collect(inventory(NOW).leftovers, NOW)
    assert step not in names()


def test_a_run_that_failed_last_may_be_run_again():
    version = retrain("old")
    for key in "abc":
        retrain(key)
    step = f"train/{version.tags['retune.adapter']}"
    with (
        pytest.raises(RuntimeError),
        tracking.start_run(RECIPE, "failed", {retention.PLANNED: step}),
    ):
        raise RuntimeError
    collect(inventory(NOW).leftovers, NOW)
    assert step in names()
    later = NOW.model_copy(update={"checkpoint_days": 0})
    collect(inventory(later).leftovers, later)
    assert step not in names()


def test_checkpoints_expire_and_what_is_built_stays():
    step = Step(stage="train", key={"k": "broken"})
    with pytest.raises(RuntimeError), building(step, keep_partial=True) as build:
        (build.path / "checkpoints").mkdir()
        (build.path / "checkpoints" / "state.pt").write_bytes(b"0" * 10_000)
        old(build.path, 30)
        assert inventory(NOW).leftovers == ()  # its lock is held
        raise RuntimeError
    partial = step.folder.with_name(step.folder.name + ".partial")
    old(partial, 3)
    (kept,) = inventory(NOW).kept
    assert kept.reason == "checkpoints to go on from (3.0 of 7 days)"
    old(partial, 8)
    (leftover,) = inventory(NOW).leftovers
    assert leftover.reason == "checkpoints of a training that did not end, 8.0 days old"
    assert leftover.bytes >= 10_000
    assert collect([leftover], NOW) == [leftover]
    assert not partial.exists()


def test_what_a_process_uses_stays():
    for key in "abcd":
        retrain(key)
    leftovers = inventory(NOW).leftovers
    used = leftovers[0].folder
    cache.hold(used)
    assert used not in {one.folder for one in collect(leftovers, NOW)}
    assert used.is_dir()
    cache.let_go()
    assert used in {one.folder for one in collect(leftovers, NOW)}


def test_what_is_not_ours_is_not_looked_at(tmp_path):
    (tmp_path / "work" / "mine" / "0123456789abcdef").mkdir(parents=True)
    (tmp_path / "work" / "mine" / "0123456789abcdef" / "thesis.txt").write_text("mine")
    assert inventory(NOW) == ((), ())


def test_the_command_says_what_would_go_and_deletes_only_when_told(tmp_path):
    for key in "abcde":
        retrain(key)
    old_names = names()

    def gc(*options: str) -> str:
        done = CliRunner().invoke(app, ["gc", "--keep-runs", "2", "--keep-days", "0", *options])
        assert done.exit_code == 0, done.output
        return done.output

    said = gc()
    assert "can be freed" in said
    assert "stays: run 1 from the newest of sums" in said
    assert "Nothing was removed; --delete does it." in said
    assert names() == old_names
    assert "Removed 9 folders" in gc("--delete")
    assert len(names()) == len(old_names) - 9
