"""What a folder of harvested rows remembers of them, without a person's id or words.

`state.json` in its hidden folder is the one truth: a harvest counts when that file has changed, which is
one rename. Shards are written beside before and moved into place after it; what a killed harvest left
is moved in or removed by the next one.
"""

import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer

from retune.errors import RetuneError
from retune.files import sha256, write_whole
from retune.home import mark, remove

HIDDEN, STATE, PENDING, LOCK = ".harvest", "state.json", "pending", "lock"
PATIENCE = 60.0  # seconds that a harvest waits for another one of the same folder
ROWS = (".jsonl", ".ndjson")
SHARD = "harvest"  # how the names of shards begin
SELF: Literal["self"] = "self"

Kind = Literal["self", "up", "edit"]  # who vouches for the answer: nobody, a thumb, an edit


class HarvestError(RetuneError):
    """A harvest that cannot be made, with what to change."""


class Known(NamedTuple):
    """One row of a shard: digests of its origin (`key`), of its user ("": nobody's) and of its text,
    when it was asked (seconds since 1970), and who vouches for the answer."""

    key: str
    group: str
    text: str
    time: int
    kind: Kind


class RowShard(BaseModel):
    """One file of rows: its SHA-256, and what is known of each of its lines, in order."""

    model_config = ConfigDict(extra="forbid")

    sha256: str
    rows: list[Known]


class State(BaseModel):
    """What is known of a folder.

    `watermarks` are the times of the newest trace by the digest of its source (milliseconds since 1970),
    `withdrawn` the digests of users and traces that must not be in it, `refused` those of conversations
    whose answer a person called bad.
    """

    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    salt: str = Field(default_factory=lambda: secrets.token_hex(32), min_length=64, max_length=64)
    watermarks: dict[str, int] = {}
    withdrawn: set[str] = set()
    refused: set[str] = set()
    shards: dict[str, RowShard] = {}

    @field_serializer("withdrawn", "refused")
    def _in_order(self, digests: set[str]) -> list[str]:
        return sorted(digests)

    def digest(self, *parts: str) -> str:
        """Return 16 hex digits that stand for an id, and say nothing without the salt."""
        text = "\x1f".join(parts).encode("utf-8", "replace")
        return hashlib.blake2b(text, digest_size=8, key=bytes.fromhex(self.salt)).hexdigest()

    @property
    def known(self) -> dict[str, Known]:
        """All rows by their key."""
        return {row.key: row for shard in self.shards.values() for row in shard.rows}


class Ledger:
    """A folder of harvested rows, held by one harvest."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._hidden = folder, folder / HIDDEN
        self.state = _read(self._hidden / STATE)

    @classmethod
    def reading(cls, folder: Path) -> "Ledger":
        """Return a folder that nothing is written to. Raises HarvestError as `held` does."""
        _require_ours(folder)
        return cls(folder)

    def without(self, gone: Mapping[str, str]) -> dict[str, str]:
        """Return the new text of each shard that holds rows with the `gone` keys, and forget these.

        Raises HarvestError for one that somebody has changed.
        """
        texts = {}
        for name, shard in self.state.shards.items():
            stay = [row.key not in gone for row in shard.rows]
            if all(stay):
                continue
            lines = self._lines(name, shard)
            text = "".join(line for line, keep in zip(lines, stay, strict=True) if keep)
            rows = [row for row, keep in zip(shard.rows, stay, strict=True) if keep]
            texts[name] = text
            self.state.shards[name] = RowShard(sha256=_sha256(text), rows=rows)
        return texts

    def _lines(self, name: str, shard: RowShard) -> list[str]:
        path = self._folder / name
        if not path.is_file() or sha256(path) != shard.sha256:
            raise HarvestError(
                f"{name} is not as it was harvested, so it cannot be told which of its lines must leave; "
                f"put it back, or remove the lines and the file's entry in {HIDDEN}/{STATE}"
            )
        return [f"{line}\n" for line in path.read_text(encoding="utf-8").split("\n")[:-1]]

    def add(self, name: str, lines: Sequence[str], rows: Sequence[Known]) -> str:
        """Note a new shard; returns its text."""
        text = "".join(f"{line}\n" for line in lines)
        self.state.shards[name] = RowShard(sha256=_sha256(text), rows=list(rows))
        return text

    def commit(self, texts: Mapping[str, str]) -> None:
        """Write shards by their names, and what is known: all of it, or nothing if the process dies."""
        pending = self._hidden / PENDING
        pending.mkdir(exist_ok=True)
        for name, text in texts.items():
            write_whole(pending / name, text)
        write_whole(self._hidden / STATE, self.state.model_dump_json())
        self.settle()

    def settle(self) -> None:
        """Move in what a commit has written, and remove what none has."""
        pending = self._hidden / PENDING
        for begun in self._hidden.glob("tmp*"):  # of a process that died in `write_whole`
            remove(begun)
        for path in sorted(pending.iterdir()) if pending.is_dir() else ():
            shard = self.state.shards.get(path.name)
            if shard and path.is_file() and sha256(path) == shard.sha256:
                path.replace(self._folder / path.name)
            else:
                remove(path)


@contextmanager
def held(folder: Path) -> Iterator[Ledger]:
    """Hold a folder of harvested rows, made if need be, for one harvest.

    Raises HarvestError for a folder of other things, or one that another harvest holds too long.
    """
    from filelock import FileLock, Timeout

    _require_ours(folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    hidden = mark(folder / HIDDEN)
    try:
        with FileLock(hidden / LOCK, timeout=PATIENCE):
            ledger = Ledger(folder)
            ledger.settle()
            yield ledger
    except Timeout:
        raise HarvestError(
            f"another harvest has held {folder} for {PATIENCE:.0f} s; end it, then run the command again"
        ) from None


def _require_ours(folder: Path) -> None:
    """Raise HarvestError for a folder that holds anything but JSON lines: rows of several formats would
    not be read."""
    if folder.exists() and not folder.is_dir():
        raise HarvestError(f"{folder} is a file; name a folder for the rows")
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not path.name.startswith(".") and path.suffix.lower() not in ROWS:
            raise HarvestError(
                f"{folder} holds {path.name!r:.80}, which is no file of JSON lines; name a folder for "
                f"the rows alone"
            )
    shard = next(folder.glob(f"{SHARD}-*.jsonl"), None)
    if shard and not (folder / HIDDEN / STATE).is_file():
        raise HarvestError(
            f"{folder} has {shard.name} and no {HIDDEN}/{STATE}, by which it is known which rows were "
            f"taken, and whose; put it back from a backup, or name a new folder"
        )


def _read(path: Path) -> State:
    if not path.is_file():
        return State()
    try:
        return State.model_validate_json(path.read_bytes())
    except (ValidationError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise HarvestError(
            f"{path} cannot be read ({reason}); put it back from a backup: without it, nobody knows "
            f"which rows were taken, and whose"
        ) from None


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def line_of(row: Mapping[str, Any]) -> str:
    """Return a row as one line of JSON."""
    return json.dumps(row, ensure_ascii=False)
