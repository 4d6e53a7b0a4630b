"""What an output consists of is noted once, and read again only where nothing is noted."""

import json
from datetime import datetime, timedelta

import pytest

from retune.building import building
from retune.files import sha256, size
from retune.manifest import FileEntry, below, entry_of, manifest_of
from retune.outputs import Output, Step, read_output

STEP = Step(stage="train", key={"r": 16})
FILES = ["a/b", "a.b", "a b", "model/z/1", "model/z.1", "model/é", "top"]


@pytest.fixture
def made(tmp_path, monkeypatch):
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path))
    with building(STEP) as build:
        for number, name in enumerate(FILES):
            (build.path / name).parent.mkdir(parents=True, exist_ok=True)
            (build.path / name).write_text("x" * number)
        (build.path / ".lock").write_text("of the stage")
        build.finish(Output)
    return read_output(STEP, Output)


def test_every_file_is_listed_but_what_is_hidden_and_the_record_itself(made):
    assert set(made.manifest) == set(FILES)
    assert made.manifest["top"] == FileEntry(bytes=6, sha256=sha256(made.folder / "top"))


@pytest.mark.parametrize("name", ["model", "model/z", "a", "top"])
def test_a_folders_entry_is_what_reading_it_gives(made, name):
    path = made.folder / name
    expected = FileEntry(bytes=size(path), sha256=sha256(path))
    assert entry_of(made.manifest, name) == made.entry(name) == expected
    assert entry_of(made.manifest, "mod") is None


def test_names_mean_whole_parts_of_a_path(made):
    assert set(below(made.manifest, "a", "top")) == {"a/b", "top"}


def test_what_is_noted_is_not_read_again(made):
    before = made.entry("model")
    (made.folder / "model" / "z.1").write_text("yyyy")  # as long as before
    assert made.entry("model") == before


def test_a_file_of_another_size_is_read(made):
    (made.folder / "top").write_text("more than before")
    assert made.entry("top").sha256 == sha256(made.folder / "top") != made.manifest["top"].sha256


def test_an_output_of_before_there_were_manifests_is_read(made):
    record = made.folder / "output.json"
    fields = json.loads(record.read_text())
    del fields["manifest"]
    record.write_text(json.dumps(fields))
    old = read_output(STEP, Output)
    assert old.manifest == {}
    assert old.entry("model") == made.entry("model")


def test_what_was_hashed_while_it_was_written_is_not_read(tmp_path):
    (tmp_path / "weights").write_text("w")
    assert manifest_of(tmp_path, {"weights": "given"})["weights"].sha256 == "given"


def test_a_record_of_an_attempt_that_lost_its_process_is_none_of_the_files(tmp_path, monkeypatch):
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path))
    with pytest.raises(KeyboardInterrupt), building(STEP, keep_partial=True) as build:
        build.finish(Output)
        raise KeyboardInterrupt
    with building(STEP, keep_partial=True) as build:
        assert build.finish(Output).manifest == {}


def test_an_output_took_as_long_as_it_took_though_the_clock_was_set_meanwhile(
    tmp_path, monkeypatch
):
    class Set(datetime):
        @classmethod
        def now(cls, zone=None):
            return super().now(zone) - timedelta(hours=2)

    monkeypatch.setenv("RETUNE_HOME", str(tmp_path))
    with building(STEP) as build:
        monkeypatch.setattr("retune.building.datetime", Set)
        build.finish(Output)
    assert 0 <= read_output(STEP, Output).seconds < 60
