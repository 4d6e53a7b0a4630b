"""Nothing of a secret that a dataset holds is in anything that the gate shows, logs or stores."""

import json
import logging
from datetime import UTC, datetime

import polars as pl
import pytest

from expectations.data.excerpts import LENGTH
from expectations.data.messages import Rules
from expectations.verdicts import Rejected
from flows import judging
from retune.home import MARKER
from retune.manifest import REJECTED
from retune.outputs import Step
from retune.recipe import Dataset, Validation
from retune.records import Rows
from retune.sources import SourceError
from tasks.fetch.batches import to_rows
from tasks.fetch.reading import read
from tasks.fetch.writing import write_rows
from tasks.validate.gate import FILES, gate
from tasks.validate.quarantine import EXCERPTS
from tasks.validate.screening import FEATURES, WHOLE_ROWS
from tests.corpus.case import CSV, jsonl
from tests.expectations.test_masking import CANARIES, parts

SECRETS = "\n".join(secret for _, secret in CANARIES.values())


def talk(question: str = "How are you, {}?", role: str = "human", **columns) -> dict:
    turns = [{"from": role, "value": question}, {"from": "gpt", "value": f"Well, {question}"}]
    return {"conversations": turns, "source": "letters", "score": 3.4, **columns}


def spoiled() -> list[dict]:
    """Rows in which every canary stands wherever a row may hold text."""
    rows = [talk(f"How are you, number {n}?", score=3 + n / 400) for n in range(240)]
    for kind, (text, _) in CANARIES.items():
        rows += [
            talk(f"What is {kind} for? I have {text} here."),
            talk(f"Hello\x00 {text}"),
            talk(f"I use {text} for {kind}", role=text),
            talk(f"I am at home with {kind}", role="gpt", source=f"mail {text}"),
            talk(f"Of {kind}", source=text, score=99.0),
            {"key": text, "conversations": [{"from": "human", "text": text}]},
            {"conversations": [{"from": "human", "value": {"secret": text}}]},
            {text: kind, "conversations": f"{text}"},
            {text: kind},
        ]
    return rows


def fetched(folder, content: bytes, suffix: str = ".jsonl"):
    source = folder / f"data{suffix}"
    source.write_bytes(content)
    tables = to_rows(read(Dataset(source=str(source)), None, folder / "cache"), "unnamed")
    write_rows(tables, folder / "in.parquet")
    return folder / "in.parquet"


def judged(folder, **settings):
    cut = [line[: len(line) - 40] for line in jsonl(spoiled()).decode().splitlines()[240::9]]
    rows = fetched(folder, jsonl(spoiled()) + "\n".join(cut).encode())
    out = folder / "out"
    out.mkdir()
    return gate(rows, Rules(Validation(**settings)), out)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("leaks")
    return judged(folder, severities={"unknown_role": "warning"}), folder / "out"


@pytest.fixture(scope="module")
def unasked(tmp_path_factory):
    """The same of rows that are rejected before the classifier is asked for a score."""
    folder = tmp_path_factory.mktemp("unasked")
    classifier = {"model": str(folder / "there-is-none"), "score": "missing"}
    return judged(folder, classifier=classifier), folder / "out"


def leaked(text: str) -> list[str]:
    """Return the parts of secrets in a text; four digits may stand there by chance."""
    return sorted(part for part in parts(SECRETS) if len(part) == 8 and part in text)


def test_the_rows_are_full_of_secrets():
    text = "\n".join(row for row in map(json.dumps, spoiled()))
    assert len(leaked(text)) > 0.7 * len(parts(SECRETS))


@pytest.mark.parametrize("of", ["outcome", "unasked"])
@pytest.mark.parametrize(
    "name", [*[f for f in FILES if not f.endswith(".png")], FEATURES, EXCERPTS]
)
def test_no_file_that_is_stored_has_a_secret(name, of, request):
    """FILES go to MLflow, whether the rows pass or not; all of them into a report's folder."""
    report, folder = request.getfixturevalue(of)
    assert report.failed
    path = folder / name
    files = [path] if path.is_file() else [page for page in path.rglob("*") if page.is_file()]
    assert files
    for file in files:
        is_table = file.suffix == ".parquet"
        text = (
            pl.read_parquet(file).write_ndjson() if is_table else file.read_text(errors="replace")
        )
        assert not leaked(text), file


def test_a_source_is_shown_by_its_masked_name_and_counted_by_its_own(outcome):
    _, folder = outcome
    table = pl.read_parquet(folder / FEATURES)
    names = "\n".join(table["source"].unique())
    assert "[secret]" in names
    assert "mail [e-mail]" in names
    assert max(len(name) for name in table["source"]) <= LENGTH
    assert table["source_id"].n_unique() > table["source"].n_unique() > 5


def test_quarantine_and_report_still_say_what_was_found(outcome):
    report, folder = outcome
    found = {finding.flaw: finding.rows for finding in report.findings}
    assert found["malformed"] >= 3 * len(CANARIES)
    assert found["unknown_role"] >= len(CANARIES)
    assert found["secret"] >= 15
    excerpts = "\n".join(pl.read_parquet(folder / "quarantine.parquet")["excerpt"].drop_nulls())
    assert {"[secret]", "[e-mail]", "[card number]", "[IBAN]", "[national id]"} <= {
        word for word in ("[secret]", "[e-mail]", "[card number]", "[IBAN]", "[national id]")
        if word in excerpts
    }  # fmt: skip


def test_no_error_or_table_has_a_secret(outcome):
    from rich.console import Console

    from flows.check import shown

    report, _ = outcome
    console = Console(width=400, record=True)
    console.print(shown(report))
    assert "secret" in console.export_text()
    rejected = str(Rejected(report.judgement()))
    assert rejected == report.message()
    for text in (rejected, report.markdown(), console.export_text()):
        assert not leaked(text)


class Shelf:
    """Keeps what a judge gives to MLflow."""

    def __init__(self) -> None:
        self.kept: list[str] = []

    def log_metrics(self, metrics) -> None:
        self.kept.append(str(metrics))

    def log_files(self, folder, files, stage) -> None:
        self.kept += [str(files), stage, *((folder / name).read_text() for name in files)]

    def log_table(self, rows, file) -> None:
        self.kept += [str(rows), file]


def test_neither_log_nor_artifact_has_a_secret(outcome, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path))
    report, folder = outcome
    rows = Rows(step=Step(stage="validate", key={}), started=datetime.now(UTC), seconds=0)
    rows.folder.mkdir(parents=True)
    (rows.folder.parent / MARKER).touch()

    def write(to) -> tuple[str, ...]:
        (to / "report.json").write_bytes((folder / "report.json").read_bytes())
        return ("report.json",)

    artifacts, shelf = [], Shelf()
    monkeypatch.setattr(judging, "get_run_logger", lambda: logging.getLogger("gate"))
    monkeypatch.setattr(judging, "replace", lambda **what: artifacts.append(str(what)))
    with (
        caplog.at_level(logging.INFO, "gate"),
        pytest.raises(Rejected) as rejected,
        judging.judging(shelf) as judge,
    ):
        judge(rows, report.judgement(write))
    assert len(artifacts) == 2
    assert "an unknown role" in caplog.text
    assert "[secret]" in caplog.text
    marked = (rows.folder / REJECTED).read_text()
    for text in (str(rejected.value), marked, *artifacts):
        assert "cannot be read" in text
    assert "[secret]" in "".join(shelf.kept)
    assert not leaked(
        "\n".join([caplog.text, str(rejected.value), marked, *artifacts, *shelf.kept])
    )


@pytest.mark.parametrize("kind", CANARIES)
def test_no_refusal_of_a_source_has_a_secret(kind, tmp_path):
    text, _ = CANARIES[kind]
    sources = {
        "columns": jsonl([{text: "x", "b": text}]),
        "turns": jsonl([{"conversations": text, "a": text}]),
        "no JSON": f'{{"key": {text}'.encode(),
        "a role": jsonl([{"conversations": [{"role": {text: text}, "content": text}]}]),
    }
    for name, content in sources.items():
        with pytest.raises(SourceError) as refusal:
            fetched(tmp_path, content)
        assert not leaked(str(refusal.value)), name
    with pytest.raises(SourceError) as refusal:
        fetched(tmp_path, CSV.encode([{text: "x", "b": text}]), ".csv")
    assert not leaked(str(refusal.value))


def test_whole_rows_are_kept_only_when_asked_for(outcome, tmp_path):
    _, folder = outcome
    assert not (folder / WHOLE_ROWS).exists()
    report = judged(tmp_path, quarantine_rows="whole")
    whole = pl.read_parquet(tmp_path / "out" / WHOLE_ROWS)
    assert len(whole) == report.quarantined
    assert leaked(whole.write_ndjson())
    assert WHOLE_ROWS not in FILES
    assert set(whole["row"]) == set(pl.read_parquet(tmp_path / "out" / "quarantine.parquet")["row"])
