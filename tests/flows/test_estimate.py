"""What a run says it will take, by runs in a real MLflow store; and the room that it must find."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from prefect.logging import disable_run_logger

from flows import disk, estimate
from flows.disk import disk_needed, require_disk
from flows.estimate import EXPECTED_GPU_HOURS, announce
from flows.estimate_error import EXPECTED, LOOKED_AT, TAKEN, error_of
from flows.status import status
from retune.disk_space import NoSpaceLeft
from retune.machine import this_machine
from retune.measures import format_duration
from retune.outputs import Step
from retune.recipe import Recipe
from retune.records import Pins
from retune.tracking import client, start_run
from tests.databases import working_in

VALUES = {"name": "sums", "model": {"base": "b"}, "dataset": {"source": "d.jsonl"}}
PINS = Pins(dataset="sha256:d", model="sha256:m")
TRAINED = {
    **{"train/seconds": 110.0, "train/total_tokens": 1_000.0, "train/steps": 50.0},
    **{"train/epoch": 1.0, "train/median_tokens_per_second": 10.0, "train/gpu_hours": 0.022},
}


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    with working_in(monkeypatch, tmp_path / "home"), disable_run_logger():
        yield


def recipe(**training) -> Recipe:
    return Recipe.parse(VALUES | {"training": training} if training else VALUES)


def plan(*stages: str) -> SimpleNamespace:
    """A plan of stages that are all to be made."""
    steps = [Step(stage=stage, key={"method": "q4_k_m"}) for stage in stages]
    return SimpleNamespace(steps=lambda: iter(steps))


def ran(metrics: dict[str, float], gpu: str | None = None) -> None:
    """Leave a run that came to its decision on this machine, or on one with another GPU."""
    machine = this_machine()
    here = ", ".join(machine.gpus) or "none"
    tags = {"retune.machine.cpu": machine.cpu, "retune.machine.gpu": gpu or here}
    with start_run(recipe(), "earlier", tags) as run:
        run.log_metrics(metrics)


def test_without_an_earlier_run_nothing_is_guessed():
    assert estimate.estimate(recipe(), plan("fetch", "train")) is None


def test_a_run_on_another_machine_or_without_a_decision_tells_nothing():
    ran({TAKEN: 100.0, "fetch/seconds": 100.0}, gpu="another one")
    ran({"fetch/seconds": 100.0})
    assert estimate.estimate(recipe(), plan("fetch")) is None


def test_stages_take_their_medians_and_what_lies_between_them():
    for fetch, between in ((10.0, 30.0), (12.0, 31.0), (90.0, 32.0)):
        made = {"fetch/seconds": fetch, "merge/seconds": 5.0, "quantize/kl_divergence/q2_k": 7.0}
        ran(made | {TAKEN: fetch + 5.0 + between})
    # Nothing was merged: no files were made in the time between its stages.
    ran({"fetch/seconds": 12.0, TAKEN: 13.0})
    found = estimate.estimate(recipe(), plan("fetch", "merge", "quantize"))
    assert found.seconds == pytest.approx(12.0 + 5.0 + 31.0)
    assert (found.runs, found.unknown, found.error) == (4, (), None)
    assert estimate.estimate(recipe(), plan("fetch")).seconds == pytest.approx(13.0)


def test_a_stage_that_no_run_had_is_named_and_not_guessed():
    ran({"fetch/seconds": 10.0, TAKEN: 10.0})
    found = estimate.estimate(recipe(), plan("fetch", "judge", "train"))
    assert found.unknown == ("judge", "train")
    assert "what judge, train will take, which no earlier run had" in found.text(
        None, datetime.now(UTC)
    )


@pytest.mark.parametrize(
    ("training", "seconds"),
    [
        ({"epochs": 1}, 110.0),
        ({"epochs": 3}, 310.0),  # the start is taken once
        ({"epochs": 3, "max_steps": 25}, 60.0),
        ({"epochs": 0.5, "max_steps": 100}, 210.0),  # max_steps alone says how long
    ],
)
def test_a_training_takes_its_start_and_its_tokens(training, seconds):
    ran(TRAINED | {TAKEN: 110.0})
    found = estimate.estimate(recipe(**training), plan("train"))
    assert found.seconds == pytest.approx(seconds)
    assert found.gpu_hours == pytest.approx(0.022 * seconds / 110)


@pytest.mark.parametrize("name", sorted(TRAINED.keys() - {"train/gpu_hours"}))
@pytest.mark.parametrize("value", [0.0, None])
def test_a_training_that_left_too_little_tells_nothing(name, value):
    """It ends no run either: what it says is all that depends on it."""
    left = {key: number for key, number in TRAINED.items() if key != name}
    metrics = left | ({} if value is None else {name: value})
    assert estimate._training(recipe(), [stored(metrics)]) is None


def test_a_trial_of_a_few_steps_is_no_measure_of_an_epoch():
    trial = stored(TRAINED, max_steps=50)
    assert estimate._training(recipe(), [trial]) is None
    assert estimate._training(recipe(max_steps=100), [trial]) == pytest.approx(210.0)
    assert estimate._training(recipe(), [trial, stored(TRAINED)]) == pytest.approx(110.0)


def stored(metrics: dict[str, float], **training: int) -> SimpleNamespace:
    """A run as MLflow gives it."""
    params = {f"training.{name}": str(value) for name, value in training.items()}
    return SimpleNamespace(data=SimpleNamespace(metrics=metrics, params=params))


def test_a_run_that_goes_on_keeps_what_its_first_attempt_expected():
    ran({"fetch/seconds": 100.0, TAKEN: 100.0})
    with start_run(recipe(), "waits", {}) as run:
        run.log_metrics({EXPECTED: 300.0, TAKEN: 310.0})
        announce(run, recipe(), plan("fetch"))()
    metrics = client().get_run(run.id).data.metrics
    assert (metrics[EXPECTED], metrics[TAKEN]) == (300.0, 310.0)


def test_what_is_published_after_the_decision_is_no_part_of_the_time():
    made = {"fetch/seconds": 10.0, "merge/seconds": 5.0, "publish/seconds": 900.0, TAKEN: 45.0}
    ran(made)
    found = estimate.estimate(recipe(), plan("fetch", "merge", "publish"))
    assert found.seconds == pytest.approx(45.0)


def test_a_hub_that_is_switched_off_ends_no_run(monkeypatch):
    from huggingface_hub.errors import OfflineModeIsEnabled

    def ask(*_, **__):
        raise OfflineModeIsEnabled("offline")

    monkeypatch.setattr("huggingface_hub.HfApi.get_safetensors_metadata", ask)
    require_disk(recipe(), PINS, plan("merge"))


def test_what_was_expected_is_kept_beside_what_was_taken_and_judged():
    for expected in (80.0, 95.0, 300.0):
        ran({"fetch/seconds": 100.0, TAKEN: 100.0, EXPECTED: expected})
    with start_run(recipe(), "this one", {}) as run:
        decided = announce(run, recipe(), plan("fetch"))
        decided()
    metrics = client().get_run(run.id).data.metrics
    assert metrics[EXPECTED] == pytest.approx(100.0)
    assert metrics[EXPECTED_GPU_HOURS] == 0
    assert 0 < metrics[TAKEN] < 60
    found = estimate.estimate(recipe(), plan("fetch"))
    assert (found.error, found.judged) == (pytest.approx(0.2), 3)


def test_the_error_is_that_of_the_last_runs_that_were_decided_on():
    of = [{TAKEN: 100.0, EXPECTED: 100.0 + off} for off in (10, -30, 20)]
    assert error_of(of) == (pytest.approx(0.2), 3)
    # One that failed before its decision, and one that had no estimate, tell nothing.
    assert error_of([{EXPECTED: 50.0}, {TAKEN: 50.0}, *of]) == (pytest.approx(0.2), 3)
    assert error_of([*of * 4, {TAKEN: 1.0, EXPECTED: 99.0}])[1] == LOOKED_AT
    assert error_of([]) == (None, 0)


def test_the_status_shows_how_far_estimates_were_off():
    for expected in (80.0, 95.0, 300.0):
        ran({TAKEN: 100.0, EXPECTED: expected})
    (one,) = [one for one in status().recipes if one.recipe == "sums"]
    assert (one.estimate_error, one.estimates) == (pytest.approx(0.2), 3)
    assert "20% off, the median of 3 runs" in status().markdown()


def test_it_is_said_in_words():
    found = estimate.RunEstimate(4320.0, 1.5, 7, (), 0.06, 5)
    now = datetime(2026, 3, 1, 22, 0, tzinfo=UTC)
    assert found.text(2.0, now) == (
        "about 1 h 12 min, until 23:12 UTC (1.500 GPU-hours, 3.00); by 7 earlier runs on such a "
        "machine; the last 5 estimates were 6% off in the median"
    )
    late = now.replace(hour=23)
    assert "until 2026-03-02 00:12 UTC" in found.text(None, late)
    once = found._replace(runs=1, error=None)
    assert once.text(None, now).endswith("; by 1 earlier run on such a machine")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *((0, "0 s"), (0.4, "0 s"), (59.6, "1 min"), (250, "4 min 10 s"), (3599.6, "1 h")),
        *((4321, "1 h 12 min"), (86_399, "1 d"), (97_200, "1 d 3 h"), (86_460, "1 d")),
    ],
)
def test_a_time_has_its_two_largest_units(seconds, words):
    assert format_duration(seconds) == words


def test_what_does_not_fit_is_refused_before_any_work(monkeypatch):
    monkeypatch.setattr(disk, "count_parameters", lambda *_: 10**9)
    stages = ("train", "merge", "convert", "quantize")
    needed = disk_needed(recipe(), 10**9, ["merge", "convert", "quantize q4_k_m"])
    assert needed == pytest.approx(2e9 + 2e9 + 4.83e9 / 8, rel=0.05)
    monkeypatch.setattr(disk, "free_disk", lambda: round(needed) + 1)
    require_disk(recipe(), PINS, plan(*stages))
    monkeypatch.setattr(disk, "free_disk", lambda: 10**9)
    with pytest.raises(
        NoSpaceLeft, match=r"merge, convert, quantize q4_k_m take about 4\.\d+ GB, and "
    ):
        require_disk(recipe(), PINS, plan(*stages))
    require_disk(recipe(), PINS, plan("train"))  # what it leaves is small
