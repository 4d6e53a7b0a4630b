"""What is packed in archives: which of their members hold rows, and in which format."""

from collections.abc import Callable
from pathlib import Path

from retune.data_files import matching, one_kind, suffix_of
from retune.recipe import Dataset
from retune.sources import DATA_FORMATS, SourceError
from tasks.fetch.unpacking import Unpacked

_HEAD = 512  # bytes
_BEGINNINGS: dict[str, Callable[[bytes], bool]] = {
    "parquet": lambda head: head.startswith(b"PAR1"),
    "arrow": lambda head: head.startswith((b"ARROW1", b"\xff\xff\xff\xff")),
    "json": lambda head: head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[")),
}


def packed_kind(dataset: Dataset, files: list[Unpacked]) -> tuple[str, list[Unpacked]]:
    """Return the format of what was packed (a value of DATA_FORMATS), and the files of that format.

    Told by the members' names; by its beginning where a single file has none that tells. Raises
    SourceError for several formats, and for none.
    """
    if dataset.data_files:
        wanted = set(matching([file.name for file in files], dataset.data_files))
        files = [file for file in files if file.name in wanted]
    named = [file for file in files if suffix_of(file.name) in DATA_FORMATS]
    if named:
        kind = one_kind([file.name for file in named], dataset.source, "dataset.data_files")
        assert kind, "each has the suffix of a format"
        return kind, named
    if len(files) == 1 and (kind := _by_beginning(files[0].path)):
        return kind, files
    shown = ", ".join(file.name[:60] for file in files[:3]) or "nothing"
    raise SourceError(
        f"dataset.source: {dataset.source} holds no {', '.join(DATA_FORMATS)} file, but {shown}; name "
        f"another file, or choose with dataset.data_files"
    )


def _by_beginning(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(_HEAD)
    return next((kind for kind, is_begun in _BEGINNINGS.items() if is_begun(head)), None)
