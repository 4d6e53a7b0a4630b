"""Rows in whatever they are kept in: packed, in folders, saved by `datasets`, in other encodings."""

import bz2
import gzip
import io
import json
import lzma
import os
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset as HubDataset
from datasets import DatasetDict

from retune.pinning import local_selection, pin_dataset, unchanged_files
from retune.recipe import Dataset
from retune.sources import SourceError
from tasks.fetch.batches import to_rows
from tasks.fetch.reading import read

ROWS = [{"prompt": f"Frage {n}: grün?", "completion": "Ja, schön."} for n in range(6)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
QUESTIONS = [row["prompt"] for row in ROWS]


def questions(source: Path | str, **settings) -> list[str]:
    """Return the questions of a source's rows, which must all be readable."""
    table = fetched(source, **settings)
    assert table["problem"].null_count == len(table), table["problem"].to_pylist()
    return [row[0]["content"] for row in table["messages"].to_pylist()]


def fetched(source: Path | str, **settings) -> pa.Table:
    dataset = Dataset(source=str(source), **settings)
    cache = Path(os.environ["PYTEST_CACHE"])
    return pa.concat_tables(to_rows(read(dataset, None, cache), "unnamed"))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PYTEST_CACHE", str(tmp_path_factory.mktemp("cache")))


def zipped(members: dict[str, str | bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def zstandard(content: bytes) -> bytes:
    buffer = pa.BufferOutputStream()
    with pa.CompressedOutputStream(buffer, "zstd") as stream:
        stream.write(content)
    return buffer.getvalue().to_pybytes()


CSV = "prompt,completion\n" + "".join(f"{q},ja\n" for q in QUESTIONS)
PACKED = {
    "d.jsonl.gz": gzip.compress(LINES.encode()),
    "d.jsonl.bz2": bz2.compress(LINES.encode()),
    "d.jsonl.xz": lzma.compress(LINES.encode()),
    "d.jsonl.zst": zstandard(LINES.encode()),
    "d.csv.gz": gzip.compress(CSV.encode()),
    "named_otherwise.jsonl": gzip.compress(LINES.encode()),
    "no_suffix.gz": gzip.compress(LINES.encode()),
    "d.zip": zipped({"in/d.jsonl": LINES, "README.md": "words", "__MACOSX/._d.jsonl": "x"}),
    "several.zip": zipped(
        {f"{n}.jsonl": line for n, line in enumerate(LINES.splitlines(keepends=True))}
    ),
    "d.ndjson": LINES.encode(),
    "d.tsv": CSV.replace(",ja", "\tja").replace("prompt,", "prompt\t").encode(),
    "semicolon.csv": CSV.replace(",ja", ";ja").replace("prompt,", "prompt;").encode("utf-8-sig"),
    "hint.csv": ("sep=;\n" + CSV.replace(",ja", ";ja").replace("prompt,", "prompt;")).encode(),
}


@pytest.mark.parametrize("name", PACKED)
def test_packed_and_delimited_files_are_read_for_what_is_in_them(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(PACKED[name])
    assert questions(path) == QUESTIONS


def test_a_delimiter_may_be_named(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("prompt;a,b,c;completion\n1;2;3\n")
    assert questions(path, delimiter=";") == ["1"]


@pytest.mark.parametrize("name", ["d.jsonl.gz", "d.jsonl.xz", "d.jsonl.bz2"])
def test_a_packed_file_that_breaks_off_is_told_in_a_sentence(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(PACKED[name][:-20])
    with pytest.raises(SourceError, match=rf"the packed file {name} breaks off; take it again"):
        fetched(path)


def test_the_members_of_an_archive_are_of_one_format_or_chosen(tmp_path):
    path = tmp_path / "d.zip"
    path.write_bytes(zipped({"a.jsonl": LINES, "b.csv": CSV}))
    with pytest.raises(SourceError, match=r"several formats \(a.jsonl, b.csv\); choose with"):
        fetched(path)
    assert questions(path, data_files="*.csv") == QUESTIONS
    path.write_bytes(zipped({"readme.txt": "words"}))
    with pytest.raises(SourceError, match=r"holds no .jsonl.* file, but readme.txt"):
        fetched(path)


def test_a_bomb_and_a_path_out_of_the_folder_do_no_harm(tmp_path):
    path = tmp_path / "d.zip"
    path.write_bytes(zipped({"../../out.jsonl": LINES}))
    with pytest.raises(SourceError, match="holds no"):
        fetched(path)
    assert not (tmp_path.parent / "out.jsonl").exists()
    path.write_bytes(zipped({"d.jsonl": b" " * (2 << 20)}))
    with pytest.raises(SourceError, match=r"unfold to more than .*dataset.max_unpacked_bytes"):
        fetched(path, max_unpacked_bytes=1 << 20)


# ---- folders and patterns


def shards(folder: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        part = ROWS[2 * number : 2 * number + 2]
        if name.endswith(".parquet"):
            pq.write_table(pa.Table.from_pylist(part), folder / name)
        else:
            (folder / name).write_text("".join(json.dumps(row) + "\n" for row in part))
    return folder


@pytest.mark.parametrize(
    ("names", "split", "expected"),
    [
        (["0.jsonl", "1.jsonl", "2.jsonl"], "train", slice(6)),
        (["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"], "train", slice(4)),
        (["data/train-0.parquet", "data/test-0.parquet"], "train", slice(2)),
        (["data/train-0.parquet", "data/test-0.parquet"], "test", slice(2, 4)),
        (["train/0.jsonl", "validation/0.jsonl"], "validation", slice(2, 4)),
        (["train/0.jsonl", "dev/0.jsonl"], "validation", slice(2, 4)),
        (["0.jsonl", "1.jsonl", "2.jsonl"], "train[1:3]", slice(1, 3)),
    ],
)
def test_a_folder_is_its_split_s_files_in_order(tmp_path, names, split, expected):
    shards(tmp_path / "d", names)
    (tmp_path / "d" / "README.md").write_text("words")
    (tmp_path / "d" / ".hidden.csv").write_text("words")
    assert questions(tmp_path / "d", split=split) == QUESTIONS[expected]


@pytest.mark.parametrize(
    ("names", "split", "words"),
    [
        (["a.jsonl", "b.parquet"], "train", ["a.jsonl", "b.parquet", "dataset.data_files"]),
        (["train.jsonl", "test.jsonl"], "dev", ["no split 'validation'", "test, train"]),
        (["train.jsonl", "more.jsonl"], "train", ["more.jsonl", "dataset.data_files"]),
        ([], "train", ["holds no .jsonl"]),
    ],
)
def test_a_folder_that_leaves_a_choice_is_refused(tmp_path, names, split, words):
    shards(tmp_path, names)
    with pytest.raises(SourceError) as refusal:
        fetched(tmp_path, split=split)
    assert all(word in str(refusal.value) for word in words)


def test_a_pattern_and_data_files_choose_files(tmp_path):
    shards(tmp_path, ["a-0.jsonl", "a-1.jsonl", "b.jsonl"])
    assert questions(tmp_path / "a-*.jsonl") == QUESTIONS[:4]
    assert questions(tmp_path, data_files="b*") == QUESTIONS[4:]
    with pytest.raises(SourceError, match="no file is at"):
        fetched(tmp_path / "c-*.jsonl")
    with pytest.raises(SourceError, match=r"no file of .* is like 'c'"):
        fetched(tmp_path, data_files="c")


def test_a_file_may_be_called_like_a_pattern(tmp_path):
    (tmp_path / "d[1].jsonl").write_text(LINES)
    assert questions(tmp_path / "d[1].jsonl") == QUESTIONS


@pytest.mark.parametrize("source", ["", "*.jsonl"])
def test_a_link_out_of_the_folder_is_refused(tmp_path, source):
    (tmp_path / "secret.jsonl").write_text(LINES)
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "d.jsonl").symlink_to(tmp_path / "secret.jsonl")
    with pytest.raises(SourceError, match=r"d.jsonl of .* is a link to .*, outside the folder"):
        fetched(folder / source)


@pytest.mark.parametrize("how", ["change", "join", "leave"])
def test_a_folder_that_changes_while_it_is_read_is_noticed(tmp_path, how):
    shards(tmp_path, ["0.jsonl", "1.jsonl", "2.jsonl"])
    dataset = Dataset(source=str(tmp_path))
    version, _ = pin_dataset(dataset)
    selection = local_selection(dataset)
    with unchanged_files(dataset, selection, version):
        pass
    with (
        pytest.raises(SourceError, match="changed while the run was reading it"),
        unchanged_files(dataset, selection, version),
    ):
        if how == "change":
            (tmp_path / "1.jsonl").write_text("{}")
        elif how == "join":
            (tmp_path / "3.jsonl").write_text("{}")
        else:
            (tmp_path / "2.jsonl").unlink()


def test_what_datasets_saved_is_read(tmp_path):
    rows = HubDataset.from_list(ROWS)
    rows.save_to_disk(str(tmp_path / "one"), num_shards=2)
    assert questions(tmp_path / "one") == QUESTIONS
    both = DatasetDict({"train": rows.select(range(4)), "test": rows.select(range(4, 6))})
    both.save_to_disk(str(tmp_path / "both"))
    assert questions(tmp_path / "both", split="test") == QUESTIONS[4:]
    with pytest.raises(SourceError, match="has no split 'dev', but train, test"):
        fetched(tmp_path / "both", split="dev")


@pytest.mark.parametrize("name", ["../secret.arrow", "/etc/passwd", "gone.arrow", None, ""])
def test_a_saved_folder_names_only_its_own_files(tmp_path, name):
    folder = tmp_path / "d"
    HubDataset.from_list(ROWS).save_to_disk(str(folder))
    (tmp_path / "secret.arrow").write_bytes(next(folder.glob("*.arrow")).read_bytes())
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | {"_data_files": [{"filename": name}]}))
    with pytest.raises(SourceError, match="is no whole folder of save_to_disk"):
        fetched(folder)


# ---- encodings and files that break off

CHINESE = "".join(
    json.dumps(
        {"prompt": f"请把下面的句子翻译成中文，编号{n}", "completion": "好的。"}, ensure_ascii=False
    )
    + "\n"
    for n in range(20)
)


@pytest.mark.parametrize(
    ("text", "encoding", "advice"),
    [
        (CHINESE, "gbk", r"looks like GBK \(Chinese\).*set dataset.encoding=gb18030"),
        (LINES, "cp1252", "set dataset.encoding=cp1252"),
        (LINES, "utf-16-le", "looks like utf-16-le; set dataset.encoding=utf-16-le"),
        (CHINESE, "utf-16-be", "set dataset.encoding=utf-16-be"),
        (
            LINES.replace("grün", "зелёный").replace("schön", "дорогой друг"),
            "koi8-r",
            "set dataset.encoding=koi8_r",
        ),
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_another_encoding_is_named_and_read_when_it_is_set(
    tmp_path, text, encoding, advice, suffix
):
    path = tmp_path / f"d.{suffix}"
    if suffix == "json":
        text = f"[{','.join(text.splitlines())}]"
    path.write_bytes(text.encode(encoding))
    with pytest.raises(SourceError, match=f"d.{suffix} is not UTF-8 .*{advice}"):
        fetched(path)
    rows = json.loads(text if suffix == "json" else f"[{','.join(text.splitlines())}]")
    assert questions(path, encoding=encoding) == [row["prompt"] for row in rows]


def test_a_wrong_encoding_that_is_set_is_told(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text(CHINESE, encoding="utf-8")
    with pytest.raises(SourceError, match=r"is not shift_jis .*leave dataset.encoding empty"):
        fetched(path, encoding="shift_jis")


def test_a_single_damaged_row_stays_that_row_s_flaw(tmp_path):
    path = tmp_path / "d.jsonl"
    lines = LINES.encode().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], lines[3].replace("ü".encode(), b"\xfc"), *lines[4:]]))
    assert questions(path)[3] == "Frage 3: gr\ufffdn?"


@pytest.mark.parametrize(
    ("name", "text", "where"),
    [
        ("d.jsonl", LINES[:-12], "within line 6; 5 whole rows came before"),
        ("d.json", f"[{','.join(LINES.splitlines())}"[:-12], "in row 5; 5 whole rows came before"),
        ("d.csv", CSV + 'a,"b\n', "begins in line 8, whose quotes .*; 6 whole rows came before"),
    ],
)
def test_a_file_that_breaks_off_is_refused_with_its_whole_rows(tmp_path, name, text, where):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SourceError, match=rf"{name} breaks off .*{where}.*dataset.truncated="):
        fetched(path)
    table = fetched(path, truncated="keep_whole_rows")
    whole = 6 if name == "d.csv" else 5
    assert table["problem"].null_count == whole
    assert "breaks off within it" in table["problem"][whole].as_py()


def test_a_last_line_without_its_end_is_whole_if_it_is_json(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text(LINES.rstrip("\n"), encoding="utf-8")
    assert questions(path) == QUESTIONS


def test_an_object_that_breaks_off_is_refused(tmp_path):
    path = tmp_path / "d.json"
    path.write_text(json.dumps({"data": ROWS}, indent=1)[:-40])
    with pytest.raises(SourceError, match="breaks off within its only object"):
        fetched(path)


def test_rows_by_their_ids_are_no_row(tmp_path):
    path = tmp_path / "d.json"
    path.write_text(json.dumps({f"id{n}": {"turns": [{"text": "x"}]} for n in range(9)}))
    with pytest.raises(SourceError, match=r"is one object whose entries \('id0', 'id1', …\)"):
        fetched(path)


def test_rows_behind_objects_that_tell_of_them_are_found(tmp_path):
    path = tmp_path / "d.json"
    about = {"version": {"major": 1}, "licence": {"name": "CC0"}, "authors": {"one": "A"}}
    path.write_text(json.dumps({**about, "data": ROWS}))
    assert questions(path) == QUESTIONS


def test_an_object_of_splits_is_the_split_that_is_asked_for(tmp_path):
    path = tmp_path / "d.json"
    path.write_text(json.dumps({"train": ROWS[:4], "test": ROWS[4:]}, indent=1))
    assert questions(path, split="test") == QUESTIONS[4:]
