"""A report replaces an earlier one, whole, and touches nothing else."""

import json
import os
import shutil
from pathlib import Path

import pytest

from expectations.data.evidence import NO_REFERENCE
from expectations.data.messages import Rules
from expectations.data.profile.looks import PROFILE, stored
from retune.building import OutputBusy
from retune.home import MARKER, NotOurs
from retune.recipe import Validation
from retune.report_folder import (
    PARTIAL,
    REPORT,
    Listing,
    replacing,
    report_folder,
    require_ours,
)
from tasks.validate.gate import gate
from tests.expectations import test_features as some


def write(folder: Path, *names: str, text: str = "", of: str = "data.jsonl") -> None:
    with replacing(folder, of) as new:
        for name in names:
            (new / name).parent.mkdir(exist_ok=True)
            (new / name).write_text(text)


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")} - {MARKER}


def test_the_new_report_replaces_the_old_one(tmp_path):
    folder = tmp_path / "report"
    write(folder, "report.json", "data_docs/index.html", "reasons.png", text="1")
    write(folder, "report.json", "scores.png", text="2")
    assert tree(folder) == {"report.json", "scores.png"}
    assert (folder / "report.json").read_text() == "2"


def test_a_marker_that_came_with_a_folder_names_only_what_a_report_may_hold(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    (tmp_path / MARKER).write_text(
        Listing(of="x", files=frozenset({"thesis.tex"})).model_dump_json()
    )
    with pytest.raises(NotOurs, match=r"holds 'thesis\.tex', which is not of retune's report"):
        write(tmp_path, "report.json")
    assert (tmp_path / "thesis.tex").read_text() == "x"


def test_a_report_may_hold_every_file_that_the_gate_writes(tmp_path):
    rows = some.write(tmp_path, *[[some.Q, ("assistant", some.prose(n, 9))] for n in range(20)])
    rules = Rules(Validation(quarantine_rows="whole", repairs=["trim_ends"]))
    reference = NO_REFERENCE
    for _ in range(3):
        with replacing(tmp_path / "report", "data.jsonl") as new:
            gate(rows, rules, new, reference)
        profile = stored(json.loads((tmp_path / "report" / PROFILE).read_text()))
        reference = NO_REFERENCE._replace(profile=profile)
    files = {path for path in (tmp_path / "report").rglob("*") if path.is_file()}
    assert {str(path.relative_to(tmp_path / "report")) for path in files} == {*REPORT, MARKER}


def test_an_empty_folder_may_be_used_and_stays_itself(tmp_path):
    """It may be where a container's volume is mounted, which can be neither moved nor removed."""
    before = tmp_path.stat().st_ino
    write(tmp_path, "report.json")
    assert tree(tmp_path) == {"report.json"}
    assert tmp_path.stat().st_ino == before


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: (folder / "thesis.tex").write_text("x"),
        lambda folder: (
            (folder / ".git" / "objects").mkdir(parents=True)
            or (folder / ".git" / "objects" / "x").touch()
        ),
        lambda folder: (folder / "link").symlink_to(folder.parent),
    ],
    ids=["a file", "a hidden one", "a link"],
)
def test_a_folder_with_anything_else_is_refused(tmp_path, make):
    make(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(NotOurs, match="is not empty and no report of retune's; name a new"):
        write(tmp_path, "report.json")
    assert tree(tmp_path) == before
    assert not (tmp_path / MARKER).exists()


def test_what_was_laid_into_a_report_is_not_lost(tmp_path):
    write(tmp_path, "report.json", "data_docs/index.html")
    (tmp_path / "data_docs" / "remarks.txt").write_text("mine")
    with pytest.raises(NotOurs, match=r"holds 'data_docs/remarks\.txt', which is not of"):
        write(tmp_path, "report.json")
    assert tree(tmp_path) == {
        "report.json",
        "data_docs",
        "data_docs/index.html",
        "data_docs/remarks.txt",
    }


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotOurs, match="is not a folder"):
        write(tmp_path / "file", "report.json")
    assert (tmp_path / "file").read_text() == "mine"


def test_until_it_is_whole_the_old_report_stays(tmp_path):
    folder = tmp_path / "report"
    write(folder, "report.json", text="old")
    with pytest.raises(ZeroDivisionError), replacing(folder, "data.jsonl") as new:
        (new / "report.json").write_text("half")
        assert (folder / "report.json").read_text() == "old"
        raise ZeroDivisionError
    assert tree(folder) == {"report.json"}
    assert (folder / "report.json").read_text() == "old"


@pytest.mark.parametrize("there", [True, False])
def test_a_failure_leaves_a_folder_as_it_was(tmp_path, there):
    folder = tmp_path / "report"
    if there:
        folder.mkdir()
    with pytest.raises(ZeroDivisionError), replacing(folder, "data.jsonl"):
        raise ZeroDivisionError
    assert folder.exists() == there
    assert not there or not any(folder.iterdir())


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    write(tmp_path, "report.json", "reasons.png")
    (tmp_path / PARTIAL).mkdir()
    (tmp_path / PARTIAL / "report.json").touch()
    write(tmp_path, "report.json")
    assert tree(tmp_path) == {"report.json"}


def test_two_do_not_write_at_once(tmp_path):
    with (
        replacing(tmp_path, "data.jsonl") as new,
        pytest.raises(OutputBusy, match="wait for it"),
        replacing(tmp_path, "data.jsonl"),
    ):
        pass
    assert not new.exists()


@pytest.mark.parametrize("name", ["../mine", "way/mine", "way"])
def test_a_marker_from_a_stranger_opens_nothing(tmp_path, name):
    """A cloned repository may bring a folder with a marker in it."""
    folder, mine = tmp_path / "report", tmp_path / "mine"
    folder.mkdir()
    mine.write_text("mine")
    if name != "../mine":
        (folder / "way").symlink_to(tmp_path)
    listed = Listing(of="x", files=frozenset([name, "way/report.json"]))
    (folder / MARKER).write_text(listed.model_dump_json())
    if name == "../mine":
        write(folder, "report.json")
    else:
        with pytest.raises(NotOurs, match="holds 'way'"):
            write(folder, "way/report.json")
    assert mine.read_text() == "mine"
    assert not (tmp_path / "report.json").exists()


@pytest.mark.parametrize("text", ["", "[]", '{"files": 7}', "\0"])
def test_a_damaged_marker_makes_the_folder_nobodys(tmp_path, text):
    write(tmp_path, "report.json")
    (tmp_path / MARKER).write_text(text)
    with pytest.raises(NotOurs, match=r"report\.json"):
        require_ours(tmp_path)


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ("good.jsonl", "good"),
        ("a/good.jsonl", "good"),
        ("...jsonl", "dataset"),
        ("....jsonl", "dataset"),
        ("a/../..jsonl", "dataset"),
        ("-x.jsonl", "x"),
        ("a\nb.jsonl", "a-b"),
        ("Daten für März.jsonl", "Daten-für-März"),
        ("数据.jsonl", "数据"),
        ("x" * 250 + ".jsonl", "x" * 60),
        ("demo", "demo"),
    ],
)
def test_a_datasets_name_names_one_folder(tmp_path, monkeypatch, dataset, name):
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path))
    folder = report_folder(dataset)
    assert (folder.parent, folder.name) == (tmp_path / "validate", name)
    write(folder, "report.json", of=dataset)
    assert report_folder(dataset) == folder


def test_datasets_of_one_name_have_a_folder_each(tmp_path, monkeypatch):
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path))
    names = ["a/train.jsonl", "b/train.jsonl", "train.parquet", "train.jsonl"]
    for name in names:
        write(report_folder(name), "report.json", text=name, of=name)
    assert len(set(map(report_folder, names))) == len(names)
    for name in names:
        assert (report_folder(name) / "report.json").read_text() == name


def test_a_dataset_has_one_folder_however_it_is_written_and_whatever_goes(tmp_path, monkeypatch):
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("a/train.jsonl", "b/train.jsonl"):
        write(report_folder(name), "report.json", text=name, of=name)
    second = report_folder("b/train.jsonl")
    assert report_folder("a/../b/./train.jsonl") == report_folder(f"{tmp_path}/b/train.jsonl")
    shutil.rmtree(report_folder("a/train.jsonl"))
    assert report_folder("b/train.jsonl") == second
    assert (second / "report.json").read_text() == "b/train.jsonl"


def test_a_report_that_is_under_way_has_its_folder_already(tmp_path, monkeypatch):
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path))
    with replacing(report_folder("a/train.jsonl"), "a/train.jsonl"):
        other = report_folder("b/train.jsonl")
        assert other != report_folder("a/train.jsonl")
    assert report_folder("b/train.jsonl") == other


def test_a_folder_of_before_there_were_markers_is_passed_by(tmp_path, monkeypatch):
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path))
    (tmp_path / "validate" / "good").mkdir(parents=True)
    (tmp_path / "validate" / "good" / "report.json").touch()
    assert report_folder("good.jsonl").name.startswith("good-")
    assert os.listdir(tmp_path / "validate" / "good") == ["report.json"]  # noqa: PTH208
