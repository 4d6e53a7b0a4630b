"""Which cases are of `make test`, and which are proofs."""

from collections import Counter
from collections.abc import Iterable

import pytest

from retune.recipe.flaws import FLAWS
from tests.corpus.case import Case

# Every flaw of a row has light tests of its own in tests/expectations/test_features.py.
LIGHT_FLAWS = list(FLAWS)[::9]


def kind(case: Case) -> tuple:
    """Return what a case is there for: the expectation that it trips; of a good one, how it is read."""
    return (case.trips,) if case.trips else (case.form, *case.dataset, *case.beside)


def light_and_proof(cases: Iterable[Case]) -> list:
    """Return the cases; proofs are those beyond the first of each kind, and all of most flaws."""
    count: Counter[tuple] = Counter()
    parameters = []
    for case in cases:
        count[kind(case)] += 1
        light = count[kind(case)] == 1 and (case.trips not in FLAWS or case.trips in LIGHT_FLAWS)
        marks = [] if light else [pytest.mark.proof]
        parameters.append(pytest.param(case, id=case.name, marks=marks))
    return parameters
