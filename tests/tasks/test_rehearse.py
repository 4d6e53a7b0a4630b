"""What would only show at the end of a training shows on a tiny twin of the base."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from expectations import rehearsal as judge
from expectations.verdicts import Rejected, require
from retune import llamacpp
from retune.child import ChildFailed
from retune.disk_space import NoSpaceLeft
from retune.outputs import Step
from retune.recipe import Recipe
from retune.records import Conformance, Pins, Rehearsal
from retune.sources import pin
from tasks.conform.task import conform
from tasks.rehearse import task as stage
from tests.architectures import GRANITE_4_MICRO, GRANITE_4_TINY
from tests.families import FAMILIES, SMALL, save_family
from tests.tasks.conftest import make_base, make_tokenizer

try:
    llamacpp.locate()
except llamacpp.LlamaCppNotFound as missing:
    pytestmark = pytest.mark.skip(reason=str(missing))


class Rehearsed:
    """Rehearsals of one base, in a home folder of their own."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.conformance: Conformance | None = None

    def recipe(self, **sections) -> Recipe:
        model = {"base": str(self.base), "load_in_4bit": False}
        values = {"name": "r", "model": model, "dataset": {"source": "d.jsonl"}}
        return Recipe.parse(values | sections, "r")

    def run(self, name: str, **sections) -> Rehearsal:
        from prefect.logging import disable_run_logger

        recipe = self.recipe(**sections)
        pins = Pins(dataset="d", model=pin(str(self.base), None, "model", "model.base"))
        with disable_run_logger():
            if self.conformance is None:
                self.conformance = conform.fn(recipe, pins, Step(stage="conform", key={}))
            step = Step(stage="rehearse", key={"name": name})
            return stage.rehearse.fn(self.conformance, recipe, pins, step)


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    base = tmp_path_factory.mktemp("base")
    make_base(base)
    invalid = {"do_sample": False, "temperature": 0.5, "num_beams": 1, "early_stopping": True}
    (base / "generation_config.json").write_text(json.dumps(invalid))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETUNE_HOME", str(tmp_path_factory.mktemp("home")))
        yield Rehearsed(base)


def test_a_sound_base_comes_to_the_end_and_leaves_its_logs(rehearsed):
    output = rehearsed.run("lora")
    assert (output.parts, output.failure) == (("train", "merge", "convert", "compute"), "")
    left = {path.name for path in output.folder.iterdir()} - {"output.json"}
    assert {"train.log", "merge.log"} <= left
    assert left == set(output.files)
    assert all(name.endswith(".log") for name in left)
    judgement = judge.judgement(output, rehearsed.recipe())
    assert [verdict.name for verdict in judgement.verdicts] == list(output.parts)
    require(judgement)


@pytest.mark.slow  # trains a tiny model
def test_settings_of_gpus_are_left_out_of_it(rehearsed):
    """The twin is trained on the CPU, which has no products of 8-bit floats."""
    output = rehearsed.run("fp8", training={"backend": "trl", "fp8": True})
    assert output.failure == ""


def test_what_only_saving_shows_is_shown(rehearsed):
    """Settings of the base that its own library writes for nobody: training would end with them."""
    output = rehearsed.run("full", training={"method": "full"})
    assert output.parts == ("train",)
    assert "GenerationConfig" in output.failure
    with pytest.raises(
        Rejected, match=r"tiny model .* trained and saved; seen: .*GenerationConfig"
    ):
        require(judge.judgement(output, rehearsed.recipe()))
    lenient = rehearsed.recipe(gates={"severities": {"rehearse.train": "warning"}})
    require(judge.judgement(output, lenient))


@pytest.mark.slow  # trains a tiny model, as does what comes to the end
def test_what_cannot_be_merged_is_shown(rehearsed, monkeypatch):
    monkeypatch.setattr(stage, "FARTHEST_KL", -1.0)
    output = rehearsed.run("merge")
    assert output.parts == ("train", "merge")
    assert "not what was trained: KL divergence" in output.failure


def test_a_killed_child_says_nothing_of_the_base(rehearsed, monkeypatch):
    def kill(*arguments):
        error = ChildFailed("killed")
        error.signal = 9
        raise error

    monkeypatch.setattr(stage, "run_training", kill)
    with pytest.raises(ChildFailed, match="killed"):
        rehearsed.run("killed")


@pytest.mark.parametrize(
    "words",
    [
        "rehearse failed: OSError: [Errno 28] No space left on device",
        "merge failed: RuntimeError: [enforce fail at inline_container.cc] PytorchStreamWriter failed",
        "train failed: MemoryError",
    ],
)
def test_a_fault_of_the_machine_is_not_put_down_to_the_base(rehearsed, monkeypatch, words):
    def fail(*arguments):
        raise ChildFailed(words)

    monkeypatch.setattr(stage, "run_training", fail)
    with pytest.raises((ChildFailed, NoSpaceLeft), match=r"failed|no space left"):
        rehearsed.run(words)
    assert not Step(stage="rehearse", key={"name": words}).done


@pytest.mark.proof  # a rehearsal more
def test_names_of_layers_that_the_twin_lacks_are_no_fault(rehearsed):
    names = {"target_modules": ["layers.20.mlp.up_proj"]}
    output = rehearsed.run("names", training=names, merging={"save_method": "lora"})
    assert (output.parts, output.failure) == (("train",), "")


def test_without_a_twin_there_is_no_rehearsal(rehearsed, tmp_path):
    whole = rehearsed.conformance
    rehearsed.conformance = whole.model_copy(
        update={"step": Step(stage="conform", key={"without": "a twin"})}
    )
    try:
        output = rehearsed.run("without")
    finally:
        rehearsed.conformance = whole
    assert (output.parts, output.failure) == ((), "")
    require(judge.judgement(output, rehearsed.recipe()))


@pytest.mark.proof  # Mamba's layers without their kernels
@pytest.mark.parametrize("sizes", [GRANITE_4_TINY, GRANITE_4_MICRO], ids=["h-tiny", "h-micro"])
def test_granite_4_as_published_comes_to_the_end(tmp_path, monkeypatch, sizes):
    from transformers import GraniteMoeHybridConfig

    base = tmp_path / "base"
    tokenizer = make_tokenizer(base)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    GraniteMoeHybridConfig(**sizes | ends | {"vocab_size": len(tokenizer)}).save_pretrained(base)
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path / "home"))
    output = Rehearsed(base).run("as published")
    assert (output.parts[-1], output.failure) == ("compute", "")


@pytest.mark.parametrize(
    ("name", "setting", "otherwise"),
    [
        # It normalises the weights of the chosen experts, whatever a mixture's settings say. A mixture
        # that passes goes down the whole line in tests/tasks/test_families.py.
        pytest.param("Qwen3-MoE", "norm_topk_prob", False, marks=pytest.mark.proof),
        # It weights them by a softmax, unless the settings say what transformers takes for granted.
        # The mixture comes behind dense layers, and its experts stand in groups. That its twin has
        # them, tests of conform say.
        pytest.param("DeepSeek-V3", "scoring_func", None, marks=pytest.mark.proof),
    ],
)
def test_what_llamacpp_computes_otherwise_is_shown(tmp_path, monkeypatch, name, setting, otherwise):
    (family,) = (one for one in FAMILIES if one.name == name)
    base = tmp_path / "base"
    save_family(replace(family, tokenizer=SMALL), base)
    settings = json.loads((base / "config.json").read_text())
    assert settings[setting]
    if name == "DeepSeek-V3":
        settings |= {"first_k_dense_replace": 3, "num_hidden_layers": 5}
        (base / "config.json").write_text(json.dumps(settings))
        monkeypatch.setenv("RETUNE_HOME", str(tmp_path / "as it is"))
        assert Rehearsed(base).run("as it is").failure == ""
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path / "home"))
    settings[setting] = otherwise
    (base / "config.json").write_text(json.dumps(settings))
    output = Rehearsed(base).run("other")
    assert output.parts[-1] == "compute"
    assert "llama.cpp computes something else than the model" in output.failure
