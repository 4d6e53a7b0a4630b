"""Which runs have nothing to do, by what MLflow keeps of those before them."""

import pytest

from flows import unchanged
from flows.plan import make_plan
from retune import llamacpp
from retune.recipe import Recipe, set_value
from retune.records import Champion, Pins
from retune.tracking import DECISION, start_run
from tests.databases import furnish_mlflow, working_in

VALUES = {"name": "sums", "model": {"base": "b"}, "dataset": {"source": "d.jsonl"}}
PINS = Pins(dataset="sha256:d", model="sha256:m")


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    found = llamacpp.LlamaCpp(tmp_path / "llama.cpp-1-abc", "1")
    for module in ("tasks.conform.key", "tasks.quantize.key"):
        monkeypatch.setattr(f"{module}.locate", lambda: found)
    with working_in(monkeypatch, furnish_mlflow(tmp_path)):
        yield


def recipe(*assignments: str) -> Recipe:
    values = VALUES
    for assignment in assignments:
        values = set_value(values, assignment)
    return Recipe.parse(values)


def champion(adapter: str) -> Champion:
    return Champion(
        version=1,
        run_id="r",
        adapter=adapter,
        base="b",
        model_pin="sha256:m",
        original=None,
        load_in_4bit=False,
    )


def ended(decision: str, given: Recipe, pins: Pins = PINS, error: Exception | None = None) -> str:
    """Make the MLflow run of a recipe that ended with a decision, and return its id."""
    plan = make_plan(given, pins)
    run_id = ""
    try:
        with start_run(given, "a run", unchanged.input_tags(given, pins, plan, {})) as run:
            run_id = run.id
            run.set_tags({DECISION: f"{decision}: because"})
            if error:
                raise error
    except RuntimeError:
        pass
    return run_id


def accepted(given: Recipe, pins: Pins = PINS, noise: dict[str, float] | None = None) -> str | None:
    plan = make_plan(given, pins)
    tags = unchanged.input_tags(given, pins, plan, noise or {})
    found = unchanged.accepted_run(given, pins, plan, tags)
    return found and found.run_id


def test_a_run_from_the_same_inputs_has_nothing_to_do():
    first = ended("Undecided", recipe())
    assert accepted(recipe()) == first
    # When it runs, and that it is forced, change nothing that it would make.
    assert accepted(recipe("schedule.cooldown_hours=1", "schedule.force=true")) == first
    for other in (
        recipe("training.r=8"),
        recipe("promotion.alpha=0.01"),
        recipe("validation.min_rows=9"),
    ):
        assert accepted(other) is None
    for name in ("dataset", "model", "judge_labels"):
        assert accepted(recipe(), PINS.model_copy(update={name: "sha256:x"})) is None
    assert accepted(recipe(), noise={"loss": 0.1}) is None


@pytest.mark.parametrize("decision", unchanged.SETTLED)
def test_a_decision_that_would_be_the_same_is_accepted(decision):
    assert accepted(recipe()) is None
    first = ended(decision, recipe())
    assert accepted(recipe()) == first


@pytest.mark.parametrize("decision", ["Rejected", "AwaitingApproval", "Skipped"])
def test_what_is_not_the_last_word_is_run_again(decision):
    ended(decision, recipe())
    assert accepted(recipe()) is None


def test_a_run_that_failed_after_its_decision_is_run_again():
    ended("Promoted", recipe(), error=RuntimeError("the Hub was gone"))
    assert accepted(recipe()) is None


def test_another_opponent_is_another_question():
    promoted = ended("Promoted", recipe())
    adapter = make_plan(recipe(), PINS).train.fingerprint
    own = PINS.model_copy(update={"champion": champion(adapter)})
    assert accepted(recipe(), own) == promoted  # it serves
    other = PINS.model_copy(update={"champion": champion("f" * 16)})
    assert accepted(recipe(), other) is None  # it was rolled back
    barred = ended("Barred", recipe(), other)
    assert accepted(recipe(), other) == barred


@pytest.mark.parametrize(
    ("setting", "by_hand", "scheduled"),
    [("scheduled", False, True), ("always", True, True), ("never", False, False)],
)
def test_who_is_spared_the_work_is_said_by_the_recipe(monkeypatch, setting, by_hand, scheduled):
    given = recipe(f"schedule.skip_unchanged={setting}")
    for started, skips in (
        ("command line", by_hand),
        ("deployment, by retune", by_hand),
        ("schedule", scheduled),
        ("trigger", scheduled),
    ):
        monkeypatch.setattr(unchanged, "started", lambda started=started: started)
        assert unchanged.skips(given) == skips
        assert not unchanged.skips(recipe(f"schedule.skip_unchanged={setting}", "schedule.force=1"))
