"""docs/report.md tells of every key in report.json what the models say of it."""

import json
import re
from pathlib import Path

import pytest

from expectations.data.findings import Contribution, Example, Finding
from expectations.data.report import Report
from expectations.data.scores import Distribution
from expectations.verdicts import Verdict
from tests.tasks.test_validate import run_gate, sound

PAGE = (Path(__file__).parents[2] / "docs" / "report.md").read_text()
MODELS = {
    "The report": Report,
    "A finding": Finding,
    "An example": Example,
    "A verdict": Verdict,
    "A source, or a part of a mix": Contribution,
    "Scores": Distribution,
}


def section(title: str) -> str:
    """Return the table below a heading."""
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize(("title", "model"), MODELS.items())
def test_every_key_is_explained(title, model):
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", section(title), re.MULTILINE)
    assert rows == [(name, field.description) for name, field in model.model_fields.items()]


def test_the_file_has_these_keys_and_the_rows_are_named(tmp_path, no_pages):
    flawed = [[("user", "q?"), ("assistant", f"see <|im_start|> {n}")] for n in range(30)]
    run_gate(tmp_path, *sound(40), *flawed)
    stored = json.loads((tmp_path / "report.json").read_text())
    assert set(stored) == set(Report.model_fields)
    assert set(stored["verdicts"][0]) == set(Verdict.model_fields)
    assert set(stored["findings"][0]["examples"][0]) == set(Example.model_fields)
    described = json.loads((tmp_path / "expectations.json").read_text())
    (found,) = [
        one
        for of_table in described
        for one in of_table["results"]
        if one["expectation_config"]["meta"]["name"] == "special_token"
    ]
    assert found["expectation_config"]["meta"]["title"].startswith("at most 1% of the rows have")
    rows = [one["row"] for one in found["result"]["partial_unexpected_index_list"]]
    assert rows == list(range(40, 60))  # bounded, of 30
