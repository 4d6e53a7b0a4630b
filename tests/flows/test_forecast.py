"""`retune plan` and the run's first task refuse a model before any of its weights is asked for."""

import json
from pathlib import Path

import pytest

from flows.disk import count_parameters
from flows.forecast import forecast
from retune import llamacpp
from retune.folders import ModelRefused
from retune.llamacpp import LlamaCpp
from retune.recipe import Recipe
from retune.recipe.methods import DEFAULT
from retune.records import Pins
from retune.sources import pin
from tasks.fetch.task import pin_inputs
from tests.retune.test_downloads import site  # noqa: F401
from tests.retune.test_inspection import BAD, CODE, files, written

try:
    llamacpp.locate()
except llamacpp.LlamaCppNotFound as missing:
    pytestmark = pytest.mark.skip(reason=str(missing))

REFUSED = ("a pickle", "an adapter", "its own code", "a shard above", "a kernel")


@pytest.fixture(autouse=True)
def at_home(monkeypatch, tmp_path):
    from prefect.logging import disable_run_logger

    monkeypatch.setenv("RETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with disable_run_logger():
        yield


def recipe(folder: Path, base: str, **model) -> Recipe:
    (folder / "rows.jsonl").write_text(json.dumps({"messages": []}))
    source = {"source": str(folder / "rows.jsonl")}
    return Recipe.parse({"name": "r", "model": {"base": base, **model}, "dataset": source})


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("where", ["folder", "hub"])
def test_plan_and_run_refuse_alike(hub, tmp_path, case, where):
    made, words = BAD[case]
    hub.add_model("them/base", made)
    base = "them/base" if where == "hub" else str(written(tmp_path / "base", made))
    asked = recipe(tmp_path, base)
    for look in (forecast, pin_inputs.fn):
        with pytest.raises(ModelRefused, match=r"^model\.base: ") as error:
            look(asked)
        assert words in str(error.value)
    assert not (tmp_path / "home" / "work").exists()
    assert not [path for path in hub.requests if path.endswith((".safetensors", ".bin", ".py"))]


def weights(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


def test_a_plan_shows_whose_code_would_run_and_what_depends_on_it(tmp_path):
    shape = json.dumps({"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}).encode()
    made = files({"model_type": "odd", "auto_map": CODE}, **{"model.safetensors": weights(shape)})
    made |= {"configuration_odd.py": b"", "modeling_odd.py": b""}
    base = str(written(tmp_path / "base", made))
    version = pin(base, None, "model", "model.base")
    rows = forecast(recipe(tmp_path, base, trust_remote_code=version)).rows
    assert ["the base's own code", "runs", version] in rows
    pin_inputs.fn(recipe(tmp_path, base, trust_remote_code=version))

    known = files(**{"model.safetensors": weights(shape)})
    base = str(written(tmp_path / "known", known))
    version = pin(base, None, "model", "model.base")
    plain = forecast(recipe(tmp_path, base)).rows
    trusting = forecast(recipe(tmp_path, base, trust_remote_code=version)).rows
    assert not [row for row in plain if "own code" in row[0]]
    stages = ("conform", "validate", "format", "train", "merge")
    for stage in stages:
        before, after = ([row[2] for row in rows if row[0] == stage] for rows in (plain, trusting))
        assert before != after, stage


@pytest.mark.parametrize(
    "content",
    [b"\xff" * 8 + b"{}", weights(b"[]"), weights(b'{"a": {}}'), weights(b'{"a": {"shape": 3}}')],
    ids=["endless", "a list", "without a shape", "a number"],
)
def test_weights_with_a_header_that_is_none_are_refused(tmp_path, content):
    made = files(**{"model.safetensors": content})
    base = str(written(tmp_path / "base", made))
    with pytest.raises(ModelRefused, match="no safetensors file"):
        forecast(recipe(tmp_path, base))


@pytest.mark.parametrize("cards", [(), ("NVIDIA H100",)])
def test_a_plan_says_that_the_machine_has_no_gpu(tmp_path, monkeypatch, cards):
    """The run itself would be refused, after a server has been started for it."""
    monkeypatch.setattr("retune.machine.gpus", lambda: cards)
    shape = json.dumps({"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}).encode()
    base = str(written(tmp_path / "base", files(**{"model.safetensors": weights(shape)})))
    refused = [row for row in forecast(recipe(tmp_path, base)).rows if row[0] == "this machine"]
    assert bool(refused) is not bool(cards)
    assert all("needs a GPU" in row[2] and "load_in_4bit=false" in row[2] for row in refused)
    without = recipe(tmp_path, base, load_in_4bit=False).model_dump(mode="json")
    without["training"]["optimizer"] = "adamw_torch"
    assert not [row for row in forecast(Recipe.parse(without)).rows if row[0] == "this machine"]


def test_the_hub_is_asked_once_how_many_weights_a_version_has(hub, tmp_path):
    """A run asks whether its files fit on the disk before the training and before the merge."""
    shape = json.dumps({"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}).encode()
    version = hub.add_model("them/counted", files(**{"model.safetensors": weights(shape)}))
    pins = Pins(dataset="sha256:d", model=version)
    asked = recipe(tmp_path, "them/counted")
    assert count_parameters(asked, pins) == 6
    before = len(hub.requests)
    assert count_parameters(asked, pins) == 6
    assert len(hub.requests) == before


def test_how_long_files_are_measured_is_told_before(tmp_path, monkeypatch):
    """Seven files of an 8B model by the CPU: hours that nobody expects."""
    from flows import forecast as told

    everything = ["convert", *(f"quantize {method}" for method in DEFAULT)]
    monkeypatch.setattr(told, "cores", lambda: 32)
    monkeypatch.setattr(told, "gpus", lambda: ("NVIDIA H100",))
    monkeypatch.setattr(told.llamacpp, "accelerated", lambda: None)
    plain = recipe(tmp_path, "b")

    def row(parameters: int, todo: list[str]) -> list[str]:
        (only,) = told._to_measure(plain, parameters, todo)
        return only

    assert row(8_000_000_000, everything)[1] == "up to 4 h"
    assert "7 files" in row(8_000_000_000, everything)[2]
    assert "nvcc" in row(8_000_000_000, everything)[2]
    assert row(8_000_000_000, ["quantize q8_0"])[1] == "up to 33 min"
    assert row(1_000_000, everything)[1] == "under a minute"
    assert told._to_measure(plain, 8_000_000_000, ["publish"]) == []
    build = LlamaCpp(Path(), "1", ("90",))
    monkeypatch.setattr(told.llamacpp, "accelerated", lambda: build)
    assert row(8_000_000_000, everything)[1:] == [
        *("minutes", "by the GPU, 7 files, with llama.cpp 1 with CUDA")
    ]


def test_a_plan_touches_nothing_also_for_a_dataset_at_an_address(tmp_path, site):  # noqa: F811
    site.pages["/d.jsonl"] = (200, {"ETag": '"1"'}, b'{"prompt": "a", "completion": "b"}\n' * 9)
    shape = json.dumps({"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}).encode()
    base = str(written(tmp_path / "base", files(**{"model.safetensors": weights(shape)})))
    values = {"name": "r", "model": {"base": base}, "dataset": {"source": f"{site.url}/d.jsonl"}}
    before = sorted(tmp_path.rglob("*"))
    rows = forecast(Recipe.parse(values)).rows
    assert sorted(tmp_path.rglob("*")) == before
    unknown = "known when the dataset is copied and pinned"
    by_stage = {row[0]: row for row in rows}
    assert by_stage["conform"][2] != unknown
    assert all(by_stage[name][1:] == ["run", unknown] for name in ("fetch", "train", "merge"))
    pin_inputs.fn(Recipe.parse(values))  # copies it
    before = sorted(tmp_path.rglob("*"))
    assert unknown not in {row[2] for row in forecast(Recipe.parse(values)).rows}
    assert sorted(tmp_path.rglob("*")) == before
