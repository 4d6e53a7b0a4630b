"""Rows of one shape, whatever the file or repository they come from."""

import csv
import gzip
import io
import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retune.recipe import Dataset
from retune.sources import SourceError, pin
from tasks.fetch.batches import to_rows
from tasks.fetch.columns import row_schema
from tasks.fetch.reading import read
from tasks.fetch.writing import write_rows

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
    batches = read(dataset, commit, path.parent / "cache")
    return pa.concat_tables(to_rows(batches, "unnamed")).to_pylist()


def lines(path: Path, rows: list) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def parquet(rows: list) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


EXPECTED = [
    {"role": "system", "content": "Be brief.", "learn": None},
    {"role": "user", "content": "What is 0 + 1?", "learn": None},
    {"role": "assistant", "content": "1", "learn": None},
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
    assert [row["row"] for row in rows] == list(range(20))
    assert rows[0] == {
        "row": 0,
        "messages": EXPECTED,
        "source": "sums",
        "split_group": None,
        "score": 3.0,
        "format": "sharegpt",
        "problem": None,
    }


MIXED = [
    '{"messages": [{"role": "user", "content": "0"}], "score": 1}',
    '{"instruction": "1", "output": "one", "score": "2.5"}',
    "{",
    '{"prompt": "3", "completion": {"not": "text"}}',
    '{"conversations": [{"from": "human", "value": "4"}], "score": NaN}',
    "",
    '{"messages": [{"role": "user", "content": 5}]}',
]


def test_a_malformed_row_is_named_and_its_neighbours_are_read(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join(MIXED))
    rows = fetched(path)
    assert [row["row"] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert [row["format"] for row in rows] == [
        *("openai", "alpaca", None, "prompt_completion", "sharegpt", "openai")
    ]
    firsts = [row["messages"] and row["messages"][0]["content"] for row in rows]
    assert firsts == ["0", "1", None, None, "4", None]
    assert [row["score"] for row in rows[:2]] == [1, 2.5]
    assert math.isnan(rows[4]["score"])
    problems = [row["problem"] for row in rows]
    assert problems[0] is problems[1] is problems[4] is None
    assert problems[2].startswith("line 3 is not JSON (")
    assert problems[3] == '`completion` is an object, not text: {"not": "text"}'
    assert problems[5] == "the content of message 0 of `messages` is a number, not text: 5"


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "csv", "mixed"])
@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", range(20)),
        ("train[5:8]", range(5, 8)),
        ("train[:3]", range(3)),
        ("train[18:99]", range(18, 20)),
        ("train[10%:25%]", range(2, 5)),
        ("held_out[95%:]", range(19, 20)),
    ],
)
def test_a_slice_of_the_split_is_read_and_numbered_from_0(tmp_path, split, expected, kind):
    data = [{"prompt": f"{n}", "completion": "x", "date": "2024-01-01"} for n in range(20)]
    path = tmp_path / f"d.{kind if kind != 'mixed' else 'jsonl'}"
    if kind == "json":
        path.write_text(json.dumps(data))
    elif kind == "parquet":
        path.write_bytes(parquet(data))
    elif kind == "csv":
        path.write_text("".join(["prompt,completion\n", *(f"{n},x\n" for n in range(20))]))
    else:
        lines(path, data)
    if kind == "mixed":
        path.write_text(path.read_text().replace('{"prompt": "6"', "{"))
    rows = fetched(path, split)
    assert [row["row"] for row in rows] == list(range(len(expected)))
    questions = [row["messages"] and row["messages"][0]["content"] for row in rows]
    broken = 6 if kind == "mixed" else None
    assert questions == [None if n == broken else f"{n}" for n in expected]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("split", ["train[50:60]", "train[8:5]", "train[0:0]"])
def test_an_empty_slice_is_refused(tmp_path, split, kind):
    path = tmp_path / f"d.{kind}"
    path.write_bytes(parquet(SHAREGPT)) if kind == "parquet" else lines(path, SHAREGPT)
    with pytest.raises(SourceError, match="has no rows in split"):
        fetched(path, split)


def test_a_slice_beyond_100_percent_is_refused(tmp_path):
    path = lines(tmp_path / "d.jsonl", SHAREGPT)
    with pytest.raises(SourceError, match=r"dataset.split: 'train\[:200%\]' cannot be read"):
        fetched(path, "train[:200%]")


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"{json.dumps(row)}\r\n\r\n" for row in SHAREGPT),
        json.dumps(SHAREGPT, indent=2),
        " \n[" + ",\n".join(map(json.dumps, SHAREGPT)) + "\n]\n",
        json.dumps({"version": 1, "data": SHAREGPT}, indent=1),
        json.dumps({"data": SHAREGPT}),
    ],
    ids=["lines", "indented array", "array of lines", "object of rows", "object on a line"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_json_may_be_laid_out_and_encoded_in_many_ways(tmp_path, text, encoding, suffix):
    path = tmp_path / f"d{suffix}"
    path.write_bytes(text.replace("What is 0", "What is ½").encode(encoding))
    rows = fetched(path)
    assert len(rows) == 20
    assert rows[0]["messages"][1]["content"] == "What is ½ + 1?"


def test_a_json_array_is_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.fetch.json_arrays._PIECE", 64)
    path = tmp_path / "d.json"
    path.write_text(json.dumps(SHAREGPT))
    assert [row["messages"][2]["content"] for row in fetched(path)] == [
        f"{n + 1}" for n in range(20)
    ]


def test_a_file_of_one_json_object_is_one_row(tmp_path):
    path = tmp_path / "d.json"
    path.write_text(json.dumps(SHAREGPT[0], indent=2))
    assert [row["messages"] for row in fetched(path)] == [EXPECTED]


def test_bytes_that_are_no_utf8_reach_the_gate_as_replacement_characters(tmp_path):
    data = json.dumps({"prompt": "caf_", "completion": "hi"}).encode().replace(b"_", b"\xe9")
    (tmp_path / "d.jsonl").write_bytes(data)
    (tmp_path / "d.csv").write_bytes(b"prompt,completion\ncaf\xe9,hi\n")
    names = pa.array([b"caf\xe9"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"prompt": names, "completion": ["hi"]}), tmp_path / "d.parquet")
    for kind in ("jsonl", "csv", "parquet"):
        (row,) = fetched(tmp_path / f"d.{kind}")
        assert [m["content"] for m in row["messages"]] == ["caf\ufffd", "hi"], kind


def test_texts_stay_what_the_file_says(tmp_path):
    contents = [
        "2024-01-01",
        "2024-01-01T00:00:00Z",
        "null",
        "NA",
        "12",
        "1e5",
        "true",
        "\u2028",
        "a\0b",
    ]
    data = [{"prompt": text, "completion": text, "source": text} for text in contents]
    for row, name in zip(data, ["all.jsonl", "first.jsonl"] * 9, strict=False):
        lines(tmp_path / name, [row])
        assert [m["content"] for m in fetched(tmp_path / name)[0]["messages"]] == [
            row["prompt"]
        ] * 2
    with (tmp_path / "d.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", "completion", "source"])
        writer.writeheader()
        writer.writerows(data)
    for path in (lines(tmp_path / "d.jsonl", data), tmp_path / "d.csv"):
        rows = fetched(path)
        assert [row["messages"][1]["content"] for row in rows] == contents
        assert [row["source"] for row in rows] == contents


def test_csv_rows_are_named_when_their_quotes_or_cells_are_wrong(tmp_path):
    path = tmp_path / "d.csv"
    long = "x" * 200_000
    path.write_text(
        f'prompt,completion,score\nhi,"a ""b""\nc",1\nhi,"x"y,2\na,b,c,d\n\nhi,{long},\n'
    )
    good, quotes, cells, last = fetched(path)
    assert [m["content"] for m in good["messages"]] == ["hi", 'a "b"\nc']
    assert quotes["problem"].startswith("line 4 is not CSV (")
    assert cells["problem"] == "line 5 has 4 cells, but the header 3"
    assert (last["messages"][1]["content"], last["score"]) == (long, None)


def test_columns_of_struct_type_do_not_add_nulls(tmp_path):
    """Parquet gives every struct the keys of all others; a call must not get another's arguments."""
    calls = [
        {"name": "weather", "arguments": {"city": "Oslo"}},
        {"name": "now", "arguments": {"zone": 1}},
    ]
    data = [{"messages": [{"role": "assistant", "tool_calls": [call]}]} for call in calls]
    path = tmp_path / "d.parquet"
    path.write_bytes(parquet(data))
    assert [row["messages"][0]["content"] for row in fetched(path)] == [
        f"<tool_call>\n{json.dumps(call)}\n</tool_call>" for call in calls
    ]


def test_columns_that_no_format_knows_are_not_looked_at(tmp_path):
    year_10000 = pa.array([253402300800], pa.timestamp("s"))
    columns = {"prompt": ["a"], "completion": ["b"], "system": ["s"], "date": year_10000}
    pq.write_table(pa.table(columns), tmp_path / "d.parquet")
    assert len(fetched(tmp_path / "d.parquet")[0]["messages"]) == 3


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "d.jsonl",
            '{"text": "a"}',
            r"no usable columns among \['text'\]; expected `conversations`",
        ),
        ("d.parquet", parquet([{"text": "a"}]), r"no usable columns among \['text'\]"),
        ("d.csv", "a;b\n1;2\n", r"no usable columns among \['a', 'b'\]"),
        ("d.jsonl", '{"conversations": "not json"}', "row 0: `conversations` is not JSON"),
        (
            "d.jsonl",
            '{"conversations": [{"who": "x"}]}',
            r'row 0: message 0 of `conversations` has no `role` \(or `from`\): \{"who": "x"\}',
        ),
        (
            "d.jsonl",
            '{"conversations": 3}',
            "`conversations` is a number, not a list of messages: 3",
        ),
        (
            "d.jsonl",
            '{"instruction": "a", "output": "b", "score": "high"}',
            '`score` is not a number but text: "high"',
        ),
        (
            "d.jsonl",
            "{\n{\n{\n{",
            r"none of the 4 rows .* row 0: line 1 is not JSON .*row 2: line 3",
        ),
        ("d.jsonl", "null", "the row is null, not an object"),
        ("d.jsonl", "", "has no rows in split"),
        ("d.jsonl", "\n \n", "has no rows in split"),
        ("d.json", "[]", "has no rows in split"),
        ("d.csv", "prompt,completion\n", "has no rows in split"),
        ("d.csv", "", "has no rows in split"),
        ("d.json", '[{"prompt": "a"}, {]', "is not a JSON array: .* at row 1: "),
        ("d.json", '[{"prompt": "a"}', "breaks off behind row 0; 1 whole rows came before"),
        ("d.parquet", "PAR1", "cannot read .*d.parquet: .*; correct it"),
        ("d.arrow", "x", "cannot read .*d.arrow: .*; correct it"),
        ("d.txt", "x", "cannot read 'd.txt'; use one of .jsonl"),
    ],
)
def test_unusable_files_say_why(tmp_path, name, text, expected):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SourceError, match=expected):
        fetched(path)


def test_preference_data_is_refused_with_the_way_out(tmp_path):
    pair = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    with pytest.raises(
        SourceError, match=r"preference data .* store the `chosen` side as `messages`"
    ):
        fetched(lines(tmp_path / "d.jsonl", [pair, pair]))
    mixed = fetched(lines(tmp_path / "mixed.jsonl", [pair, {"prompt": "q", "completion": "a"}]))
    assert mixed[0]["problem"].startswith("the row is a preference pair")
    assert mixed[1]["problem"] is None


def test_rows_are_written_in_groups_as_they_come(tmp_path):
    """No more is in memory than a group, however many rows come and in whatever batches."""
    before, most = pa.total_allocated_bytes(), 0

    def tables():
        nonlocal most
        for size in [3000] * 20 + [100, 12_000]:
            columns = {name: [None] * size for name in row_schema().names}
            yield pa.Table.from_pydict(columns | {"problem": ["x" * 1000] * size}, row_schema())
            most = max(most, pa.total_allocated_bytes() - before)

    path = tmp_path / "rows.parquet"
    assert write_rows(tables(), path) == 72_100
    groups = pq.ParquetFile(path).metadata
    sizes = [groups.row_group(n).num_rows for n in range(groups.num_row_groups)]
    assert sizes == [10_000] * 7 + [2100]
    assert 10e6 < most < 40e6  # of 72 MB


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
    rows = pa.concat_tables(to_rows(read(dataset, old, tmp_path), "org/tome")).to_pylist()
    assert len(rows) == 10
    assert rows[0]["messages"] == EXPECTED


def from_hub(hub, tmp_path, files: dict[str, bytes], split: str = "train") -> list[dict]:
    commit = hub.add_dataset("org/tome", files)
    batches = read(Dataset(source="org/tome", split=split), commit, tmp_path)
    return pa.concat_tables(to_rows(batches, "org/tome")).to_pylist()


CARD = b"---\nconfigs:\n- config_name: default\n  data_files: %s\n  %s\n---\n"


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "settings"])
def test_json_from_the_hub_is_read_as_from_disk(hub, tmp_path, kind):
    """`datasets` would store the first row's content as JSON or turn the second's into text."""
    data = [*SHAREGPT, {"conversations": [{"from": "human", "value": 5}]}]
    text = "\n".join(map(json.dumps, data)).encode()
    files = {"train-0.jsonl": text, "train-1.jsonl": text}
    if kind == "jsonl.gz":
        files = {f"{name}.gz": gzip.compress(text) for name, text in files.items()}
    rows = from_hub(hub, tmp_path, files, "train[19:23]")
    assert [row["problem"] is None for row in rows] == [True, False, True, True]
    assert rows[2]["messages"] == EXPECTED


def test_a_hub_repository_may_set_how_its_files_are_read(hub, tmp_path):
    """`datasets` knows all settings: such files are left to it, and their mixed types undone."""
    table = {"README.md": CARD % (b"d.csv", b"sep: ';'"), "d.csv": b"prompt;completion\nhi;there\n"}
    (row,) = from_hub(hub, tmp_path, table)
    assert [m["content"] for m in row["messages"]] == ["hi", "there"]
    turns = [
        {"role": "user", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "b"}]},
    ]
    text = json.dumps({"messages": turns}).encode()
    card = CARD % (b"d.jsonl", b"chunksize: 1000000")
    (row,) = from_hub(hub, tmp_path, {"README.md": card, "d.jsonl": text})
    assert [m["content"] for m in row["messages"]] == ["a", "b"]


def test_an_unknown_split_of_a_hub_dataset_says_so(hub, tmp_path):
    with pytest.raises(SourceError, match=r"no split 'test' among \['train'\]"):
        from_hub(hub, tmp_path, {"train.parquet": parquet(SHAREGPT)}, "test")


@pytest.mark.parametrize("path", ["/resolve/", "/tree/"])
@pytest.mark.parametrize("status", [503, 0])
def test_a_hub_that_fails_during_the_download_is_worth_a_retry(
    hub, tmp_path, path, status, monkeypatch
):
    monkeypatch.setattr("time.sleep", lambda _: None)  # huggingface_hub tries again by itself
    for method in ("GET", "HEAD"):
        hub.fail(method, path, status, times=50)
    files = {f"{status}.jsonl": json.dumps(SHAREGPT[0]).encode()}  # not what an earlier test cached
    with pytest.raises(ConnectionError, match="the Hub did not answer"):
        from_hub(hub, tmp_path, files)


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
