"""`retune incident`: from a file or a trace to a case, and from the case to the data gate."""

import io
import json
import sys
from pathlib import Path
from random import Random

import mlflow
import polars as pl
import pytest
from typer.testing import CliRunner

from flows.check import check
from flows.cli import app
from flows.incidents import conversation
from retune.suites.incidents import NoIncident, read_incidents
from retune.tracking import client, tracking_uri
from tests.corpus.text import sound
from tests.databases import working_in

ASKED = "May I return a mattress after sixty days, and who pays for the way back?"
USER = {"role": "user", "content": ASKED}
WRONG = {"role": "assistant", "content": "Yes, for ever."}
TOOLS = [{"type": "function", "function": {"name": "policy", "parameters": {}}}]
CALL = {"function": {"name": "policy", "arguments": "{}"}, "type": "function", "id": "1"}
KEY = "AKIA" + "IOSFODNN7EXAMPLE"


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with working_in(monkeypatch, tmp_path / "home"):
        yield tmp_path


def incident(*words: str):
    return CliRunner().invoke(app, ["incident", *words])


def add(value: object, *words: str):
    Path("seen.json").write_text(json.dumps(value))
    return incident("add", "seen.json", "--file", "made/i.jsonl", *words)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, WRONG]},
        [USER, WRONG],
        [{"messages": [USER, WRONG]}],
        {"conversations": [{"human": ASKED, "gpt": "Yes, for ever."}]},
        {"instruction": ASKED, "output": "Yes, for ever."},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": ASKED}]}, WRONG]},
    ],
    ids=["openai", "messages", "rows", "sharegpt", "alpaca", "parts"],
)  # fmt: skip
def test_a_conversation_of_any_shape_is_one(row):
    done = add(row, "--must-not", "for ever", "--reason", "30 days")
    assert done.exit_code == 0, done.exception
    (case,) = read_incidents(Path("made/i.jsonl"))
    assert case.chat == [USER]
    assert case.incident.answer == "Yes, for ever."
    assert case.incident.source == "seen.json"
    assert case.id in done.output
    listed = incident("list", "--file", "made/i.jsonl").output
    assert '"for ever"' in " ".join(listed.split())


def test_tools_and_calls_are_kept(monkeypatch):
    row = {"messages": [USER, {"role": "assistant", "tool_calls": [CALL]}], "tools": TOOLS}
    text = io.TextIOWrapper(io.BytesIO(json.dumps(row).encode()))
    monkeypatch.setattr(sys, "stdin", text)
    seen = conversation("-")
    assert seen.tools == TOOLS
    assert json.loads(seen.answer.removeprefix("<tool_call>").removesuffix("</tool_call>")) == {
        "name": "policy", "arguments": "{}",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "source", "row", "message"),
    [
        ('{"messages": []}', "s.json", None, "has no conversation"),
        ('{"a": 1}\n{"a": 2}', "s.json", None, "has 2 rows; say which by --row"),
        ('{"a": 1}\n{"a": 2}', "s.json", 2, "has no row 2, but 2, from 0"),
        ("nonsense", "s.json", None, "neither JSON nor JSON lines"),
        ("", "s.json", None, "has 0 rows"),
        (json.dumps([WRONG]), "s.json", None, "an answer and no question"),
        ("5", "s.json", None, "s.json has no conversation: the row is"),
        ("[" * 100_000, "s.json", None, "s.json"),
        ("", "tr-zz", None, "no file is at 'tr-zz'.*tr- and 32 hex"),
        ("", f"tr-{'0' * 32}", None, "there is no MLflow store"),
    ],
)
def test_what_is_no_conversation_is_one_clear_error(content, source, row, message):
    Path("s.json").write_text(content)
    with pytest.raises(NoIncident, match=message):
        conversation(source, row)


def test_a_secret_is_refused_and_a_person_is_told_of():
    secret = add([{**USER, "content": f"{ASKED} {KEY}"}, WRONG], "--must", "30")
    assert isinstance(secret.exception, NoIncident)
    assert "message 0: this may be a password or key" in str(secret.exception)
    assert KEY not in str(secret.exception)
    said = add([USER, WRONG], "--must-not", KEY, "--must", "30")
    assert "what is demanded" in str(said.exception)
    assert not read_incidents(Path("made/i.jsonl"))
    person = add([{**USER, "content": f"{ASKED} bo@example.com"}, WRONG], "--must", "30")
    assert person.exit_code == 0
    assert "message 0 seems to hold a person's data" in " ".join(person.output.split())


def test_where_it_goes_is_said_once():
    for words in ((), ("--recipe", "x", "--file", "y")):
        done = incident("list", *words)
        assert "--recipe RECIPE, or --file FILE" in str(done.exception)


SAID = [{"type": "text", "text": "Yes, for ever."}]
TRACED = {
    "chat": (
        {"model": "m", "messages": [USER], "tools": TOOLS},
        {"choices": [{"index": 0, "message": WRONG}], "usage": {}},
    ),
    "responses": ({"input": ASKED}, {"output": [{**WRONG, "type": "message", "content": SAID}]}),
    "function": ({"question": ASKED}, "Yes, for ever."),
    "messages": ([USER], {"messages": [USER, WRONG]}),
}


def test_a_trace_is_a_conversation():
    mlflow.set_tracking_uri(tracking_uri())
    try:
        experiment = client().create_experiment("traced")
        for asked, answered in TRACED.values():
            span = client().start_trace("chat", inputs=asked, experiment_id=experiment)
            client().end_trace(span.trace_id, outputs=answered)
            mlflow.flush_trace_async_logging()
            seen = conversation(span.trace_id)
            assert (seen.messages, seen.answer) == ([USER], "Yes, for ever.")
            assert seen.tools == (TOOLS if "tools" in asked else [])
        with pytest.raises(NoIncident, match="has no trace tr-0000"):
            conversation(f"tr-{'0' * 32}")
    finally:
        mlflow.set_tracking_uri(None)


@pytest.mark.proof  # a gate more
def test_a_row_near_an_incident_leaves_the_data(at_home, no_pages):
    add([USER, WRONG], "--must-not", "for ever", "--reason", "30 days")
    (case,) = read_incidents(at_home / "made" / "i.jsonl")
    copy = {**USER, "content": f"Hi! {ASKED.upper()} Thanks."}
    rows = [*sound(Random(1), 149), {"messages": [copy, {**WRONG, "content": "Within 30."}]}]
    Path("data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = ["evaluation.incidents=made/i.jsonl", "validation.score_required=false"]
    report = check("data.jsonl", settings, at_home / "report")
    assert (report.rows, report.quarantined) == (150, 1)
    (line,) = pl.read_parquet(at_home / "report" / "quarantine.parquet").to_dicts()
    assert (line["row"], line["reasons"]) == (149, ["contaminated"])
    assert line["excerpt"].startswith(f"like incidents/{case.id}: Hi! MAY I RETURN")
    (finding,) = (one for one in report.findings if one.flaw == "contaminated")
    assert f"incidents/{case.id}" in finding.examples[0].excerpt
