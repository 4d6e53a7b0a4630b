"""A verdict is passed, failed or not judged, and what was not judged never counts as passed."""

import re

import polars as pl
import pytest
from pydantic import ValidationError

from expectations.conform import brief
from expectations.data.observations import now_and_then
from expectations.data.page import page
from expectations.data.report import ranges
from expectations.verdicts import Judgement, Verdict, ranked, require, table_row
from flows.check import shown
from flows.judging import verdicts_page
from retune.recipe.flaws import DATASET_EXPECTATIONS
from tests.tasks.test_validate import run_gate, sound


def verdict(name: str, **fields) -> Verdict:
    return Verdict(**{"gate": "g", "name": name, "expected": "e", "seen": "s", **fields})


def test_what_was_not_judged_neither_passes_nor_blocks():
    unjudged = verdict("unjudged", passed=False, judged=False)
    assert (unjudged.outcome, unjudged.failed, unjudged.blocks) == ("not judged", False, False)
    assert table_row(unjudged)["result"] == "not judged"
    require(Judgement("g", "it", [unjudged]))
    with pytest.raises(ValidationError, match="cannot pass: it was not judged"):
        verdict("both", passed=True, judged=False)


def test_it_stands_between_what_failed_and_what_passed():
    verdicts = [
        verdict("good", passed=True),
        verdict("unjudged", passed=False, judged=False),
        verdict("warned", passed=False, severity="warning"),
        verdict("bad", passed=False),
    ]
    assert [each.name for each in ranked(verdicts)] == ["bad", "warned", "unjudged", "good"]


def test_the_data_gate_says_not_judged_wherever_it_shows_its_verdicts(tmp_path, no_pages):
    from rich.console import Console

    report = run_gate(
        tmp_path,
        *sound(20),
        scores=[None] * 20,
        score_required=False,
        near_duplicate_similarity=None,
    )
    drift = {"max_psi", "max_ks", "min_agreement", "min_correlation"}
    scores = {"score_not_finite", "score_out_of_range", "score_missing"}
    scores |= {"max_score_share", "max_unit_score_share"}
    profile = {name for name, of in DATASET_EXPECTATIONS.items() if of.needs == "profile.enabled"}
    names = drift | scores | profile | {"near_duplicate"}
    assert {v.name for v in report.unjudged} == names
    assert report.failed == report.warnings == []
    assert '"judged":false' in report.model_dump_json()
    assert "no accepted run with other data" in report.markdown().split("| not judged |")[1]
    assert page(report).count('<span class="unjudged">not judged</span>') == len(names)
    assert f"<b>{len(names)}</b><span>not judged</span>" in page(report)
    console = Console(width=200)
    with console.capture() as captured:
        console.print(shown(report))
    said = captured.get()
    unjudged, _, rest = said.partition("ok ")
    assert set(re.findall(r"\w+", unjudged)) >= names
    assert "last accepted" not in rest


def test_a_blocked_dataset_says_so_first_and_which_rows_are_to_blame(tmp_path):
    turned = [[("assistant", "red"), ("user", "say red")]] * 30
    report = run_gate(tmp_path, *sound(60), *turned, score_required=False)
    assert report.failed
    assert report.places["roles_out_of_order"] == "60-89"
    shown = report.markdown(tmp_path)
    assert shown.startswith("**Dataset rejected: ")
    first, counted, _ = shown.partition("Rows are counted from 0")
    assert counted
    assert "validation.tolerances.roles_out_of_order" in first
    assert str(tmp_path / "quarantine.parquet") in shown
    for column in pl.read_parquet(next(tmp_path.rglob("quarantine.parquet"))).columns:
        assert f"`{column}`" in shown, column
    assert "| 60-89 |" in shown
    assert "10.0%" not in shown.replace("110.0%", "")
    said = report.judgement(folder=tmp_path).message()
    listed = f"{tmp_path.parent.name}/{tmp_path.name}/quarantine.parquet below the work folder."
    assert f"All 30 in quarantine are in {listed}" in said
    assert (
        str(tmp_path) not in said
    )  # in the narrow column of Prefect's page it would not be broken


def test_what_is_open_for_one_reason_is_one_line(tmp_path):
    report = run_gate(tmp_path, *sound(20), scores=[None] * 20, score_required=False)
    lines = report.markdown().split("| not judged |")[1].splitlines()
    assert len([line for line in lines if "and " in line and " more |" in line]) >= 1
    assert len(lines) < len(report.unjudged)


def test_a_dataset_that_is_smaller_than_the_last_one_is_said_in_plain_words():
    assert now_and_then("380 rows, then 480 (79%)") == "380 rows, 79% of the 480 of then"
    assert now_and_then("b: 3 of then, 4 now") == "b: 3 of then, 4 now"


def test_ranges_of_rows():
    assert ranges([]) == ""
    assert ranges([0, 1, 2, 7, 9, 10]) == "0-2, 7, 9-10"
    assert ranges(range(0, 200, 2)).endswith(", 78, …")


def test_what_blocks_nothing_is_told_without_pages_of_a_template():
    long = "<|im_start|>user How warm is it?<|im_end|>" * 5
    told = brief(f"'{long}' instead of 'short' in 2 of 2 conversations")
    assert told == f"'{long[:40]}…' instead of 'short' in 2 of 2 conversations"


def test_the_heading_tells_what_blocks_from_what_does_not():
    verdicts = [
        verdict("bad", passed=False),
        verdict("warned", passed=False, severity="warning"),
        verdict("good", passed=True),
    ]
    heading = verdicts_page(verdicts).partition("\n")[0]
    assert heading == "**1 failed and blocked; 1 failed without blocking; 1 passed**"
