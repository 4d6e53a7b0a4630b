"""Where rows come from, and how their files are read: of a dataset, and of each part of a mix."""

import codecs
from pathlib import PurePosixPath
from typing import Literal

from pydantic import Field, field_validator

from retune.recipe.section import Line, Section

# Codecs whose time is not linear in the text, or that are none for files.
_NO_FILE_ENCODINGS = {
    *("punycode", "idna", "unicode_escape", "raw_unicode_escape", "undefined", "mbcs", "oem"),
}


def is_inside(path: str) -> bool:
    """Say whether a path or pattern stays below the folder that it is relative to."""
    parts = path.replace("\\", "/").split("/")
    leads_out = path[:1] in ("/", "\\", "~", "") or ".." in parts
    return not (leads_out or ":" in path or PurePosixPath(path).is_absolute())


class Origin(Section):
    """Where rows come from, and how their files are read."""

    revision: Line | None = Field(
        None,
        description="Branch, tag or commit of the Hub dataset; empty: its main branch. Of files, "
        "`sha256:` and the digest that they must have.",
    )
    subset: Line | None = Field(None, description="Subset (configuration name) of the Hub dataset.")
    split: Line = Field(
        "train",
        pattern=r"^[\w.]+(\[\d*%?:\d*%?\])?$",
        description="Split to read, or a slice of it: train[:1000] is its first 1,000 rows, "
        "train[500:600] rows 500 to 599 (counted from 0), train[:10%] its first tenth. validation."
        "min_rows may refuse a slice as too small.",
    )
    data_files: Line | None = Field(
        None,
        description="Which files of a folder, an archive or a Hub dataset are read, as a pattern such "
        "as `*.jsonl` or `data/train-*.parquet`; empty: those of the split, which must be of one format.",
    )
    encoding: Line | None = Field(
        None,
        description="Encoding of JSON and CSV files, such as gb18030 or cp1252; empty: UTF-8, or UTF-16 "
        "where a file begins with its byte order mark.",
    )
    delimiter: Line | None = Field(
        None,
        min_length=1,
        max_length=1,
        description="What stands between the cells of a CSV file, one character; empty: comma, "
        "semicolon, tab or bar, whichever the header has.",
    )
    truncated: Literal["refuse", "keep_whole_rows"] = Field(
        "refuse",
        description="What becomes of a JSON or CSV file that breaks off within a row: it ends the run, "
        "or its whole rows are read and the broken one is quarantined.",
    )

    @field_validator("data_files")
    @classmethod
    def _stays_inside(cls, value: str | None) -> str | None:
        if value is not None and not is_inside(value):
            raise ValueError("should be a pattern below the folder, such as *.jsonl or data/*.csv")
        return value

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            codec = codecs.lookup(value)
        except (LookupError, ValueError):
            raise ValueError("is no encoding that Python knows; try gb18030, cp1252") from None
        # The only mark that sets codecs of text apart from those of bytes, such as base64.
        if not getattr(codec, "_is_text_encoding", True) or codec.name in _NO_FILE_ENCODINGS:
            raise ValueError("is no encoding of files; try gb18030, cp1252 or utf-16-le")
        return codec.name
