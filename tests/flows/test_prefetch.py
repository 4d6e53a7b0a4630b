"""What trains is imported beside the run, where it will train and where there is room."""

import sys

import pytest

from flows import prefetch
from retune.recipe import Recipe

VALUES = {"name": "r", "model": {"base": "b"}, "dataset": {"source": "d.jsonl"}}


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A GPU machine on which Unsloth notes where, and with what, it is imported."""
    module = (
        "import os, pathlib; pathlib.Path({!r}).write_text(os.getcwd() + str(dict(os.environ)))"
    )
    seen = tmp_path / "seen"
    (tmp_path / "unsloth.py").write_text(module.format(str(seen)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(prefetch, "gpus", lambda: ("NVIDIA H100",))
    monkeypatch.setattr(prefetch, "cores", lambda: 16)
    return seen


def test_unsloth_is_imported_elsewhere_without_secrets(machine):
    prefetch.prefetch(Recipe.parse(VALUES)).join()
    said = machine.read_text()
    assert "hf_secret" not in said
    assert not said.startswith(str(machine.parent.parent))
    assert "unsloth" not in sys.modules


@pytest.mark.parametrize(
    ("name", "value"), [("gpus", lambda: ()), ("cores", lambda: prefetch.FEWEST_CORES - 1)]
)
def test_nothing_is_imported_that_helps_nobody(machine, monkeypatch, name, value):
    monkeypatch.setattr(prefetch, name, value)
    assert prefetch.prefetch(Recipe.parse(VALUES)) is None
    assert not machine.exists()


def test_what_cannot_be_imported_is_no_failure(machine, monkeypatch):
    (machine.parent / "unsloth.py").write_text("raise NotImplementedError('no GPU')")
    prefetch.prefetch(Recipe.parse(VALUES)).join()
    trl = Recipe.parse(VALUES | {"training": {"backend": "trl"}})
    assert prefetch.prefetch(trl) is None
