"""The files of suites: pinned by content, checked before anything is downloaded, held while read."""

import json
import threading

import pytest

from retune.pinning import pin_all, resolved
from retune.recipe import ProbeFile, Recipe, RecipeError
from retune.records import Pins
from retune.sources import SourceError
from retune.suites.files import pin_suites, suites
from tests.retune.test_downloads import Website

LINE = json.dumps(
    {"messages": [{"role": "user", "content": "2 + 2"}], "grade": {"type": "number", "value": 4}}
)


def recipe(*files: dict, **evaluation) -> Recipe:
    sections = {"evaluation": {"suites": files, "battery": False} | evaluation}
    values = {"name": "r", "model": {"base": "b"}, "dataset": {"source": "nothing.jsonl"}}
    return Recipe.parse(values | sections)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "sums.jsonl"
    path.write_text(LINE)
    return path


def pinned(of: Recipe) -> Pins:
    return Pins(dataset="d", model="m", suites=pin_suites(of))


def test_a_suite_is_pinned_by_its_content(file):
    given = recipe({"name": "sums", "path": str(file)})
    pins = pinned(given)
    assert pins.named()["suite.0"] == pins.suites[0]
    assert pins.suites[0].startswith("sha256:")
    (probe,) = suites(given, pins)["sums"]
    assert probe.chat[0]["content"] == "2 + 2"
    again = resolved(given, pins)
    assert again.evaluation.suites[0].revision == pins.suites[0]
    assert pin_suites(again) == pins.suites
    file.write_text(LINE.replace("2 + 2", "1 + 3"))
    with pytest.raises(SourceError, match=r"suites\.0\.path: .* is not sha256:.* any more"):
        pin_suites(again)


def test_a_file_that_changed_meanwhile_is_refused(file):
    given = recipe({"name": "sums", "path": str(file)})
    pins = pinned(given)
    file.write_text(LINE.replace("4", "5"))
    with pytest.raises(SourceError, match=r"suites\.0\.path: .* changed while the run"):
        suites(given, pins)
    file.unlink()
    with pytest.raises(SourceError, match=r"suites\.0\.path"):
        suites(given, pins)


def test_what_is_no_suite_is_told_before_anything_is_asked_for(file):
    """Neither the dataset nor the model of this recipe is there."""
    file.write_text(f"{LINE}\n{{}}")
    with pytest.raises(SourceError, match=r"suites\.0\.path: .*\n.*line 2: messages is missing"):
        pin_all(recipe({"name": "sums", "path": str(file)}))
    with pytest.raises(SourceError, match=r"suites\.1\.path: no file is at"):
        file.write_text(LINE)
        pin_all(recipe({"name": "a", "path": str(file)}, {"name": "b", "path": "org/suite"}))


@pytest.mark.parametrize("name", ["battery", "held_out", "tuned", "twice"])
def test_a_name_is_of_one_suite(file, name):
    files = [{"name": one, "path": str(file)} for one in (name, "twice")]
    with pytest.raises(RecipeError, match=r"suites\.\d\.name: .* is taken"):
        recipe(*files)


@pytest.mark.parametrize(
    "wrong", [{"name": "A b"}, {"path": ""}, {"revision": "main"}, {"path": "http://example.org/s"}]
)
def test_a_suite_that_cannot_be_is_refused(file, wrong):
    with pytest.raises(RecipeError, match=r"evaluation\.suites\.0\."):
        recipe({"name": "sums", "path": str(file)} | wrong)


def test_a_suite_at_an_address_is_copied_and_the_copy_is_what_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path / "home"))
    server = Website()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        server.pages["/sums.jsonl"] = (200, {}, LINE.encode())
        given = recipe({"name": "sums", "path": f"{server.url}/sums.jsonl"})
        pins = pinned(given)
        server.pages.clear()
        assert len(suites(given, pins)["sums"]) == 1
        missing = recipe({"name": "none", "path": f"{server.url}/none.jsonl"})
        with pytest.raises(SourceError, match=r"evaluation\.suites\.0\.path: .*none\.jsonl"):
            pin_suites(missing)
    finally:
        server.shutdown()
        server.server_close()


def test_the_battery_is_a_suite_unless_it_is_switched_off():
    pins = Pins(dataset="d", model="m")
    assert list(suites(recipe(battery=True, battery_rows=8), pins)) == ["battery"]
    assert suites(recipe(), pins) == {}
    assert ProbeFile(name="s", path="p").max_new_tokens is None
