"""Datasets that prove the data gate: bad ones that it must stop, odd ones that it must let pass."""

from tests.corpus.bad_looks import BAD_LOOKS
from tests.corpus.bad_rows import BAD_ROWS
from tests.corpus.bad_sets import BAD_SETS
from tests.corpus.case import Case
from tests.corpus.good import CASES_GOOD
from tests.corpus.limits import CASES_OPEN
from tests.corpus.tiers import light_and_proof

CASES_BAD = (*BAD_ROWS, *BAD_SETS, *BAD_LOOKS)

__all__ = ["CASES_BAD", "CASES_GOOD", "CASES_OPEN", "Case", "light_and_proof"]
