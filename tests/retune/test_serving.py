"""The folder of what serves: whole files of one version, whatever happens meanwhile."""

import json
import shutil
import threading

import pytest

from retune import registry, serving
from retune.home import home
from retune.recipe import Recipe
from tests.candidates import registered, served


@pytest.fixture
def recipe(client):
    return Recipe.parse({"name": "sums", "model": {"base": "a/b"}, "dataset": {"source": "c/d"}})


def names(name: str = "sums") -> set[str]:
    return {path.name for path in serving.folder_of(name).iterdir()}


@pytest.mark.parametrize("client", ["sqlite"], indirect=True)
class TestServing:
    def test_it_holds_the_files_and_the_modelfile_of_the_version(self, recipe):
        version = registered(recipe, "one", methods=("q4_k_m", "q8_0"))
        folder = serving.serve(version, set())
        assert folder == home() / "serving" / "sums"
        assert names() == {
            *("q4_k_m.gguf", "q4_k_m.Modelfile", "q8_0.gguf", "q8_0.Modelfile"),
            *("Modelfile", "serving.json"),
        }
        assert (folder / "Modelfile").read_text() == "FROM ./q4_k_m.gguf"
        made = next((home() / "work" / "quantize").glob("*/q8_0.gguf"))
        assert (folder / "q8_0.gguf").stat().st_ino == made.stat().st_ino  # takes no space
        assert json.loads((folder / "serving.json").read_text())["model"] == "sums/1"

    def test_a_reader_sees_one_version_or_the_other(self, recipe):
        versions = [registered(recipe, key) for key in ("one", "two")]
        folder = serving.serve(versions[0], {1, 2})
        seen, stop = set(), threading.Event()

        def read():
            while not stop.is_set():
                seen.add((folder / "q4_k_m.gguf").read_text())

        reader = threading.Thread(target=read)
        reader.start()
        for _ in range(20):
            for version in reversed(versions):
                serving.serve(version, {1, 2})
        stop.set()
        reader.join()
        assert seen == {"one q4_k_m", "two q4_k_m"}

    def test_what_served_before_stays_and_can_serve_again(self, recipe):
        one, two, three = (registered(recipe, key) for key in ("one", "two", "three"))
        for version in (one, two, three):
            serving.serve(version, {2, 3})
        shutil.rmtree(home() / "work" / "quantize")
        serving.serve(two, {2, 3})
        assert (serving.folder_of("sums") / "q4_k_m.gguf").read_text() == "two q4_k_m"
        with pytest.raises(serving.FilesGone, match=r"the files of sums/1 are gone: .*one|sums/1"):
            serving.serve(one, {1, 2})
        assert (serving.folder_of("sums") / "q4_k_m.gguf").read_text() == "two q4_k_m"

    def test_files_that_were_made_anew_replace_the_old_ones(self, recipe):
        serving.serve(registered(recipe, "one"), set())
        again = registered(recipe, "one", methods=("q8_0",))
        serving.serve(again, set())
        assert names() == {"q8_0.gguf", "q8_0.Modelfile", "Modelfile", "serving.json"}
        assert len(list((home() / "serving" / ".versions" / "sums").iterdir())) == 1

    def test_without_gguf_files_the_weights_serve(self, recipe):
        serving.serve(registered(recipe, "one", methods=()), set())
        assert names() == {"adapter", "serving.json"}
        weights = serving.folder_of("sums") / "adapter" / "adapter_model.safetensors"
        assert weights.read_text() == "one"

    def test_the_registry_is_what_it_follows(self, recipe):
        served(recipe, "one", "two")
        serving.serve(registry.serving("sums"), {1, 2})
        assert serving.serves_here("sums")
        assert not serving.serves_here("others")
