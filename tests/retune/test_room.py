"""16-bit weights that do not fit are known by their size, before any of them is loaded."""

from pathlib import Path

import pytest

from retune import room
from retune.comparison import Yardstick
from retune.original import Original
from retune.recipe import Model, RecipeError
from retune.row_losses import HeldOut
from tasks.select.child import SelectJob, select

GIB = 2**30


@pytest.mark.parametrize(("parameters", "fits"), [(8_030_000_000, True), (70_600_000_000, False)])
def test_a_card_of_48_gib_holds_8b_and_no_70b(monkeypatch, parameters, fits):
    monkeypatch.setattr(room, "gpus", lambda: ("NVIDIA L40S",))
    reason = room.misfit(parameters, 47 * GIB)
    assert (not reason) == fits
    assert fits or reason == "the 16-bit weights take 144.7 GiB, 47.0 GiB are free"


@pytest.fixture
def shape(tmp_path) -> Path:
    """The configuration of a model, and no weights: whoever loads them fails."""
    from transformers import LlamaConfig

    sizes = {"vocab_size": 1000, "hidden_size": 64, "intermediate_size": 128}
    LlamaConfig(**sizes, num_hidden_layers=2, num_attention_heads=2).save_pretrained(tmp_path)
    return tmp_path


def job(base: Path, wanted: bool) -> SelectJob:
    held_out = {"path": base, "tokenizer": base, "rows": 1, "max_length": 8, "train_on": "all"}
    return SelectJob(
        held_out=HeldOut(**held_out, batch_size=None),
        adapter=base,
        model=Model(base=str(base), load_in_4bit=True),
        revision=None,
        original=Original(name=str(base), revision=None, setting="model.base"),
        wanted=wanted,
        yardstick=Yardstick(held_out=base, rows=1, logits=base / "logits"),
    )


def test_what_does_not_fit_stays_on_the_4_bit_weights_and_says_why(shape, monkeypatch):
    monkeypatch.setattr(room, "free_device_memory", lambda: 1000)
    found = select(job(shape, wanted=False))
    assert found["onto"] == "trained"
    assert found["reason"].startswith("the 16-bit weights take ")
    with pytest.raises(
        RecipeError, match=r"merging\.onto=16bit: the 16-bit weights take .* or dequan"
    ):
        select(job(shape, wanted=True))


def test_what_fits_is_put_where_it_is_wanted(shape):
    assert select(job(shape, wanted=True)) == {"onto": "16bit"}


def test_weights_are_counted_by_the_configuration(shape):
    count = 2 * 1000 * 64 + 64 + 2 * (4 * 64 * 64 + 3 * 64 * 128 + 2 * 64)
    assert room.parameters_of(str(shape), None) == count
