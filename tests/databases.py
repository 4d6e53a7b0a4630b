"""The databases of a home folder, made once for all tests: MLflow takes 2 to 4 s for one, Prefect 12 s.

They are what MLflow and Prefect write into an empty home, kept in the user's cache by their versions.
Tests of a home that nobody has used yet do without.
"""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path

import pytest
from filelock import FileLock

from retune.home import cache_dir

MLFLOW = "mlflow.db"
PREFECT = Path("prefect", "prefect.db")


def furnish(home: Path) -> Path:
    """Make the home folder with empty databases of MLflow and Prefect; return it."""
    return furnish_prefect(furnish_mlflow(home))


def furnish_prefect(home: Path) -> Path:
    """Give the home folder an empty database of Prefect; return it."""
    (home / PREFECT).parent.mkdir(exist_ok=True)
    shutil.copy(_kept("prefect", _make_prefect), home / PREFECT)
    return home


def furnish_mlflow(home: Path) -> Path:
    """Make the home folder with an empty database of MLflow; return it."""
    home.mkdir(parents=True, exist_ok=True)
    shutil.copy(_kept("mlflow", _make_mlflow), home / MLFLOW)
    return home


@contextmanager
def working_in(patch: pytest.MonkeyPatch, home: Path) -> Iterator[Path]:
    """Let this process work in a home folder, with the embedded store of MLflow that is there."""
    from retune.tracking import client

    patch.setenv("RETUNE_HOME", str(home))
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)
    client.cache_clear()
    yield home
    client.cache_clear()


def _kept(package: str, make: Callable[[Path], None]) -> Path:
    """Return the kept database of a package's version; it is made if it is not there."""
    folder = cache_dir() / f"test-databases-{package}-{version(package)}"
    database = folder / "empty.db"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if not database.exists():
            begun = folder / "begun.db"
            begun.unlink(missing_ok=True)
            make(begun)
            with closing(sqlite3.connect(begun)) as connection:  # all of it in one file
                connection.execute("pragma journal_mode=delete")
            begun.rename(database)
    return database


def _make_mlflow(database: Path) -> None:
    from mlflow import MlflowClient

    MlflowClient(f"sqlite:///{database}").search_experiments()


def _make_prefect(database: Path) -> None:
    variables = {
        "PREFECT_HOME": str(database.parent / "prefect"),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{database}",
    }
    subprocess.run(
        [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"],
        check=True,
        capture_output=True,
        env=os.environ | variables,
    )
