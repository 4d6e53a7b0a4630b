"""A home folder can be moved or copied: its runs' files open, and nothing goes to the former one."""

import json
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from retune import moved_home, tracking
from retune.home import BadName, own_home
from retune.recipe import Recipe
from retune.serving import serve, serves_here
from tests.candidates import registered
from tests.databases import furnish_mlflow

ODD = "a'b\"c#d %41 {ü};&$~]"


def open_home(folder: Path, monkeypatch) -> None:
    monkeypatch.setenv("RETUNE_HOME", str(folder))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracking.client.cache_clear()


@pytest.fixture
def recipe():
    return Recipe.parse({"name": "sums", "model": {"base": "a/b"}, "dataset": {"source": "c/d"}})


@pytest.fixture
def run(tmp_path, monkeypatch, recipe) -> str:
    """A run with a file in the home `first`, whose candidate is registered there."""
    open_home(furnish_mlflow(tmp_path / "first"), monkeypatch)
    with tracking.start_run(recipe, "one", {}) as run:
        run.log_texts({"note.txt": "hello"}, "notes")
    serve(registered(recipe, "1"), set())
    yield run.id
    tracking.client.cache_clear()


def text_of(run: str, target: Path) -> str:
    target.mkdir()
    path = tracking.download(run, "notes/note.txt", target)
    assert path, "it is an artifact of the run"
    return path.read_text()


def new_run(recipe: Recipe, text: str) -> str:
    with tracking.start_run(recipe, "two", {}) as run:
        run.log_texts({"note.txt": text}, "notes")
    return run.id


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def mentions(database: Path, text: str) -> set[str]:
    """Return each column in which a database has a text anywhere."""
    with closing(sqlite3.connect(database)) as connection:
        tables = connection.execute("select name from sqlite_master where type = 'table'")
        return {
            f"{table}.{column[1]}"
            for (table,) in tables.fetchall()
            for column in connection.execute(f'pragma table_info("{table}")').fetchall()
            if connection.execute(
                f'select 1 from "{table}" where instr(cast("{column[1]}" as text), ?)', [text]
            ).fetchone()
        }


@pytest.mark.parametrize(
    ("move", "name", "noted"),
    [(shutil.move, ODD, True), (shutil.copytree, "second", True), (shutil.copytree, ODD, False)],
)
def test_a_home_can_be_moved_and_copied(tmp_path, monkeypatch, recipe, run, move, name, noted):
    first, second = tmp_path / "first", tmp_path / name
    moved_home.settle()
    if not noted:  # a home of before there were notes
        (first / moved_home.NOTE).unlink()
    assert "runs.artifact_uri" in mentions(first / "mlflow.db", first.as_uri())
    move(first, second)
    before = files(first)
    open_home(second, monkeypatch)
    assert text_of(run, tmp_path / "old") == "hello"
    fresh = new_run(recipe, "anew")
    assert text_of(fresh, tmp_path / "new") == "anew"
    assert next(second.rglob(f"{fresh}/**/note.txt")).read_text() == "anew"
    assert serves_here("sums")
    serve(registered(recipe, "2"), set())
    assert files(first) == before
    assert mentions(second / "mlflow.db", f"{first.as_uri()}/") == set()


def test_a_home_moves_again_and_the_former_one_may_be_gone_or_read_only(
    tmp_path, monkeypatch, recipe, run
):
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    shutil.copytree(first, second)
    os.chmod(first, 0o500)  # noqa: PTH101
    open_home(second, monkeypatch)
    fresh = new_run(recipe, "anew")
    shutil.move(second, third)
    os.chmod(first, 0o700)  # noqa: PTH101
    shutil.rmtree(first)
    open_home(third, monkeypatch)
    assert [text_of(run, tmp_path / "a"), text_of(fresh, tmp_path / "b")] == ["hello", "anew"]
    assert json.loads((third / moved_home.NOTE).read_text()) == {"paths": [str(third)]}
    assert moved_home.settle() == []


def test_a_link_is_another_name_of_a_home_until_it_is_gone(tmp_path, monkeypatch, recipe, run):
    first, link = tmp_path / "first", tmp_path / "link"
    link.symlink_to(first)
    moved_home.settle()
    open_home(link, monkeypatch)
    assert moved_home.settle() == []
    fresh = new_run(recipe, "anew")
    link.unlink()
    open_home(first, monkeypatch)
    assert moved_home.settle() == [link]
    assert text_of(fresh, tmp_path / "a") == "anew"


def test_files_that_were_left_behind_are_read_where_they_are(tmp_path, monkeypatch, recipe, run):
    """As those of a run that a copied home wrote into the former one, before homes had a note."""
    first, second = tmp_path / "first", tmp_path / "second"
    shutil.copytree(first, second)
    shutil.rmtree(second / "mlartifacts" / run)
    open_home(second, monkeypatch)
    assert text_of(run, tmp_path / "a") == "hello"
    fresh = new_run(recipe, "anew")
    assert (second / "mlartifacts" / fresh).is_dir()


def test_a_database_without_its_artifacts_is_refused_in_a_sentence(tmp_path, monkeypatch, run):
    furnish_mlflow(tmp_path / "second")
    shutil.copy(tmp_path / "first" / "mlflow.db", tmp_path / "second")
    open_home(tmp_path / "second", monkeypatch)
    with pytest.raises(moved_home.HomeIncomplete, match=r"copy \S+/first/mlartifacts to"):
        tracking.client()
    (tmp_path / "second" / "mlartifacts").mkdir()
    assert tracking.client().get_run(run).info.status == "FINISHED"


def test_artifacts_that_lie_elsewhere_on_purpose_stay(tmp_path, monkeypatch, run):
    shared = tmp_path / "share" / "mlartifacts"
    shared.mkdir(parents=True)
    place = tracking.client().create_experiment("other", artifact_location=shared.as_uri())
    shutil.move(tmp_path / "first", tmp_path / "second")
    open_home(tmp_path / "second", monkeypatch)
    assert tracking.client().get_experiment(place).artifact_location == shared.as_uri()


@pytest.mark.parametrize("character", ["[", "*", "?", "\n", "\udc80"])
def test_a_home_whose_name_would_be_misread_is_refused(tmp_path, monkeypatch, character):
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path / f"a{character}b]"))
    with pytest.raises(BadName, match=r"RETUNE_HOME: '(\S|\\n)+' stands in .* name a folder"):
        own_home()
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path / ODD))
    assert own_home() == tmp_path / ODD
    monkeypatch.setenv("RETUNE_WORK", str(tmp_path / f"a{character}b"))
    with pytest.raises(BadName, match="RETUNE_WORK"):
        own_home()
