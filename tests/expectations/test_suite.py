"""Great Expectations judges, and what makes it quick changes none of its results."""

from contextlib import nullcontext

import polars as pl

from expectations.data import suite, validating
from retune.recipe import Validation
from retune.recipe.flaws import DATASET_EXPECTATIONS, FLAWS

CONFIG = Validation(score_quantiles_min={0.1: 2.0})


def tables() -> dict[str, pl.LazyFrame]:
    """Thirty rows, of which every other one is a refusal and the first ten have low scores."""
    flags = {name: [name == "refusal" and row % 2 == 0 for row in range(30)] for name in FLAWS}
    rows = pl.DataFrame({"row": range(30), **flags, "sound_score": [1.0] * 10 + [3.0] * 20})
    return {
        suite.ROWS: rows.lazy(),
        suite.DATASET: pl.LazyFrame({name: [0.5] for name in DATASET_EXPECTATIONS}),
    }


def described() -> list[list[dict]]:
    results = validating.judge(tables(), suite.suites(CONFIG))
    return [[entry.to_json_dict() for entry in result.results] for result in results]


def test_results_are_those_without_a_configuration_that_is_built_once(monkeypatch):
    quick = described()
    monkeypatch.setattr(validating, "_configured_once", nullcontext)
    assert quick == described()
    failed = {
        entry["expectation_config"]["meta"]["name"] for entry in quick[0] if not entry["success"]
    }
    assert failed == {"refusal", "score_quantiles_min"}


def test_what_something_was_found_of_has_all_of_its_numbers():
    """Great Expectations is asked for them only there, and the same is in them as if it were asked
    everywhere."""
    form = {"result_format": "SUMMARY", "partial_unexpected_count": validating.ROWS_NAMED}
    of_config = suite.suites(CONFIG)
    for results, (name, table) in zip(described(), tables().items(), strict=True):
        batch = validating._definition(name).get_batch({"dataframe": table.collect().to_pandas()})
        everywhere = batch.validate(of_config[name], result_format=form)
        validating._name_rows(everywhere, table)
        whole = [entry.to_json_dict() for entry in everywhere.results]
        assert [e["success"] for e in results] == [e["success"] for e in whole]
        numbered = [n for n, entry in enumerate(results) if entry["result"]]
        unmet = [n for n, entry in enumerate(whole) if entry["result"]["unexpected_count"]]
        assert numbered == unmet
        for n in unmet:
            for entry in (results[n], whole[n]):  # a batch has a number of its own
                del entry["expectation_config"]["kwargs"]["batch_id"]
            assert results[n] == whole[n]


def test_nothing_of_a_table_stays_once_it_is_judged():
    """In a process that lives on, as the flow's, and between the columns of a table of many rows."""
    import gc

    import pandas as pd

    def large() -> int:
        gc.collect()
        kinds = (pd.Series, pd.DataFrame)
        return sum(isinstance(one, kinds) and len(one) == 40_000 for one in gc.get_objects())

    rows = tables()[suite.ROWS].collect()
    many = pl.concat([rows] * 1_334).head(40_000)
    judged = validating.judge(tables() | {suite.ROWS: many.lazy()}, suite.suites(CONFIG))
    assert len(judged) == 2
    assert large() == 0


def test_expectations_of_others_are_left_as_they_were():
    from great_expectations.expectations.expectation import Expectation

    own = vars(Expectation)["configuration"]
    results = validating.judge(tables(), suite.suites(CONFIG))
    assert vars(Expectation)["configuration"] is own
    assert {"run_id", "validation_time"} <= set(results[0].meta)
