"""Runs without a server: where Prefect keeps its state, and how much of it a person must read."""

import json
import logging
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from retune.workspace import home, keep_private, make_home

USER_ERRORS = (ValueError, OSError, RuntimeError)
# Of Prefect's own life; the second comes at the end of a run on a busy machine.
NO_NEWS = ("temporary server", "Still processing items")


def configure() -> None:
    """Point Prefect and MLflow at the home folder, before either is imported.

    Whoever has set PREFECT_API_URL or another profile keeps it. While `retune ui` runs, its server
    is used, so that a run shows there live; else Prefect starts a temporary one on the same
    database. What is written from here on, by children too, is for the user's eyes alone.
    """
    keep_private()
    make_home()
    defaults = {
        "PREFECT_HOME": str(home() / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    # Prefect itself makes no parent folders.
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
    server = ui_server()
    if server and "PREFECT_API_URL" not in os.environ:
        os.environ["PREFECT_API_URL"] = server


def ui_server() -> str | None:
    """Return the API address of the running `retune ui` of this home folder, None if there is none."""
    try:
        address = json.loads(ui_file().read_text())["prefect_api"]
        with urllib.request.urlopen(f"{address}/health", timeout=2):
            return address
    except (OSError, urllib.error.URLError, ValueError, KeyError):
        return None


def ui_file() -> Path:
    """Return the file in which a running `retune ui` leaves its addresses."""
    return home() / "ui.json"


def quieten() -> None:
    """Tell an expected error once on the terminal: the command's last words are its message.

    Prefect's log in its UI has the tracebacks.
    """
    for handler in logging.getLogger().handlers:
        if handler.formatter is not None:
            handler.addFilter(_is_news)
            handler.formatter.format = _brief(handler.formatter.format)  # type: ignore[method-assign]


def _is_news(record: logging.LogRecord) -> bool:
    """Tell what a person must read from what there is to learn to ignore."""
    if record.exc_info and isinstance(record.exc_info[1], USER_ERRORS):
        return False
    return not any(words in record.getMessage() for words in NO_NEWS)


def _brief(render: Callable[[logging.LogRecord], str]) -> Callable[[logging.LogRecord], str]:
    """Leave the exception's text out of "Finished in state Failed(...)"."""
    return lambda record: re.sub(r"(in state Failed)\(.*", r"\1", render(record), flags=re.DOTALL)
