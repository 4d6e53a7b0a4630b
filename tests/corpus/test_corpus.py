"""The corpus is what it says: complete, valid, varied, and the same every time."""

import json
from itertools import combinations
from random import Random

import pytest

from retune.recipe.flaws import DATASET_EXPECTATIONS, FLAWS
from tests.corpus import CASES_BAD, CASES_GOOD, CASES_OPEN, light_and_proof
from tests.corpus.text import sound

EVERY = (*CASES_BAD, *CASES_GOOD, *CASES_OPEN)
EXPECTATIONS = {*FLAWS, *DATASET_EXPECTATIONS}
# They need a classifier, a tokenizer, pairs that belong together, a mix, or a run before.
UNTESTED = {
    "max_part_quarantined_share",
    *("min_agreement", "min_correlation", "max_truncated_share"),
    *("shuffled_pairs", "profile_drift"),
}


def test_names_are_unique():
    names = [case.name for case in EVERY]
    assert sorted(names) == sorted(set(names))


def test_there_are_enough_cases():
    assert len(CASES_BAD) >= 70
    assert len(CASES_GOOD) >= 18


def test_every_expectation_is_tripped():
    tripped = {case.trips for case in CASES_BAD if case.stage == "validate"}
    assert tripped == EXPECTATIONS - UNTESTED
    variants = {name: sum(case.trips == name for case in CASES_BAD) for name in FLAWS}
    assert min(variants.values()) >= 2, variants


def test_bad_cases_say_what_stops_them_and_good_ones_do_not():
    assert all(bool(case.trips) != bool(case.refused) for case in CASES_BAD)
    assert not [case for case in CASES_GOOD if case.trips or case.refused or case.rejected]


@pytest.mark.parametrize("case", light_and_proof(EVERY))
def test_a_case_is_valid_and_the_same_every_time(case, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        assert case.write(folder).parent == folder
        assert case.rejected or not case.trips or severity(case, folder) != "critical"
    files = {path.name: path.read_bytes() for path in first.iterdir()}
    assert files == {path.name: path.read_bytes() for path in second.iterdir()}
    assert all(files.values()) or case.name == "empty"


def severity(case, folder) -> str:
    return case.validation(folder).severity(case.trips)


def test_sound_rows_are_varied():
    rows = sound(Random("varied"), 300)
    lengths = [len(row["conversations"][-1]["value"]) for row in rows]
    assert min(lengths) > 80
    assert max(lengths) < 800
    assert all(2.5 <= row["score"] <= 4.5 for row in rows)
    assert len({row["score"] for row in rows}) > 250
    assert max(similarity(*pair) for pair in combinations(map(shingles, rows), 2)) < 0.3


def shingles(row) -> set[tuple[str, ...]]:
    words = json.dumps(row["conversations"]).lower().split()
    return set(zip(*(words[start:] for start in range(5)), strict=False))


def similarity(first: set, second: set) -> float:
    shared = len(first & second)
    return shared / (len(first) + len(second) - shared)
