"""`retune_app`, the one package that an installed retune puts next to those of others.

`flows`, `tasks` and the repository's other folders have names that other people's code has, too. In a
wheel they lie in here, and are imported from here, by the names that they have in the repository, in
retune's own processes alone: whoever imports this package lets its process and its children find them.
In a checkout it is this folder (see setup.py), and the folders are the repository's.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI

HERE = Path(__file__).resolve().parent
HOME = HERE if (HERE / "flows").is_dir() else HERE.parents[1]


def _let_find(folder: str) -> None:
    """Let this process, and whatever it starts, find the packages in a folder, before any others."""
    if folder not in sys.path:
        sys.path.insert(0, folder)
    folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if folder not in folders:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (folder, *folders)))


_let_find(str(HOME))


def on_host() -> None:
    """Be imported: in each process that Ray starts for stages of a run."""


def main() -> None:
    """The program `retune`."""
    from flows import cli

    cli.main()


def mlflow_app() -> "FastAPI":
    """MLflow's app without a sign-in, for `mlflow server --app-name retune`."""
    from flows.mlflow_app import create_app

    return create_app()


def mlflow_app_with_sign_in() -> "FastAPI":
    """MLflow's app with a sign-in, for `mlflow server --app-name retune-sign-in`."""
    from flows.mlflow_app import create_app_with_sign_in

    return create_app_with_sign_in()
