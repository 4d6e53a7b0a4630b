"""A name that a person gave a run is kept; one that Prefect drew by lot is not."""

import pytest
from prefect.utilities.names import generate_slug

from flows.run_names import flow_run_name, is_drawn, is_given


def test_what_prefects_server_draws_is_known():
    names = [generate_slug(2) for _ in range(300)]
    assert [name for name in names if not is_drawn(name)] == []


@pytest.mark.parametrize(
    "name", ["alpha-centauri", "beta7-andromedae-b", "phi412-minas", "Awesome-Carrot", "Tasty-Kale"]
)
def test_what_prefects_forms_draw_is_known(name):
    assert is_drawn(name)
    assert not is_given(name)


@pytest.mark.parametrize(
    "name",
    [
        "with the new mails",
        "new-data",
        "test-run",
        "lr-1e-4",
        "run 7",
        "Übung",
        "alpha",
        "small-run",
    ],
)
def test_what_a_person_types_is_kept(name, monkeypatch):
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__NAME", name)
    assert flow_run_name() == name
    assert is_given(name)


def test_a_drawn_name_becomes_recipe_and_time(monkeypatch):
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__NAME", generate_slug(2))
    monkeypatch.setattr(
        "flows.run_names.runtime.flow_run.parameters", {"name": "nightly"}, raising=False
    )
    name = flow_run_name()
    assert name.startswith("nightly 2")
    assert name.endswith(" UTC")  # the pages show other times by the browser's clock
    # A retry of the run keeps it, and it is not taken for a person's.
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__NAME", name)
    assert flow_run_name() == name
    assert not is_given(name)
