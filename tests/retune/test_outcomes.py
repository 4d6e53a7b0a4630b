"""Outcomes: one line per example, whose name depends on the example alone."""

from pathlib import Path

import pytest

from retune.outcomes import LOSS, Outcome, example_name, read_grades, write_outcomes

ASKED = [{"role": "user", "content": "Two and two?"}]


def outcome(grades: dict[str, float], tokens: int = 7) -> Outcome:
    name = example_name(ASKED, "4")
    return Outcome("tuned", "held_out", "sums", name, "[]", "4", "4", True, tokens, 0.5, grades)


def test_each_grade_is_a_line_and_a_loss_counts_by_its_tokens(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.parquet"
    write_outcomes(path, [outcome({LOSS: 1.5}), outcome({"exact_match": 1.0, "stopped": 0.0})])
    lines = read_grades(path).select("scorer", "value", "weight").rows()
    assert lines == [("loss", 1.5, 7.0), ("exact_match", 1.0, 1.0), ("stopped", 0.0, 1.0)]


def test_what_has_no_grade_is_no_line(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.parquet"
    write_outcomes(path, [outcome({})])
    assert read_grades(path).is_empty()


@pytest.mark.parametrize("other", [example_name(ASKED, "5"), example_name(ASKED[:0], "4")])
def test_an_example_is_what_is_asked_and_how_it_is_graded(other: str) -> None:
    assert example_name(list(ASKED), "4") == example_name(ASKED, "4") != other
