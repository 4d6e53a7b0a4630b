"""What `retune gc --store` removes of the store, by the runs of an MLflow that all have in common."""

import os
import time

import pytest
from typer.testing import CliRunner

from flows.cli import app
from retune import retention, tracking
from retune.retention import Retention
from retune.store import cache, place, sharing
from retune.store.leftovers import OwnTracking, collect_from, inventory_of
from tests.databases import furnish_mlflow, working_in
from tests.retune.test_retention import retrain
from tests.retune.test_shared_checkpoints import write
from tests.retune.test_store import NAME, files_of, make

pytestmark = pytest.mark.usefixtures("obstore")

NOW = Retention(keep_runs=1, keep_days=0, checkpoint_days=7)


@pytest.fixture
def shared(tmp_path, monkeypatch):
    with working_in(monkeypatch, furnish_mlflow(tmp_path / "home")):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.tracking_uri())
        monkeypatch.setenv("RETUNE_STORE", (tmp_path / "store").as_uri())
        place._opened.cache_clear()
        sharing.known.clear()
        yield place.store()
    cache.let_go()
    place._opened.cache_clear()


def outputs(shared) -> set[str]:
    names = (one.name for one in shared.list(""))
    return {name.removesuffix("/output.json") for name in names if name.endswith("/output.json")}


def test_what_no_version_and_no_new_run_needs_goes(shared, tmp_path):
    version = retrain("a")
    make("of nobody")
    foreign = tmp_path / "store" / "notes" / "ours.txt"
    foreign.parent.mkdir()
    foreign.write_text("of somebody else")
    before = outputs(shared)
    assert [one.folder.as_posix() for one in inventory_of(shared, NOW).leftovers] == [NAME]
    assert outputs(shared) == before
    assert [one.folder.as_posix() for one in collect_from(shared, NOW)] == [NAME]
    assert outputs(shared) == before - {NAME}
    assert not files_of(tmp_path / "store" / NAME)
    assert foreign.read_text() == "of somebody else"
    assert f"train/{version.tags['retune.adapter']}" in before


def test_checkpoints_stay_until_their_days_are_over(shared, tmp_path):
    folder = tmp_path / "store" / "partial" / "train" / ("0" * 16)
    folder.mkdir(parents=True)
    write(folder, 3)
    assert not inventory_of(shared, NOW).leftovers
    for path in files_of(folder):
        os.utime(path, (time.time() - 8 * retention.DAY,) * 2)
    (one,) = inventory_of(shared, NOW).leftovers
    assert one.folder.as_posix() == f"partial/train/{'0' * 16}"
    assert "checkpoints of a training that did not end, 8.0 days old" in one.reason


def test_who_has_an_mlflow_of_its_own_removes_nothing_of_others(shared, monkeypatch):
    make("of others")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(OwnTracking, match="set MLFLOW_TRACKING_URI"):
        collect_from(shared, Retention(keep_runs=0, keep_days=0))
    assert outputs(shared)


def test_the_command_tells_and_removes_when_it_is_told_to(shared):
    make("of nobody")
    words = ["gc", "--store", "--keep-days", "0"]
    told = CliRunner().invoke(app, words)
    assert "Nothing was removed; --delete does it." in told.output, told.output
    assert outputs(shared) == {NAME}
    told = CliRunner().invoke(app, [*words, "--delete"])
    assert "Removed 1 folders" in told.output, told.output
    assert outputs(shared) == set()


def test_without_a_store_it_is_a_sentence(shared, monkeypatch):
    monkeypatch.delenv("RETUNE_STORE")
    told = CliRunner().invoke(app, ["gc", "--store"])
    assert told.exit_code
    assert "RETUNE_STORE names none" in told.output + str(told.exception)
