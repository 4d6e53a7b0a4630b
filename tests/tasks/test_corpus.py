"""The corpus of datasets through the real readers, the real gate and the real format stage."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from expectations import formatting
from expectations.data.evidence import Reference
from expectations.data.messages import Rules
from expectations.data.scores import distribution
from expectations.verdicts import Rejected, require
from retune.chat import chatml_tokenizer, special_tokens
from retune.recipe import Dataset, Recipe
from retune.sources import SourceError
from tasks.fetch.batches import to_rows
from tasks.fetch.reading import read
from tasks.fetch.unused import Notes
from tasks.fetch.writing import write_rows
from tasks.format.chats import write_chats
from tasks.validate.gate import gate
from tasks.validate.prompts_child import texts
from tests.corpus import CASES_BAD, CASES_GOOD, Case, light_and_proof
from tests.corpus.bad_rows import LATIN_1, every, spoken
from tests.corpus.case import JSONL
from tests.corpus.tiers import is_container
from tests.tasks.conftest import make_tokenizer

pytestmark = pytest.mark.usefixtures("no_pages")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(folder)
    return chatml_tokenizer(str(folder), None, "map_eos")


def fetched(case: Case, folder):
    dataset, notes = Dataset(source=str(case.write(folder)), **case.dataset), Notes()
    tables = to_rows(read(dataset, None, folder / "cache"), "unnamed", notes)
    write_rows(tables, folder / "fetched.parquet")
    notes.summary().write(folder)
    return folder / "fetched.parquet"


def judged(case: Case, folder, tokenizer):
    rows = fetched(case, folder)
    config = case.validation(folder)
    files = map(Path, config.decontamination.files)
    prompts = (*case.prompts, *(text for file in files for text in texts(file)))
    rules = Rules(config, special_tokens(tokenizer), prompts)
    reference = Reference(distribution(pl.Series(case.reference, dtype=pl.Float64)))
    acknowledged = frozenset(case.dataset.get("ignore", ()))
    return gate(rows, rules, folder, reference, acknowledged=[acknowledged])


def named(cases):
    cases = list(cases)
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


@named([case for case in CASES_BAD if case.refused])
def test_an_unreadable_dataset_is_refused_in_words(case, tmp_path):
    with pytest.raises(SourceError) as refusal:
        fetched(case, tmp_path)
    assert case.refused.lower() in str(refusal.value).lower()


@pytest.mark.parametrize(
    "case", light_and_proof([case for case in CASES_BAD if case.stage == "validate"])
)
def test_a_bad_dataset_trips_its_expectation(case, tmp_path, tokenizer):
    report = judged(case, tmp_path, tokenizer)
    tripped = {verdict.name for verdict in report.verdicts if verdict.failed}
    assert case.trips in tripped
    assert bool(report.failed) == case.rejected, report.message()
    assert len(pl.read_parquet(tmp_path / "quarantine.parquet")) == report.quarantined


@named([case for case in CASES_BAD if case.stage == "format"])
def test_a_bad_dataset_is_stopped_by_its_token_ids(case, tmp_path, tokenizer):
    assert judged(case, tmp_path, tokenizer).failed == []
    lengths, _, _ = write_chats(tmp_path / "rows.parquet", tokenizer, 0.1, tmp_path)
    recipe = Recipe.parse({"name": "r", "model": {"base": "b"}, "dataset": {"source": "d"}})
    share = float((lengths > recipe.model.max_length).mean())
    with pytest.raises(Rejected, match=case.trips):
        require(formatting.judged({"truncated_share": share}, len(lengths), recipe))


@named(filter(is_container, CASES_GOOD))
def test_an_odd_container_is_read_as_its_rows_are(case, tmp_path):
    inside, plain = tmp_path / "inside", tmp_path / "plain"
    inside.mkdir()
    plain.mkdir()
    rows = pl.read_parquet(fetched(case, inside))
    as_lines = pl.read_parquet(fetched(replace(case, form=JSONL), plain))
    assert rows["problem"].null_count() == len(rows)
    assert rows["messages"].to_list() == as_lines["messages"].to_list()


def test_french_in_an_encoding_of_windows_is_named(tmp_path):
    """Its letters are words of a Baltic language, too, in that one's encoding."""
    case = Case("french", "", every(spoken("fr")), form=LATIN_1)
    with pytest.raises(SourceError, match=r"set dataset\.encoding=cp1252"):
        fetched(case, tmp_path)


@pytest.mark.parametrize("case", light_and_proof(CASES_GOOD))
def test_an_odd_but_good_dataset_passes(case, tmp_path, tokenizer):
    report = judged(case, tmp_path, tokenizer)
    assert report.failed == [], report.message()
    # Columns that are only metadata are warned of, and no more.
    assert [w for w in report.warnings if w.name != "ignored_columns"] == []
    lengths, held_out, _ = write_chats(tmp_path / "rows.parquet", tokenizer, 0.1, tmp_path)
    assert len(lengths) + held_out == report.accepted
