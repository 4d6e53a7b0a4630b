"""Compressed files and archives, unfolded into a folder: no more than a limit, and nothing else.

The members of archives get names of our own: no path of theirs is followed, and no link.
"""

import bz2
import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from retune.confined import alive, out_of_memory
from retune.measures import format_bytes
from retune.sources import SourceError

_STREAMS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"\xfd7zXZ\0": lzma.open,
    b"BZh": bz2.open,
}
_ZSTANDARD, _ZIP = b"\x28\xb5\x2f\xfd", (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_TAR = slice(257, 262)  # where a tar file has `ustar`
_MEMBER_LIMIT = 100_000
_PIECE = 1 << 20


class Unpacked(NamedTuple):
    """A file of rows, and what it is called, in the archive that it comes from if it comes from one."""

    name: str
    path: Path


def unpacked(
    files: Iterable[Path], folder: Path, limit: int, source: str, keeps_whole: bool = False
) -> list[Unpacked]:
    """Return the files, or instead of each packed one its content, written to `folder`.

    Members of archives come in the order of their names, files before folders, but for hidden ones.
    Raises SourceError when they unfold to more than `limit` bytes in all, and for a damaged one; with
    `keeps_whole`, what comes of a stream that breaks off is kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unfolded: list[Unpacked] = []
    written = _Written(limit, source)
    for number, file in enumerate(files):
        extracted: list[tuple[tuple[tuple[bool, str], ...], Unpacked]] = []
        with _explained(file), _members(file) as members:
            if members is None:
                unfolded.append(Unpacked(file.name, file))
                continue
            for name, content in members:
                out = folder / f"{number}-{len(extracted)}"
                with out.open("wb") as target, _broken_off(keeps_whole):
                    while piece := content.read(_PIECE):
                        alive()
                        written.add(target.write(piece))
                extracted.append((_place(name), Unpacked(name or file.name, out)))
                if len(extracted) > _MEMBER_LIMIT:
                    raise SourceError(
                        f"dataset.source: {file.name} of {source} holds more than {_MEMBER_LIMIT:,} "
                        f"files; name another dataset"
                    )
        unfolded += [out for _, out in sorted(extracted)]
    return unfolded


@dataclass
class _Written:
    """How many bytes were unpacked; more than the limit are refused."""

    limit: int
    source: str
    count: int = 0

    def add(self, count: int) -> None:
        self.count += count
        if self.count > self.limit:
            raise SourceError(
                f"dataset.source: the files of {self.source} unfold to more than "
                f"{format_bytes(self.limit)} (dataset.max_unpacked_bytes); name another dataset, or "
                f"raise the limit"
            )


@contextmanager
def _broken_off(keeps_whole: bool) -> Iterator[None]:
    """Take the end of a stream that breaks off for its end, if what is whole is to be kept."""
    try:
        yield
    except EOFError:
        if not keeps_whole:
            raise


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Say of a damaged file, as SourceError, that it is that. A full disk is not its fault."""
    try:
        yield
    except EOFError:
        raise SourceError(
            f"dataset.source: the packed file {file.name} breaks off; take it again from where it came, "
            f"or set dataset.truncated=keep_whole_rows"
        ) from None
    except (zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError, OSError) as error:
        if isinstance(error, OSError) and (error.errno is not None or out_of_memory(error)):
            raise
        raise SourceError(
            f"dataset.source: the packed file {file.name} is damaged or breaks off ({error}); take it "
            f"again from where it came"
        ) from None


@contextmanager
def _members(file: Path) -> "Iterator[Iterator[tuple[str, IO[bytes]]] | None]":
    """Give the names and contents in a packed file; None for one that is not packed."""
    with file.open("rb") as raw:
        start = raw.read(512)
    if start.startswith(_ZIP):
        with zipfile.ZipFile(file) as archive:
            yield _zipped(archive)
        return
    if start[_TAR] == b"ustar":
        with tarfile.open(file, "r|") as archive:
            yield _tarred(archive)
        return
    stream = _stream(file, start)
    if stream is None:
        yield None
        return
    with stream:
        head = stream.read(512)
    stream = _stream(file, start)
    assert stream is not None, file
    with stream:
        if head[_TAR] == b"ustar":
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                yield _tarred(archive)
        else:
            yield iter([("", stream)])


def _stream(file: Path, start: bytes) -> IO[bytes] | None:
    """Open a file that is one compressed stream; None if it is not."""
    for magic, opened in _STREAMS.items():
        if start.startswith(magic):
            stream: IO[bytes] = opened(file, "rb")
            return stream
    if start.startswith(_ZSTANDARD):
        import pyarrow as pa

        return pa.input_stream(str(file), compression="zstd")
    return None


def _zipped(archive: zipfile.ZipFile) -> Iterator[tuple[str, IO[bytes]]]:
    for info in archive.infolist():
        if _is_wanted(info.filename) and not info.is_dir():
            with archive.open(info) as content:
                yield info.filename, content


def _tarred(archive: tarfile.TarFile) -> Iterator[tuple[str, IO[bytes]]]:
    for info in archive:
        if info.isreg() and _is_wanted(info.name) and (content := archive.extractfile(info)):
            yield info.name, content


def _is_wanted(name: str) -> bool:
    return not any(part.startswith((".", "__")) for part in Path(name).parts if part != ".")


def _place(name: str) -> tuple[tuple[bool, str], ...]:
    """Return what sorts a member among the others: by folder, after the files next to that folder."""
    *folders, last = Path(name).parts or ("",)
    return (*((True, folder) for folder in folders), (False, last))
