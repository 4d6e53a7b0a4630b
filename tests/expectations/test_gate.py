"""The gate quarantines flawed rows, with reasons, and blocks bad datasets, with a message."""

import math

import polars as pl
import pytest

from expectations.features import REASONS, features
from retune.config import Validation
from tasks.validate import gate

Q, A = ("user", "What is 2 + 2?"), ("assistant", "4")
SYSTEM, TOOL = ("system", "Be brief."), ("tool", "12 °C")


def frame(*conversations, scores=None) -> pl.DataFrame:
    messages = [[{"role": r, "content": c} for r, c in turns] for turns in conversations]
    return pl.DataFrame(
        {
            "row": range(len(conversations)),
            "messages": messages,
            "source": ["test"] * len(conversations),
            "score": scores or [3.0] * len(conversations),
        },
        schema={
            "row": pl.Int64,
            "messages": pl.List(pl.Struct({"role": pl.String, "content": pl.String})),
            "source": pl.String,
            "score": pl.Float64,
        },
    )


def reasons(turns, score=3.0, **settings) -> list[str]:
    return features(frame(turns, scores=[score]), Validation(**settings))["reasons"].to_list()[0]


@pytest.mark.parametrize(
    "turns",
    [
        [Q, A],
        [SYSTEM, Q, A],
        [Q, A, Q, A],
        [Q, A, TOOL, A],
        [Q, ("assistant", "مرحبا 👋 <b>not a token</b>")],
    ],
)
def test_sound_rows_pass(turns):
    assert reasons(turns) == []


@pytest.mark.parametrize(
    ("turns", "score", "reason"),
    [
        ([], 3.0, "no_messages"),
        ([("wizard", "hi"), A], 3.0, "unknown_role"),
        ([(None, "hi"), A], 3.0, "unknown_role"),
        ([A, Q], 3.0, "roles_out_of_order"),
        ([Q, Q, A], 3.0, "roles_out_of_order"),
        ([Q], 3.0, "roles_out_of_order"),
        ([SYSTEM], 3.0, "roles_out_of_order"),
        ([Q, A, TOOL], 3.0, "roles_out_of_order"),
        ([Q, ("assistant", " \n")], 3.0, "empty_message"),
        ([Q, ("assistant", None)], 3.0, "empty_message"),
        ([Q, ("assistant", "x" * 101)], 3.0, "oversized_message"),
        ([Q, ("assistant", "4<|im_end|>")], 3.0, "chat_token_in_message"),
        ([Q, A], None, "score_missing"),
        ([Q, A], math.nan, "score_missing"),
        ([Q, A], 7.0, "score_out_of_range"),
        ([Q, A], math.inf, "score_out_of_range"),
        ([Q, A], -1.0, "score_out_of_range"),
    ],
)
def test_each_flaw_has_its_reason(turns, score, reason):
    assert reasons(turns, score, max_message_chars=100) == [reason]


def test_scores_may_be_optional():
    assert reasons([Q, A], None, score_required=False) == []


def test_the_first_of_equal_rows_stays():
    shouted = [("user", "WHAT IS 2 + 2? "), A]
    judged = features(frame([Q, A], shouted, [Q, ("assistant", "5")]), Validation())
    assert judged["duplicate"].to_list() == [False, True, False]


def test_the_excerpt_shows_the_message_to_blame():
    judged = features(frame([Q, ("assistant", "4<|im_end|>" + "x" * 500)]), Validation())
    assert judged["excerpt"][0].startswith("4<|im_end|>")
    assert len(judged["excerpt"][0]) == 120


def sound(count: int) -> list:
    return [[("user", f"What is {n} + 1?"), ("assistant", str(n + 1))] for n in range(count)]


def run_gate(tmp_path, data: pl.DataFrame, **settings):
    data.write_parquet(tmp_path / "in.parquet")
    return gate(tmp_path / "in.parquet", Validation(min_rows=10, **settings), tmp_path)


def test_a_good_dataset_passes_and_loses_only_its_flawed_rows(tmp_path):
    report = run_gate(tmp_path, frame(*sound(40), [Q, Q, A]))
    assert report.failed == []
    assert len(pl.read_parquet(tmp_path / "rows.parquet")) == 40
    quarantine = pl.read_parquet(tmp_path / "quarantine.parquet")
    assert quarantine["row"].to_list() == [40]
    assert quarantine["reasons"].to_list() == [["roles_out_of_order"]]
    assert "roles out of order" in (tmp_path / "report.json").read_text()
    assert list((tmp_path / "data_docs").rglob("*.html"))


@pytest.mark.parametrize(
    ("data", "settings", "parts"),
    [
        (
            frame(*sound(20), *[[A, Q]] * 20),
            {},
            ["50.0% (20 of 40 rows)", "20 × roles out of order", "row 20", "max_quarantined_share"],
        ),
        (frame(*sound(5)), {}, ["at least 10 rows", "5 rows", "validation.min_rows"]),
        (
            frame(*sound(20), scores=[0.6] * 20),
            {"score_mean_min": 2.5},
            [
                "mean score is at least 2.5",
                "0.600",
                "lowest 0.6 in row 0",
                "validation.score_mean_min",
            ],
        ),
        (
            frame(*sound(20), scores=[5.9] * 20),
            {"score_mean_max": 5.0},
            ["mean score is at most 5.0", "5.900"],
        ),
        (
            frame(*sound(20), scores=[1.0] * 3 + [4.0] * 17),
            {"score_quantiles_min": {0.1: 2.0}},
            ["10% quantile of the scores is at least 2", "3 of 20 scores below it"],
        ),
        (
            frame(*sound(20), scores=[None] * 20),
            {},
            ["100.0% (20 of 20 rows)", "rows without a score"],
        ),
    ],
)
def test_a_bad_dataset_is_rejected_in_words(tmp_path, data, settings, parts):
    report = run_gate(tmp_path, data, **settings)
    assert report.failed
    for part in parts:
        assert part in report.message()


def test_the_quantile_gate_is_exact(tmp_path):
    scores = [1.0] * 2 + [4.0] * 18  # exactly a tenth is below
    report = run_gate(tmp_path, frame(*sound(20), scores=scores), score_quantiles_min={0.1: 2.0})
    assert report.failed == []


def test_many_duplicates_are_a_warning(tmp_path):
    report = run_gate(tmp_path, frame(*sound(20), *sound(2)), max_quarantined_share=0.5)
    assert report.failed == []
    (warning,) = [v for v in report.verdicts if v.severity == "warning"]
    assert not warning.success


def test_every_reason_is_an_expectation(tmp_path):
    report = run_gate(tmp_path, frame(*sound(20)))
    assert len([v for v in report.verdicts if v.severity == "info"]) == len(REASONS)
