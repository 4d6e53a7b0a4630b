"""The reference of drift, as a real store of MLflow keeps it: the profile and the scores of the last
accepted run."""

import json

import pytest

from expectations.data import repairs as record
from expectations.data.judgement import judgement, reference
from expectations.data.messages import Rules
from expectations.data.profile.looks import PROFILE, looks
from retune import tracking
from retune.building import building
from retune.outputs import Step
from retune.recipe import Recipe
from retune.records import Pins, Rows
from tasks.validate.quarantine import QUARANTINE
from tasks.validate.screening import SCORES, counts, screen, settle
from tests.databases import furnish_mlflow, working_in
from tests.expectations.test_features import write
from tests.expectations.test_profile import pairs, some

RECIPE = Recipe.parse(
    {
        "name": "news",
        "model": {"base": "a/b"},
        "dataset": {"source": "news.jsonl"},
        "validation": {"near_duplicate_similarity": None},
    }
)
HALVED = some(lambda answer: answer[: len(answer) // 2], 1)


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    with working_in(monkeypatch, furnish_mlflow(tmp_path / "home")):
        yield tracking.client()


def validated(month: str, made: list, folder) -> Rows:
    """What validate leaves of a dataset; scores are spread over the classifier's scale."""
    talks = [[("user", ask), ("assistant", tell)] for ask, tell in made]
    (folder / month).mkdir()
    path = write(folder / month, *talks, scores=[2 + n % 101 / 50 for n in range(len(talks))])
    with building(Step(stage="validate", key={"month": month})) as build:
        rules = Rules(RECIPE.validation)
        settled = settle(path, screen(path, rules, build.path), rules, build.path)
        record.write(record.NOTHING, build.path)
        files = (QUARANTINE, SCORES, PROFILE)
        return build.finish(Rows, metrics=counts(settled.table), files=files)


def ran(rows: Rows, month: str, accepted: bool = True) -> str:
    with tracking.start_run(RECIPE, month, {}) as run:
        run.log(rows)
        if accepted:
            run.accept(rows, RECIPE, f"sha256:{month}")
    return run.id


def pins(month: str) -> Pins:
    version = f"sha256:{month}"
    return Pins(dataset=version, model="m", accepted=tracking.last_accepted(RECIPE, version))


def test_the_last_accepted_runs_profile_is_read_back_and_what_moved_since_is_named(tmp_path):
    june = validated("june", pairs(200, 1), tmp_path)
    assert reference(RECIPE, pins("june")) == (None, None)
    accepted = ran(june, "june")
    ran(validated("rejected", HALVED(pairs(200, 5)), tmp_path), "rejected", accepted=False)
    july = validated("july", HALVED(pairs(200, 2)), tmp_path)

    compared = pins("july")
    assert compared.accepted == accepted
    found = reference(RECIPE, compared)
    assert found.profile == looks(june.folder).profile
    assert found.scores.count == june.metrics["accepted"]
    verdict = {one.name: one for one in judgement(july, RECIPE, found).verdicts}["profile_drift"]
    assert (verdict.judged, verdict.passed) == (True, False)
    assert "the answer ends with a sentence" in verdict.seen

    # A good dataset does not differ from it; once accepted it is what the next is compared with.
    august = validated("august", pairs(200, 3), tmp_path)
    (good,) = [one for one in judgement(august, RECIPE, found).verdicts if one.name == verdict.name]
    assert (good.judged, good.passed) == (True, True), good.seen
    ran(august, "august")
    assert reference(RECIPE, pins("july")).profile == looks(august.folder).profile
    assert reference(RECIPE, pins("august")).profile == found.profile


@pytest.mark.parametrize("record", [None, {"version": 0, "rows": 12}])
def test_without_a_profile_of_this_version_nothing_is_compared(tmp_path, record):
    """A run without a profile, or one by an older version of this program."""
    may = validated("may", pairs(120, 1), tmp_path)
    (may.folder / PROFILE).write_text(json.dumps(record))
    ran(may, "may")
    found = reference(RECIPE, pins("june"))
    assert found.profile is None
    assert found.scores.count == may.metrics["accepted"]
