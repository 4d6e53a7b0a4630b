"""The weights that an adapter is evaluated and merged on, where it was trained on 4-bit ones.

On a CPU nothing trains in 4 bits; an adapter on a base that is loaded so stands for one.
"""

import json
import shutil

import pytest

from expectations import merging as judge
from expectations.verdicts import require
from retune.child import ChildRefused
from retune.models import load_plain, nf4
from retune.outputs import Step
from retune.recipe import Evaluation, Merging
from retune.records import Adapter, Pins, Scores, Selection
from retune.row_losses import RowLoss
from retune.sources import pin
from tasks.evaluate.task import evaluate
from tasks.merge.task import merge
from tasks.select import selection as rule
from tasks.select.key import key as select_key
from tasks.select.selection import preferred
from tasks.select.task import select
from tests.tasks.test_evaluate import loss_by_hand

CONFIG = Evaluation(max_new_tokens=4, generation_rows=4)
NEAR = {"kl_divergence": 0.01, "same_top_token": 0.95}


def rows(*losses: float, tokens: int = 10) -> list[RowLoss]:
    return [RowLoss(loss * tokens, tokens) for loss in losses]


@pytest.mark.parametrize(
    ("sixteen", "trained", "comparison", "onto"),
    [
        # As measured with SmolLM2-135M: far from what was trained, and better on every row.
        (rows(1.90, 1.95, 1.92), rows(1.94, 1.99, 1.97), NEAR | {"kl_divergence": 0.17}, "16bit"),
        (rows(1.90, 1.95, 1.92), rows(1.94, 1.99, 1.97), NEAR, "16bit"),
        # Better on average by one row alone is noise.
        (rows(1.60, 1.95, 1.98), rows(1.94, 1.94, 1.97), NEAR, "trained"),
        (rows(1.94, 1.99, 1.97), rows(1.90, 1.95, 1.92), NEAR, "trained"),
        # Better, but not what was trained any more.
        (rows(1.90, 1.95, 1.92), rows(1.94, 1.99, 1.97), NEAR | {"kl_divergence": 0.8}, "trained"),
        (rows(1.90, 1.95, 1.92), rows(1.94, 1.99, 1.97), NEAR | {"same_top_token": 0.5}, "trained"),
        (
            rows(1.9, 1.9),
            rows(1.94, 1.99),
            NEAR | {"kl_divergence": float("nan")},
            "trained",
        ),
        # One row says nothing of noise, and equal losses nothing at all.
        (rows(1.0), rows(2.0), NEAR, "trained"),
        (rows(1.5, 1.5), rows(1.5, 1.5), NEAR, "trained"),
        (rows(1.0, 1.0), rows(1.5, 1.5), NEAR, "16bit"),
        (rows(float("nan"), 1.0), rows(1.5, 1.5), NEAR, "trained"),
        (rows(1.0, 1.0), rows(float("nan"), 1.5), NEAR, "trained"),
        # Of a row without anything to learn nothing is known.
        ([*rows(1.90, 1.95), RowLoss(0, 0)], [*rows(1.94, 1.99), RowLoss(0, 0)], NEAR, "16bit"),
        ([], [], NEAR, "trained"),
    ],
)
def test_the_lower_loss_decides_beyond_the_noise(sixteen, trained, comparison, onto):
    assert preferred({"16bit": sixteen, "trained": trained}, comparison) == onto


class QLora:
    """The project's adapter as if it were trained on 4-bit weights."""

    def __init__(self, project, adapter: Adapter) -> None:
        self.project, self.adapter = project, adapter
        self.model = project.model.model_copy(update={"load_in_4bit": True})

    def recipe(self, **merging):
        merging = Merging(**merging)
        return self.project.recipe(model=self.model, evaluation=CONFIG, merging=merging)

    def pins(self, recipe) -> Pins:
        base, original = recipe.model.base, recipe.merging.base_16bit
        return Pins(
            dataset="d",
            model=pin(base, None, "model", "model.base"),
            base_16bit=original and pin(original, None, "model", "merging.base_16bit"),
        )

    def select(self, recipe) -> Selection:
        pins = self.pins(recipe)
        key = select_key(recipe, pins, self.adapter.step) | {"model": pins.model}
        step = Step(stage="select", key=key)
        made = select.fn(self.adapter, self.project.chats, recipe, pins, step)
        return made if isinstance(made, Selection) else made.data

    def evaluate(self, selection: Selection | None, recipe) -> Scores:
        key = {"selection": selection and selection.step.fingerprint}
        step = Step(stage="evaluate", key=key)
        pins = self.pins(recipe)
        return evaluate.fn(self.adapter, selection, self.project.chats, recipe, pins, step)


@pytest.fixture
def qlora(at_home, trained) -> QLora:
    return QLora(at_home, trained.adapter)


def held_out_rows(project) -> list[list[int]]:
    import pyarrow.parquet as pq

    return pq.read_table(project.chats.held_out)["input_ids"].to_pylist()


def test_both_weights_are_measured_and_the_better_is_chosen(qlora, at_home, trained, monkeypatch):
    """The losses of either are those of the model that they name, computed by hand."""
    import torch
    from peft import PeftModel

    monkeypatch.setattr(rule, "STANDARD_ERRORS", 0)  # of 16 rows all is within the noise
    selection = qlora.select(qlora.recipe())
    metrics = selection.metrics
    path = at_home.folder / "base"
    for name, settings in (("16bit", None), ("trained", nf4(torch.float32))):
        model = PeftModel.from_pretrained(load_plain(path, settings), trained.adapter.path).eval()
        by_hand = loss_by_hand(model, held_out_rows(at_home))
        assert metrics[f"loss/{name}"] == pytest.approx(by_hand, rel=1e-3)
    assert metrics["loss/16bit"] < metrics["loss/trained"]
    assert 0 < metrics["kl_divergence/16bit"] < 1
    assert selection.onto == "16bit"
    assert not (selection.folder / "logits").exists()


@pytest.mark.proof  # two evaluations and a merge; test_merge.py has the merge alone
def test_what_is_evaluated_is_what_is_merged(qlora, at_home):
    """The numbers of a run are those of its files: of the two weights, those of the checkpoint."""
    recipe = qlora.recipe(onto="16bit")
    selection = qlora.select(recipe)
    assert selection.onto == "16bit"
    assert not selection.metrics  # nothing was to be chosen
    scores = qlora.evaluate(selection, recipe)
    step = Step(stage="merge", key={"test": "select"})
    pins = qlora.pins(recipe)
    merged = merge.fn(qlora.adapter, selection, at_home.chats, recipe, pins, step)
    require(judge.judgement(merged, recipe))
    assert merged.params == {"merged_onto": "16bit"}
    assert merged.metrics["kl_divergence"] < 0.005  # one rounding to bf16
    of_file = loss_by_hand(load_plain(merged.path), held_out_rows(at_home))
    assert scores.metrics["loss/tuned"] == pytest.approx(of_file, rel=0.02)
    on_4bit = qlora.evaluate(None, recipe)
    assert abs(on_4bit.metrics["loss/tuned"] - of_file) > 3 * abs(
        scores.metrics["loss/tuned"] - of_file
    )
    # Its base is the one that it would be served instead of.
    base = loss_by_hand(load_plain(at_home.folder / "base"), held_out_rows(at_home))
    assert scores.metrics["loss/base"] == pytest.approx(base, rel=1e-3)


def test_the_original_may_be_another_folder(qlora, at_home, tmp_path):
    """Of a base that is stored in 4 bits; here the better weights are made so."""
    shutil.copytree(at_home.folder / "base", tmp_path / "original")
    recipe = qlora.recipe(base_16bit=str(tmp_path / "original"), onto="16bit")
    assert qlora.select(recipe).onto == "16bit"
    (tmp_path / "original" / "config.json").write_text(
        json.dumps(
            json.loads((tmp_path / "original" / "config.json").read_text()) | {"rms_norm_eps": 0.5}
        )
    )
    changed = qlora.evaluate(qlora.select(recipe), recipe)
    assert changed.metrics["loss/tuned"] > 1


def test_a_base_stored_in_4_bits_has_no_original_unless_named(qlora, at_home, tmp_path):
    stored = tmp_path / "stored"
    load_plain(at_home.folder / "base", nf4(None)).save_pretrained(stored)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(at_home.folder / "base" / name, stored)
    qlora.model = qlora.model.model_copy(update={"base": str(stored)})
    assert qlora.select(qlora.recipe()).onto == "trained"
    with pytest.raises(ChildRefused, match=r"name its 16-bit weights in merging\.base_16bit"):
        qlora.select(qlora.recipe(onto="16bit"))
    named = qlora.recipe(base_16bit=str(at_home.folder / "base"))
    assert qlora.select(named).metrics["loss/16bit"] > 0


def test_it_is_chosen_only_where_there_is_a_choice(at_home):
    def selects(in_4bit: bool, **merging) -> bool:
        model = at_home.model.model_copy(update={"load_in_4bit": in_4bit})
        return at_home.recipe(model=model, merging=Merging(**merging)).selects

    assert selects(True)
    assert selects(True, onto="16bit")
    assert selects(False, onto="16bit")  # the base may be stored in 4 bits
    assert not selects(True, onto="dequantized")
    assert not selects(False)
    assert not selects(True, save_method="lora")
