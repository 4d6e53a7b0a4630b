"""Which cases are of `make test`, and which are proofs."""

from collections import Counter
from collections.abc import Iterable

import pytest

from retune.recipe.flaws import FLAWS
from tests.corpus.case import JSONL, Case

# Every flaw of a row has light tests of its own in tests/expectations/test_features.py.
LIGHT_FLAWS = list(FLAWS)[::9]


def kind(case: Case) -> tuple:
    """Return what a case is there for: the expectation that it trips; of a good one, how it is read.

    Of containers one is enough: that each is read as its rows are is a light test of its own.
    """
    form = "container" if is_container(case) else case.form
    return (case.trips,) if case.trips else (form, *case.dataset, *case.beside)


def is_container(case: Case) -> bool:
    """Tell whether sound rows are in a file of another form than the usual one."""
    return case.form is not JSONL and not case.name.endswith("broken_lines")


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
