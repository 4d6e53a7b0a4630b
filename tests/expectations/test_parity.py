"""The judge of parity: a limit of one row in a thousand, for datasets of any size."""

from datetime import UTC, datetime

import pytest

from expectations.parity import GATE, judgement
from expectations.verdicts import Judgement, Rejected, require
from retune.outputs import Step
from retune.recipe import Recipe
from retune.recipe.gates import EXPECTATIONS
from retune.records import TokenParity


def judged(differing: int, rows: int, severities=None) -> Judgement:
    parity = TokenParity(
        step=Step(stage="parity", key={}),
        started=datetime.now(UTC),
        seconds=0,
        metrics={"rows_compared": rows, "differing_rows": differing / rows if rows else 0.0},
    )
    sections = {"gates": {"severities": severities or {}}}
    recipe = {"name": "r", "model": {"base": "b"}, "dataset": {"source": "s"}} | sections
    return judgement(parity, Recipe.parse(recipe))


@pytest.mark.parametrize(("differing", "rows"), [(0, 0), (0, 10_000), (10, 10_000), (1, 300)])
def test_what_is_within_the_limit_or_chance_passes(differing, rows):
    require(judged(differing, rows))


def test_one_row_of_few_is_told_as_what_it_is():
    (verdict,) = judged(1, 300).verdicts
    assert verdict.seen == "0.33% (1 of 300); chance explains this in so few (p = 0.26)"
    assert EXPECTATIONS[GATE] == (verdict.name,)


@pytest.mark.parametrize(("differing", "rows"), [(1, 1), (3, 100), (30, 10_000)])
def test_a_tokenizer_that_llamacpp_reads_otherwise_is_refused(differing, rows):
    with pytest.raises(Rejected, match=r"more than chance.*max_differing_rows"):
        require(judged(differing, rows))
    require(judged(differing, rows, {"parity.differing_rows": "warning"}))
