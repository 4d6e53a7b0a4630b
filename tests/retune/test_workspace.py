"""Outputs appear whole or not at all."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from retune.building import OutputBusy, building
from retune.disk_space import NoSpaceLeft
from retune.files import sha256
from retune.home import MARKER, NotOurs, make_home, mark, remove
from retune.outputs import Output, Step


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path))


STEP = Step(stage="train", key={"r": 16})


def test_a_finished_output_explains_itself():
    with building(STEP) as build:
        (build.path / "weights").write_text("w")
        assert not STEP.folder.exists()
        output = build.finish(Output, metrics={"loss": 1.0})
    assert (STEP.folder / "weights").read_text() == "w"
    assert Output.model_validate_json((STEP.folder / "output.json").read_text()) == output
    assert output.step.key == {"r": 16}


def test_a_failure_leaves_nothing():
    with pytest.raises(ZeroDivisionError), building(STEP) as build:
        (build.path / "half").write_text("")
        raise ZeroDivisionError
    assert not STEP.folder.exists()
    assert not list(STEP.folder.parent.glob("*.partial"))


def test_a_failure_leaves_its_logs_and_nothing_large():
    with pytest.raises(ZeroDivisionError), building(STEP) as build:
        (build.path / "merge.log").write_text("why")
        (build.path / "model").mkdir()
        (build.path / "model" / "weights").write_text("16 GB")
        raise ZeroDivisionError
    assert [path.name for path in build.path.iterdir()] == ["merge.log"]
    with building(STEP) as build:
        assert list(build.path.iterdir()) == []
        build.finish(Output)


def test_a_partial_output_can_be_continued():
    with pytest.raises(ZeroDivisionError), building(STEP, keep_partial=True) as build:
        (build.path / "checkpoint").write_text("7")
        raise ZeroDivisionError
    with building(STEP, keep_partial=True) as build:
        assert (build.path / "checkpoint").read_text() == "7"


def test_two_builders_of_one_output_do_not_mix():
    with building(STEP), pytest.raises(OutputBusy, match="wait for it"), building(STEP):
        pass


def test_a_killed_builder_blocks_nobody(tmp_path):
    code = (
        "import time; from retune.building import building; from retune.outputs import Step\n"
        "with building(Step(stage='train', key={'r': 16})): print('in', flush=True); time.sleep(60)"
    )
    environment = os.environ | {"RETUNE_HOME": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment
    ) as child:
        assert child.stdout.readline() == "in\n"
        child.send_signal(signal.SIGKILL)
    time.sleep(0.1)
    with building(STEP) as build:
        build.finish(Output)
    assert STEP.folder.is_dir()


def test_a_full_disk_is_one_clear_error():
    words = r"^no space left in .* set RETUNE_HOME"
    with pytest.raises(NoSpaceLeft, match=words) as told, building(STEP):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert told.value.errno == errno.ENOSPC  # for programs alone


def test_the_fingerprint_is_made_of_the_key():
    assert (
        Step(stage="a", key={"x": 1, "y": 2}).fingerprint
        == Step(stage="b", key={"y": 2, "x": 1}).fingerprint
    )
    assert Step(stage="a", key={"x": 1}).fingerprint != Step(stage="a", key={"x": 2}).fingerprint


def test_sha256_of_a_folder_sees_names_and_contents(tmp_path):
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "a").write_text("1")
    first = sha256(folder)
    (folder / "a").rename(folder / "b")
    assert sha256(folder) != first


class TestRemove:
    """Nothing goes that retune did not make."""

    def test_what_lies_in_a_marked_folder_goes(self, tmp_path):
        folder = mark(tmp_path / "made")
        (folder / "sub").mkdir()
        (folder / "sub" / "file").touch()
        remove(folder / "sub" / "file")
        assert not (folder / "sub" / "file").exists()
        remove(folder / "sub")
        remove(folder / "sub")  # it is gone already
        assert [path.name for path in folder.iterdir()] == [MARKER]
        remove(folder)
        assert not folder.exists()

    @pytest.mark.parametrize(
        "name", ["foreign", "foreign/file", "made/../foreign", "made/way/file"]
    )
    def test_other_things_stay(self, tmp_path, name):
        (tmp_path / "foreign").mkdir()
        (tmp_path / "foreign" / "file").touch()
        (mark(tmp_path / "made") / "way").symlink_to(tmp_path / "foreign")
        with pytest.raises(NotOurs, match="is not removed"):
            remove(tmp_path / name)
        assert (tmp_path / "foreign" / "file").is_file()

    def test_a_link_goes_and_what_it_leads_to_stays(self, tmp_path):
        (tmp_path / "foreign").mkdir()
        (tmp_path / "foreign" / "file").touch()
        link = mark(tmp_path / "made") / "way"
        link.symlink_to(tmp_path / "foreign")
        remove(link)
        assert not link.is_symlink()
        assert (tmp_path / "foreign" / "file").is_file()

    def test_a_link_is_not_a_folder_that_retune_made(self, tmp_path):
        made = mark(tmp_path / "made")
        (tmp_path / "link").symlink_to(made)
        with pytest.raises(NotOurs):
            remove(tmp_path / "link")
        assert made.is_dir()

    def test_a_home_folder_stays_though_it_be_marked(self, tmp_path, monkeypatch):
        user = mark(tmp_path / "me")
        monkeypatch.setenv("HOME", str(user))
        monkeypatch.setenv("RETUNE_HOME", str(user / "retune"))
        for path in (user, user / "retune" / "..", user / "retune"):
            (user / "retune").mkdir(exist_ok=True)
            with pytest.raises(NotOurs, match="holds more"):
                remove(path)

    def test_a_folder_with_other_things_is_not_marked(self, tmp_path):
        (tmp_path / "notes.txt").touch()
        with pytest.raises(NotOurs, match=r"holds 'notes\.txt', which retune did not make"):
            mark(tmp_path)


def test_a_stage_folder_of_something_else_is_left_alone(tmp_path):
    """RETUNE_HOME may be a project with a folder `work/train` of its own."""
    (STEP.folder.parent).mkdir(parents=True)
    (STEP.folder.parent / "thesis.tex").touch()
    with pytest.raises(NotOurs, match=r"thesis\.tex"), building(STEP):
        pass
    assert (STEP.folder.parent / "thesis.tex").exists()


def test_outputs_of_before_there_were_markers_are_retunes_own():
    partial = STEP.folder.with_name(STEP.folder.name + ".partial")
    (partial / "model").mkdir(parents=True)
    STEP.folder.mkdir()
    with building(STEP) as build:
        assert not any(build.path.iterdir())
        build.finish(Output)
    assert STEP.done


def test_the_work_folder_may_be_a_link_to_a_larger_disk(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "work").symlink_to(tmp_path / "disk")
    for _ in range(2):
        with building(STEP) as build:
            (build.path / "model").mkdir()
            build.finish(Output)
    assert (tmp_path / "disk" / STEP.name / "output.json").is_file()


def test_an_output_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    STEP.folder.parent.mkdir(parents=True)
    STEP.folder.symlink_to(tmp_path / "mine")
    with building(STEP) as build:
        build.finish(Output)
    assert (tmp_path / "mine" / "file").exists()
    assert not STEP.folder.is_symlink()


@pytest.mark.parametrize("stage", ["..", "a/b", "", "/tmp", "a b"])
def test_a_stage_names_one_folder(stage):
    with pytest.raises(ValueError, match="stage"):
        Step(stage=stage, key={})


class TestHome:
    @pytest.mark.parametrize("place", ["~", "~/..", "~/.", "link"])
    def test_it_is_not_the_users_own(self, tmp_path, monkeypatch, place):
        user = tmp_path / "me"
        user.mkdir()
        (tmp_path / "link").symlink_to(user)
        place = str(tmp_path / "link") if place == "link" else place.replace("~", str(user))
        monkeypatch.setenv("HOME", str(user))
        monkeypatch.setenv("RETUNE_HOME", place)
        with pytest.raises(NotOurs, match="name a folder for them alone"):
            make_home()
        with pytest.raises(NotOurs), building(STEP):
            pass
        assert not any(user.iterdir())

    def test_it_is_made_for_its_owner_alone(self, tmp_path, monkeypatch):
        monkeypatch.setenv("RETUNE_HOME", str(tmp_path / "new" / "home"))
        with building(STEP) as build:
            build.finish(Output)
        assert (tmp_path / "new" / "home").stat().st_mode & 0o777 == 0o700

    def test_one_that_is_there_keeps_its_permissions(self, tmp_path, monkeypatch):
        monkeypatch.setenv("RETUNE_HOME", str(tmp_path / "team"))
        (tmp_path / "team").mkdir()
        (tmp_path / "team").chmod(0o770)
        make_home()
        assert (tmp_path / "team").stat().st_mode & 0o777 == 0o770
