"""Which files of a Hub repository are read: all of the split, or those that the recipe chooses."""

import json

import pyarrow as pa
import pytest

from retune.recipe import Dataset
from retune.sources import SourceError
from tasks.fetch.batches import to_rows
from tasks.fetch.reading import read

ROW = {"prompt": "from lines", "completion": "x"}
MIXED = {
    "a.jsonl": json.dumps(ROW).encode(),
    "b.csv": b"prompt,completion\nfrom a table,x\n",
    "README.md": b"# words\n",
}


def questions(hub, tmp_path, files: dict[str, bytes], **settings) -> list[str]:
    commit = hub.add_dataset("org/mixed", files)
    batches = read(Dataset(source="org/mixed", **settings), commit, tmp_path / "cache")
    rows = pa.concat_tables(to_rows(batches, "org/mixed")).to_pylist()
    return [row["messages"][0]["content"] for row in rows]


@pytest.mark.parametrize(
    "card", [b"# words\n", b"---\nconfigs:\n- config_name: default\n  data_files: '*'\n---\n"]
)
def test_a_repository_of_two_formats_is_refused_and_names_both(hub, tmp_path, card):
    """`datasets` would read one of them and say nothing of the other."""
    with pytest.raises(SourceError) as refusal:
        questions(hub, tmp_path, MIXED | {"README.md": card})
    for words in ("a.jsonl", "b.csv", "dataset.data_files"):
        assert words in str(refusal.value)


@pytest.mark.parametrize(
    ("pattern", "expected"), [("*.csv", ["from a table"]), ("*.jsonl", ["from lines"])]
)
def test_the_recipe_chooses_among_the_files(hub, tmp_path, pattern, expected):
    assert questions(hub, tmp_path, MIXED, data_files=pattern) == expected


def test_what_is_no_rows_is_no_second_format(hub, tmp_path):
    files = {"a.jsonl": MIXED["a.jsonl"], "notes.txt": b"words", "dataset_infos.json": b"{}"}
    assert questions(hub, tmp_path, files) == ["from lines"]


def test_a_second_format_in_another_split_is_left_to_the_choice(hub, tmp_path):
    """`datasets` refuses a repository whose splits differ in format."""
    files = {"train.jsonl": MIXED["a.jsonl"], "test.csv": MIXED["b.csv"]}
    assert questions(hub, tmp_path, files, data_files="train.jsonl") == ["from lines"]
