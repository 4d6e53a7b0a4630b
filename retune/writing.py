"""A file that is written no further than a limit."""

from pathlib import Path
from types import TracebackType
from typing import Self

from retune.measures import format_bytes
from retune.sources import SourceError


class Limited:
    """A new file; more than `limit` bytes raise SourceError, which names the `source` of them."""

    def __init__(self, path: Path, limit: int, source: str) -> None:
        self._path, self._limit, self._source = path, limit, source
        self.count = 0

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("xb")
        return self

    def write(self, piece: bytes) -> None:
        self.count += len(piece)
        if self.count > self._limit:
            raise SourceError(
                f"dataset.source: {self._source} has more than {format_bytes(self._limit)} "
                f"(dataset.max_unpacked_bytes); name another dataset, or raise the limit"
            )
        self._file.write(piece)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
