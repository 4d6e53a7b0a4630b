"""`retune harvest`: from traces and logs to rows that the gate judges, each person's on one side."""

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import mlflow
import polars as pl
import pytest
from mlflow.entities import AssessmentSource
from typer.testing import CliRunner

from flows.check import check
from flows.cli import app
from flows.harvesting.harvest import Harvested, harvest
from retune.chat import chatml_tokenizer
from retune.harvesting.ledger import HarvestError
from retune.harvesting.settings import Harvest
from retune.recipe import Dataset
from retune.recipe.section import RecipeError
from retune.tracking import client, tracking_uri
from tasks.fetch.batches import to_rows
from tasks.fetch.reading import read
from tasks.fetch.writing import write_rows
from tasks.format.chats import write_chats
from tests.corpus.text import sound
from tests.databases import furnish_mlflow, working_in
from tests.tasks.conftest import make_tokenizer
from tests.test_house import ROOT

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
KEY = "AKIA" + "IOSFODNN7EXAMPLE"
ALL = Harvest(max_self_generated_share=1)


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with working_in(monkeypatch, tmp_path / "home"):
        yield tmp_path


def logged(number: int, days: float = 1, user: str | None = "bo", **more: object) -> dict:
    """Return a request and its answer, so many days old."""
    asked = {"role": "user", "content": f"Where is parcel {number}?"}
    answer = {"role": "assistant", "content": f"Parcel {number} is on its way."}
    return {
        "request": {"messages": [asked], "user": user, "metadata": {"consent": "Yes"}},
        "response": {"choices": [{"message": answer, "finish_reason": "stop"}]},
        "timestamp": (NOW - timedelta(days=days)).isoformat(),
    } | more


def write(*rows: object, name: str = "log.jsonl") -> str:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    Path(name).write_text("\n".join(lines))
    return name


def take(source: str = "log.jsonl", settings: Harvest = ALL, **more) -> Harvested:
    more = {"now": NOW} | more
    return harvest(source, Path("data"), settings, **more)


def kept() -> list[dict]:
    """Return the rows in the folder, by file and line."""
    files = sorted(Path("data").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def answers() -> list[str]:
    return [row["messages"][-1]["content"] for row in kept()]


def content() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path("data").rglob("*") if path.is_file()}


def without(row: dict, *keys: str) -> dict:
    return {key: value for key, value in row.items() if key not in keys}


REFUSED = {
    "no_consent": logged(1, request={"messages": [{"role": "user", "content": "q"}]}),
    "undated": without(logged(1), "timestamp"),
    "too_old": logged(1, days=200),
    "failed": logged(1, response={"choices": [{"message": {"content": "Par"}, "finish_reason": "length"}]}),  # noqa: E501
    "thumbs_down": logged(1, feedback={"value": "down"}),
    "unreadable": logged(1, response=None),
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_not_taken_is_counted_by_its_reason(reason):
    write(REFUSED[reason], logged(2))
    outcome = take()
    assert outcome.records == {reason: 1, "taken": 1}
    assert answers() == ["Parcel 2 is on its way."]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"timestamp": NOW.timestamp() * 1000}, "taken"),
        ({"timestamp": None, "created": NOW.timestamp()}, "taken"),
        ({"timestamp": "2999-01-01"}, "undated"),
        ({"timestamp": 10**400}, "undated"),
        ({"timestamp": True}, "undated"),
        ({"timestamp": {"a": 1}}, "undated"),
        ({"response": {"status_code": 500, "body": {"error": {"message": "no"}}}}, "unreadable"),
        ({"response": {"choices": [{"message": {"content": one}} for one in "ab"]}}, "unreadable"),
        ({"response": {"output_text": "It is here."}}, "taken"),
        ({"consent": "no"}, "no_consent"),
        ({"consent": True}, "taken"),
        ({"feedback": -1}, "thumbs_down"),
        ({"feedback": {"thumbs": {"deep": []}}}, "taken"),
    ],
)  # fmt: skip
def test_fields_of_other_forms(change, reason):
    write(logged(1, **change), logged(2))
    assert take().records == ({"taken": 2} if reason == "taken" else {"taken": 1, reason: 1})


def test_a_row_of_messages_with_its_metadata_is_one():
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "an answer"}]
    more = {"metadata": {"consent": "yes", "user": "li"}, "created": NOW.timestamp()}
    write({"messages": [*turns, *turns], **more}, {"messages": turns[:1], "choices": [{"message": turns[1]}], **more})  # fmt: skip  # noqa: E501
    assert take().records["taken"] == 2
    long, short = kept()
    assert [turn.get("weight") for turn in long["messages"]] == [None, 0, None, None]
    assert long["split_group"] == short["split_group"]


def test_an_edit_replaces_the_answer_also_of_a_row_that_was_taken():
    write(logged(1), logged(2), logged(3))
    take()
    before = Path("data").glob("*.jsonl")
    assert len(list(before)) == 1
    write(
        logged(1, feedback={"value": "down", "correction": "It is lost."}),
        logged(2, feedback="down"),
        logged(3, feedback="up"),
        name="later.jsonl",
    )
    outcome = take("later.jsonl")
    assert outcome.left == {"replaced": 1, "thumbs_down": 1}
    assert (outcome.edited, outcome.own, outcome.rows) == (1, 0, 2)
    assert sorted(answers()) == ["It is lost.", "Parcel 3 is on its way."]
    again = take()  # the earlier log undoes nothing
    assert again.records == {"known": 2, "thumbs_down": 1, "taken": 0}
    assert sorted(answers()) == ["It is lost.", "Parcel 3 is on its way."]


def test_twice_takes_nothing_twice_and_touches_nothing():
    write(logged(1), logged(2), logged(2), logged(3, user="li"))
    assert take().records == {"taken": 3, "known": 1}
    before = content()
    assert take().records == {"known": 4, "taken": 0}
    assert content() == before
    same = logged(1, user="li")
    write(same, name="same.jsonl")
    assert take("same.jsonl").records == {"duplicate": 1, "taken": 0}


def test_a_person_who_withdraws_leaves_and_does_not_come_back():
    write(*(logged(n, user=("bo", "li")[n % 2]) for n in range(6)))
    take()
    assert "li" not in " ".join(value.decode() for value in content().values()).split('"')
    outcome = take(withdrawn=["li"])
    assert outcome.left == {"withdrawn": 3}
    assert outcome.rewritten == [file.name for file in Path("data").glob("*.jsonl")]
    assert answers() == [f"Parcel {n} is on its way." for n in (0, 2, 4)]
    write(logged(7, user="li"), logged(8))
    assert take().records == {"withdrawn": 1, "taken": 1}


def test_rows_expire():
    write(logged(1, days=100), logged(2, days=1))
    take()
    outcome = take(now=NOW + timedelta(days=90))
    assert outcome.left == {"too_old": 1}
    assert answers() == ["Parcel 2 is on its way."]


def test_a_shard_that_somebody_changed_is_not_guessed_at():
    write(logged(1), logged(2, user="li"))
    take()
    (shard,) = Path("data").glob("*.jsonl")
    shard.write_text(shard.read_text() + "{}\n")
    with pytest.raises(HarvestError, match="is not as it was harvested"):
        take(withdrawn=["li"])
    shard.unlink()
    assert take().records["known"] == 2


def test_self_generated_answers_are_capped_by_a_sample_that_stays():
    up = [logged(n, feedback="up") for n in range(10)]
    own = [logged(n) for n in range(10, 50)]
    write(*up, *own)
    settings = Harvest(max_self_generated_share=0.25)
    outcome = take(settings=settings)
    assert outcome.records == {"taken": 13, "capped": 37}
    assert (outcome.own, outcome.rows) == (3, 13)
    assert take(settings=settings).records == {"known": 13, "capped": 37, "taken": 0}
    none = take(settings=Harvest(max_self_generated_share=0))
    assert none.left == {"capped": 3}
    assert len(kept()) == 10


def test_secrets_and_persons_are_masked_or_not_taken():
    call = {
        "id": "9",
        "type": "function",
        "function": {"name": "f", "arguments": '{"password": "hunter22x"}'},
    }
    said = [{"role": "user", "content": "Look."}, {"role": "assistant", "tool_calls": [call]}]
    write(
        logged(1, feedback={"correction": f"The key is {KEY}, mail bo@shop.org."}),
        logged(2, request={"messages": said[:1], "metadata": {"consent": "yes", "note": KEY}}, response=said[1]),  # noqa: E501
        logged(3),
    )  # fmt: skip
    outcome = take()
    assert outcome.masked == 1
    assert outcome.records == {"taken": 2, "not_redacted": 1}
    everything = b"".join(content().values()).decode()
    assert not [secret for secret in (KEY, "bo@shop.org", "hunter22x") if secret in everything]
    write(logged(4, feedback={"correction": "Mail li@shop.org."}), name="b.jsonl")
    assert take("b.jsonl", Harvest(redaction="drop")).records == {"not_redacted": 1, "taken": 0}


HOSTILE = {
    "no JSON": "{\x1b[31m",
    "deep": "[" * 100_000,
    "deep messages": '{"request": ' * 90 + "1" + "}" * 90,
    "no object": "[]",
    "wrong types": json.dumps({"messages": {"role": 1}, "metadata": 5, "user": [], "feedback": [{}]}),
    "content": json.dumps(logged(1, request={"messages": [{"role": "user", "content": {"a": 1}}]})),
    "role": json.dumps(logged(1, request={"messages": [{"role": 7, "content": "a"}]})),
    "picture": json.dumps(logged(1, request={"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})),  # noqa: E501
    "digits": "9" * 10_000,
    "secret": f'{{"request": "{KEY}"',
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_line_is_counted_with_its_number_and_harms_nothing(name):
    write(logged(5), HOSTILE[name], logged(6))
    settings = ["--set", "retention_days=9999", "--set", "max_self_generated_share=1"]
    done = CliRunner().invoke(app, ["harvest", "log.jsonl", "data", *settings])
    assert done.exit_code == 0, done.exception
    assert "log.jsonl line 2" in done.output
    assert "\x1b" not in done.output
    assert KEY not in done.output
    assert len(kept()) == 2


def test_halves_of_characters_and_long_lines():
    row = json.dumps(logged(1)).replace("Parcel", "Parcel \\ud800")
    write(row, json.dumps(logged(2, note="x" * 5000)), logged(3))
    outcome = take(settings=ALL.model_copy(update={"max_line_bytes": 2000}))
    assert outcome.records == {"taken": 2, "unreadable": 1}
    assert "line 2" in outcome.unread[0].place
    assert "\ufffd" in answers()[0]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nowhere.jsonl", "no file is at 'nowhere.jsonl'"),
        ("log.txt", "none of its 1 records can be read; log.txt line 1"),
        ("mlflow:none", "has no experiment 'none'"),
        ("log.gz", "is packed"),
    ],
)
def test_a_bad_source_is_one_clear_error(source, words):
    Path("log.txt").write_text("nonsense")
    Path("log.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(HarvestError, match=words):
        take(source)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("retention_days=-1", "retention_days"),
        ("retention=1", "unknown key 'retention'; did you mean 'retention_days'"),
        ("feedback_up=[down]", "both name 'down'"),
        ("consent_values=[]", "consent_values"),
    ],
)
def test_a_bad_setting_is_named(setting, words):
    with pytest.raises(RecipeError, match=words):
        Harvest.load(None, [setting])


def test_settings_stand_in_a_file_or_in_the_command():
    Path("harvest.yaml").write_text("retention_days: 30\nconsent_field: ok\n")
    settings = Harvest.load(None, ["retention_days=40"])
    assert (settings.consent_field, settings.retention_days) == ("ok", 40)


def test_a_folder_of_other_things_is_refused():
    write(logged(1))
    Path("data").mkdir()
    Path("data/rows.parquet").touch()
    with pytest.raises(HarvestError, match=r"holds 'rows\.parquet'"):
        take()


def test_a_dry_run_writes_nothing():
    write(logged(1), logged(2))
    assert take(dry_run=True).records == {"taken": 2}
    assert not Path("data").exists()
    take()
    before = content()
    assert take(dry_run=True, withdrawn=["bo"]).left == {"withdrawn": 2}
    assert content() == before


@pytest.mark.parametrize("stop", ["shard", "state", "moved"])
def test_a_killed_harvest_leaves_all_or_nothing(stop):
    """Killed before the shard is written, before it counts, and before it is moved into place."""
    write(logged(1), logged(2))
    code = f"""
import os, signal
from datetime import datetime
from pathlib import Path
from flows.harvesting.harvest import harvest
from retune.harvesting import ledger
from retune.harvesting.settings import Harvest
whole, settle, calls = ledger.write_whole, ledger.Ledger.settle, []
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
def write(path, text):
    if {stop!r} == "shard" or ({stop!r} == "state" and path.name == ledger.STATE): die()
    whole(path, text)
def settled(self):
    calls.append(1)
    if len(calls) > 1: die()
    settle(self)
ledger.write_whole = write
if {stop!r} == "moved": ledger.Ledger.settle = settled
settings, now = Harvest(max_self_generated_share=1), datetime.fromisoformat({NOW.isoformat()!r})
harvest("log.jsonl", Path("data"), settings, now=now)
"""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not kept()
    taken = take().records
    assert taken == ({"known": 2, "taken": 0} if stop == "moved" else {"taken": 2})
    assert len(kept()) == 2
    assert not list(Path("data/.harvest/pending").iterdir())


def test_two_harvests_at_once_wait_for_each_other(monkeypatch):
    from filelock import FileLock

    write(logged(1))
    take()
    monkeypatch.setattr("retune.harvesting.ledger.PATIENCE", 0.05)
    with FileLock("data/.harvest/lock"), pytest.raises(HarvestError, match="another harvest"):
        take()


def people(count: int) -> list[dict]:
    """Return requests of so many people, three of each, with answers that a gate accepts."""
    said = [row["conversations"] for row in sound(Random(1), 3 * count)]
    return [
        {"messages": turns, "consent": "yes", "user": f"person {n % count}", "timestamp": f"{NOW}"}
        for n, turns in enumerate(said)
    ]


def test_the_gate_judges_what_was_harvested(tmp_path, no_pages):
    write(*people(40))
    assert take().records["taken"] == 120
    report = check("data", ["validation.score_required=false"], tmp_path / "report")
    assert (report.rows, report.quarantined, report.failed) == (120, 0, [])


@pytest.fixture
def traced(tmp_path):
    """An MLflow store of its own, and its experiment."""
    furnish_mlflow(tmp_path / "home")
    mlflow.set_tracking_uri(tracking_uri())
    yield client().create_experiment("service")
    mlflow.set_tracking_uri(None)


def trace(experiment: str, number: int, user: str, consent: str = "yes") -> str:
    row = logged(number)
    span = client().start_trace(
        "chat", inputs=row["request"], experiment_id=experiment, tags={"consent": consent, "user": user}
    )  # fmt: skip
    client().end_trace(span.trace_id, outputs=row["response"])
    return span.trace_id


def test_traces_become_rows_each_persons_on_one_side(tmp_path, traced, monkeypatch):
    monkeypatch.setattr("secrets.token_hex", lambda count: "5" * 2 * count)  # people on both sides
    ids = [trace(traced, n, f"person {n % 4}") for n in range(8)]
    refused = trace(traced, 99, "person 1", consent="no")
    mlflow.flush_trace_async_logging()
    source, now = "mlflow:service", datetime.now(UTC)
    first = take(source, now=now)
    assert first.records == {"taken": 8, "no_consent": 1}
    before = content()
    assert take(source, now=now).records == {"known": 8, "no_consent": 1, "taken": 0}
    assert content() == before
    assert not [
        name for name in (refused, "person 1") if name.encode() in b"".join(before.values())
    ]

    human, judge = AssessmentSource("HUMAN", "li"), AssessmentSource("LLM_JUDGE", "m")
    mlflow.log_feedback(trace_id=ids[0], name="feedback", value=False, source=human)
    mlflow.log_feedback(trace_id=ids[1], name="feedback", value=False, source=judge)
    edit = {"name": "expected_response", "value": "It is lost."}
    mlflow.log_expectation(trace_id=ids[2], source=human, **edit)
    client().set_trace_tag(ids[3], "consent", "no")
    later = take(source, now=now)
    assert later.left == {"thumbs_down": 1, "replaced": 1, "no_consent": 1}
    assert (later.rows, later.edited) == (6, 1)
    assert "It is lost." in answers()
    assert take(source, now=now, withdrawn=[ids[5]]).left == {"withdrawn": 1}

    make_tokenizer(tmp_path)
    tables = to_rows(read(Dataset(source="data"), None, tmp_path / "cache"), "data")
    write_rows(tables, tmp_path / "rows.parquet")
    tokenizer = chatml_tokenizer(str(tmp_path), None, "map_eos")
    write_chats(tmp_path / "rows.parquet", tokenizer, 0.4, tmp_path)
    groups = pl.read_parquet(tmp_path / "rows.parquet")["split_group"]
    train, held_out = (
        {groups[row] for row in pl.read_parquet(tmp_path / f"{side}.parquet")["row"]}
        for side in ("train", "held_out")
    )
    assert train
    assert held_out
    assert not train & held_out
    assert len(train | held_out) == 4
