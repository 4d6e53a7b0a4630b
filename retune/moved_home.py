"""A home folder that was moved or copied: MLflow's embedded store names artifacts in the former one.

MLflow keeps an absolute address of each run's artifacts. The home notes by which names it is known, and
whoever opens its store under another name rewrites the addresses first, once: from then on nothing is
written into the former home. All else in a home goes by its place below it.
"""

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from retune.errors import RetuneError
from retune.files import write_whole
from retune.home import home, is_home, lock_file

NOTE = "home.json"  # in the home folder: by which paths it is known
DATABASE, ARTIFACTS = "mlflow.db", "mlartifacts"
PATIENCE = 60  # seconds to wait for another process that rewrites, or writes
# Of MLflow's schema: where an address of artifacts is, the experiments' before what lies below them.
EXPERIMENTS = ("experiments", "artifact_location")
ADDRESSES = (
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("trace_tags", "value"),
)
FILES = ("logged_model_tags", "tag_value")  # of a file that a stage made


class HomeIncomplete(RetuneError):
    """A home was moved or copied without its artifacts."""


def settle() -> list[Path]:
    """Let the embedded store name the artifacts of this home; return the former homes that it named.

    What was not copied with the home, and is in the former one, is still read there. Raises
    HomeIncomplete if there are runs, and no artifacts at all came with them.
    """
    here = home()
    if not (here / DATABASE).is_file() or not os.access(here, os.W_OK):
        return []
    if _is_settled(_noted(here), here):
        return []
    from filelock import FileLock

    with FileLock(lock_file("home"), timeout=PATIENCE):
        if _is_settled(_noted(here), here):
            return []
        with closing(sqlite3.connect(here / DATABASE, timeout=PATIENCE)) as database:
            names = _noted(here) or _named(database)
            former = [name for name in names if not is_home(name)]
            _require_artifacts(database, former, here)
            with database:  # one transaction
                for name in former:
                    _rewrite(database, name, here)
        others = [name for name in names if name not in former and name != here]
        write_whole(here / NOTE, json.dumps({"paths": [str(here), *map(str, others)]}))
    return former


def _noted(here: Path) -> list[Path]:
    """Return the names in a home's note, none if there is none that can be read."""
    try:
        return [Path(name) for name in json.loads((here / NOTE).read_text())["paths"]]
    except (OSError, ValueError, LookupError, TypeError):
        return []


def _is_settled(names: list[Path], here: Path) -> bool:
    return here in names and all(map(is_home, names))


def _named(database: sqlite3.Connection) -> list[Path]:
    """Return the homes whose artifacts a store of before there was a note names, but for what exists
    and is no home."""
    named = {_home_of(location) for _, location in _cells(database, *EXPERIMENTS)}
    return sorted(
        name for name in named if name and (not name.exists() or (name / DATABASE).exists())
    )


def _home_of(location: str) -> Path | None:
    parts = urlsplit(location)
    path = Path(unquote(parts.path))
    is_ours = parts.scheme == "file" and not parts.netloc and path.name == ARTIFACTS
    return path.parent if is_ours else None


def _require_artifacts(database: sqlite3.Connection, former: list[Path], here: Path) -> None:
    """Raise HomeIncomplete if runs have their artifacts in a former home and none came along."""
    if (here / ARTIFACTS).is_dir():
        return
    for name in former:
        below = f"{(name / ARTIFACTS).as_uri()}/"
        if any(location.startswith(below) for _, location in _cells(database, *ADDRESSES[0])):
            raise HomeIncomplete(
                f"{here / DATABASE} came from {name}, and its artifacts did not: copy "
                f"{name / ARTIFACTS} to {here / ARTIFACTS}, or make an empty folder there if the "
                f"files of earlier runs are not wanted"
            )


def _rewrite(database: sqlite3.Connection, former: Path, here: Path) -> None:
    """Rewrite every address of a file in a former home that is here, or nowhere."""
    old, new = former / ARTIFACTS, here / ARTIFACTS
    for row, location in _cells(database, *EXPERIMENTS):
        if location == old.as_uri():  # what is written from now on
            _write(database, EXPERIMENTS, row, new.as_uri())
    pairs = [(place, old, new) for place in ADDRESSES] + [(FILES, former / "work", here / "work")]
    for place, source, target in pairs:
        below = f"{source.as_uri()}/"
        for row, location in _cells(database, *place):
            if not location.startswith(below):
                continue
            rest = location.removeprefix(below)
            if (target / unquote(rest)).exists() or not (source / unquote(rest)).exists():
                _write(database, place, row, f"{target.as_uri()}/{rest}")


def _cells(database: sqlite3.Connection, table: str, column: str) -> Iterator[tuple[int, str]]:
    """Return the texts in a column by row; none if the store has no such column (yet)."""
    columns = [info[1] for info in database.execute(f'pragma table_info("{table}")')]
    if column not in columns:
        return iter(())
    condition = f"\"{column}\" like 'file:///%'"
    # All at once: rows are rewritten meanwhile.
    return iter(
        database.execute(f'select rowid, "{column}" from "{table}" where {condition}').fetchall()
    )


def _write(database: sqlite3.Connection, place: tuple[str, str], row: int, value: str) -> None:
    table, column = place
    database.execute(f'update "{table}" set "{column}" = ? where rowid = ?', (value, row))
