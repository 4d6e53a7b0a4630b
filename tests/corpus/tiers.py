"""Which cases are of `make test`, and which are proofs."""

from collections import Counter
from collections.abc import Iterable

import pytest

from tests.corpus.case import Case


def kind(case: Case) -> tuple:
    """Return what a case is there for: the expectation that it trips; of a good one, how it is read
    and judged."""
    return (case.trips,) if case.trips else (case.form, *case.settings, *case.beside)


def light_and_proof(cases: Iterable[Case]) -> list:
    """Return the cases, those beyond the first of each kind marked as proofs."""
    count: Counter[tuple] = Counter()
    parameters = []
    for case in cases:
        count[kind(case)] += 1
        marks = [pytest.mark.proof] if count[kind(case)] > 1 else []
        parameters.append(pytest.param(case, id=case.name, marks=marks))
    return parameters
