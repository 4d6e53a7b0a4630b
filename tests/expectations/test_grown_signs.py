"""A group of answers that is too small to be named is, where the last accepted dataset had less of it."""

import random

import pytest

from expectations.data.messages import Rules
from expectations.data.profile.looks import looks
from expectations.data.profile.signs import grown
from retune.recipe import Validation
from tasks.validate.screening import screen
from tests.corpus.text import prose
from tests.expectations import test_features as some

LIST = "Here is what to do.\n\n{}. Measure it.\n{}. Cut it.\n{}. Join it.\n{}. Paint it.\n"


def answer(rng, out_of_order):
    numbers = [1, 2, 3, 4]
    if rng.random() < out_of_order:
        numbers = [1, 4, 2, 7]
    steps = LIST.format(*numbers) if rng.random() < 0.5 or numbers[1] == 4 else ""
    return f"{prose(rng, 2)} {steps}{prose(rng, 3)}"


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Returns what is seen of rows of which so many lists are out of order."""

    def look(out_of_order: float, seed: int = 1):
        rng = random.Random(seed)
        rows = [
            [("user", f"How do I {prose(rng, 1)}?"), ("assistant", answer(rng, out_of_order))]
            for _ in range(1_500)
        ]
        folder = tmp_path_factory.mktemp("gate")
        rules = Rules(Validation(near_duplicate_similarity=None))
        screen(some.write(folder, *rows), rules, folder)
        return looks(folder)

    return look


def test_what_has_grown_is_named_with_both_shares_and_an_example(told):
    then, now = told(0.0), told(0.04, seed=2)
    seen = now.against(then.profile).seen("profile_drift", 0.1)
    assert "number" in seen
    assert "; 0.0% did then" in seen
    assert "e.g. row " in seen
    # By itself it is too little to be named.
    assert not [alarm for alarm in now.alarms if "did then" in alarm.sentence]
    assert "did then" not in now.against(told(0.04, seed=3).profile).seen("profile_drift", 0.0)
    assert "did then" not in then.against(now.profile).seen("profile_drift", 0.0)


def test_what_is_named_already_or_unknown_then_is_not_told_twice(told):
    then, now = told(0.0), told(0.3, seed=2)
    assert grown(then.profile, now.profile, now.signs)
    named = grown(then.profile, now.profile, now.signs)
    assert grown(then.profile, now.profile, now.signs, named) == []
    older = then.profile.model_copy(update={"signs": {}})
    assert grown(older, now.profile, now.signs) == []
