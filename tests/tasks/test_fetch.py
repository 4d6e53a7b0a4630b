"""Rows of one shape, whatever the file or repository they come from."""

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retune.config import Dataset
from retune.sources import SourceError, pin
from tasks.fetch import read, to_rows

SHAREGPT = [
    {
        "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": f"What is {n} + 1?"},
            {"from": "gpt", "value": str(n + 1)},
        ],
        "source": "sums",
        "score": 3.0 + n / 100,
    }
    for n in range(20)
]


def fetched(path: Path, split: str = "train", commit: str | None = None) -> list[dict]:
    dataset = Dataset(source=str(path), split=split)
    return to_rows(read(dataset, commit, path.parent / "cache"), "unnamed").to_pylist()


def lines(path: Path, rows: list) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def parquet(rows: list) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


EXPECTED = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 0 + 1?"},
    {"role": "assistant", "content": "1"},
]


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "arrow", "csv"])
def test_every_file_format_gives_the_same_rows(tmp_path, kind):
    path = tmp_path / f"data.{kind}"
    if kind == "parquet":
        path.write_bytes(parquet(SHAREGPT))
    elif kind == "arrow":
        table = pa.Table.from_pylist(SHAREGPT)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    elif kind == "csv":
        table = [{**row, "conversations": json.dumps(row["conversations"])} for row in SHAREGPT]
        import csv

        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["conversations", "source", "score"])
            writer.writeheader()
            writer.writerows(table)
    elif kind == "json":
        path.write_text(json.dumps(SHAREGPT))
    else:
        lines(path, SHAREGPT)
    rows = fetched(path)
    assert len(rows) == 20
    assert rows[0] == {"row": 0, "messages": EXPECTED, "source": "sums", "score": 3.0}


def test_a_slice_of_the_split_is_read(tmp_path):
    path = lines(tmp_path / "d.jsonl", SHAREGPT)
    assert [row["row"] for row in fetched(path, "train[5:8]")] == [0, 1, 2]
    assert fetched(path, "train[5:8]")[0]["messages"][1]["content"] == "What is 5 + 1?"


def test_openai_messages(tmp_path):
    rows = fetched(lines(tmp_path / "d.jsonl", [{"messages": EXPECTED}]))
    assert rows == [{"row": 0, "messages": EXPECTED, "source": "unnamed", "score": None}]


def test_alpaca_columns(tmp_path):
    data = [
        {"instruction": "Add.", "input": "1 + 1", "output": "2", "system": "Be brief."},
        {"instruction": "Say hi.", "input": "", "output": "hi", "system": None},
    ]
    first, second = (row["messages"] for row in fetched(lines(tmp_path / "d.jsonl", data)))
    assert [m["content"] for m in first] == ["Be brief.", "Add.\n\n1 + 1", "2"]
    assert [(m["role"], m["content"]) for m in second] == [("user", "Say hi."), ("assistant", "hi")]


def test_flawed_rows_reach_the_gate(tmp_path):
    data = [
        SHAREGPT[0],
        {"conversations": [{"from": "wizard", "value": None}], "source": None, "score": None},
        {"conversations": [], "source": "s", "score": float("nan")},
        {"conversations": None, "source": "s", "score": 1},
    ]
    rows = fetched(lines(tmp_path / "d.jsonl", data))
    assert rows[1]["messages"] == [{"role": "wizard", "content": None}]
    assert rows[1]["source"] == "unnamed"
    assert [len(row["messages"]) for row in rows] == [3, 1, 0, 0]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("d.jsonl", '{"conversations": []}\n{"conv', "line 2 is not JSON"),
        (
            "d.jsonl",
            '{"text": "a"}',
            r"no usable columns among \['text'\]; expected `conversations`",
        ),
        ("d.jsonl", '{"conversations": "not json"}', "row 0 is not JSON"),
        (
            "d.jsonl",
            '{"conversations": [{"who": "x"}]}',
            r"a turn in `conversations` has \['who'\]",
        ),
        ("d.jsonl", '{"conversations": 3}', "is int64, not a list of turns"),
        (
            "d.jsonl",
            '{"instruction": "a", "output": "b", "score": "high"}',
            "column `score` is not numeric",
        ),
        ("d.jsonl", "", "has no rows in split"),
        ("d.txt", "x", "cannot read 'd.txt'; use one of .jsonl"),
    ],
)
def test_unusable_files_say_why(tmp_path, name, text, expected):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(SourceError, match=expected):
        fetched(path)


def test_an_empty_slice_is_refused(tmp_path):
    path = lines(tmp_path / "d.jsonl", SHAREGPT)
    with pytest.raises(SourceError, match=r"no rows in split 'train\[50:60\]'"):
        fetched(path, "train[50:60]")


@pytest.mark.parametrize("name", ["./nowhere.jsonl", "nowhere.parquet", "/no/folder", "a b"])
def test_a_missing_path_is_not_taken_for_a_hub_id(name):
    with pytest.raises(SourceError, match="nothing is at"):
        pin(name, None, "dataset", "dataset.source")


def test_a_local_file_is_pinned_by_its_content(tmp_path):
    path = lines(tmp_path / "d.jsonl", SHAREGPT)
    first = pin(str(path), None, "dataset", "dataset.source")
    assert first.startswith("sha256:")
    path.write_text("changed")
    assert pin(str(path), None, "dataset", "dataset.source") != first


def test_a_hub_dataset_is_read_at_its_pinned_commit(hub, tmp_path):
    old = hub.add_dataset("org/tome", {"data/train.parquet": parquet(SHAREGPT)})
    assert pin("org/tome", None, "dataset", "dataset.source") == old
    newer = hub.add_dataset("org/tome", {"data/train.parquet": parquet(SHAREGPT[:5])})
    assert pin("org/tome", "main", "dataset", "dataset.source") == newer
    dataset = Dataset(source="org/tome", split="train[:10]")
    rows = to_rows(read(dataset, old, tmp_path), "org/tome").to_pylist()
    assert len(rows) == 10
    assert rows[0]["messages"] == EXPECTED


def test_an_unknown_hub_dataset_or_revision_says_so(hub):
    with pytest.raises(SourceError, match="no dataset 'org/nope' on the Hub"):
        pin("org/nope", None, "dataset", "dataset.source")
    hub.add_dataset("org/tome", {"a.jsonl": b"{}"})
    with pytest.raises(SourceError, match="has no revision 'v9'"):
        pin("org/tome", "v9", "dataset", "dataset.source")


def test_a_failing_hub_is_worth_a_retry(hub):
    hub.add_dataset("org/tome", {"a.jsonl": b"{}"})
    hub.fail("GET", "/api/datasets/org/tome", 503, times=20)
    with pytest.raises(ConnectionError, match="the Hub did not answer"):
        pin("org/tome", None, "dataset", "dataset.source")
