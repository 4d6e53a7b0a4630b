"""Runs without a server: where Prefect keeps its state, and how much of it a person must read."""

import json
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

from retune.access import sign_in
from retune.processes import listens, running
from retune.workspace import home

LEASES = "prefect.server.concurrency.lease_storage.filesystem"
USER_ERRORS = (ValueError, OSError, RuntimeError)
# Of Prefect's own life; the second comes at the end of a run on a busy machine.
NO_NEWS = ("temporary server", "Still processing items")


def configure() -> None:
    """Point Prefect and MLflow at the home folder, before either is imported.

    Whoever has named a server of their own, by PREFECT_API_URL, a profile or a prefect.toml, keeps
    it, and it learns nothing of this home's sign-in. Else, while `retune ui` runs, its server is
    used, so that a run shows there live; else Prefect starts a temporary one on the same database.
    """
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
    if _named_server():
        return
    os.environ |= own_server()
    address = ui_server()
    if address:
        os.environ["PREFECT_API_URL"] = address
    reread()


def own_server(port: int | None = None) -> dict[str, str]:
    """Return the settings of a Prefect server that we start, and of its clients.

    Prefect's API runs commands as the user, so it wants the home's sign-in, and no page of another
    origin gets an answer. `port` is where its own pages are; a temporary server has none.
    """
    secret = sign_in()
    names = ("127.0.0.1", "localhost")
    pages = [f"http://{name}:{port}" for name in names] if port else ["http://127.0.0.1"]
    return {
        "PREFECT_SERVER_API_AUTH_STRING": secret,
        "PREFECT_API_AUTH_STRING": secret,
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "true",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(pages),
        # By default leases live in the server's memory and what they hold in its database: after a
        # power cut a deployment's only slot would be held for ever.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": LEASES,
    }


def reread() -> None:
    """Let Prefect, which reads its settings at import, see those that were set since."""
    from prefect.context import refresh_global_settings_context

    refresh_global_settings_context()


def _named_server() -> str | None:
    """Return the API address that the user has set, in whichever place Prefect looks."""
    from prefect.settings import get_current_settings

    return get_current_settings().api.url


def ui_server() -> str | None:
    """Return the API address of the running `retune ui` of this home folder, None if there is none.

    What the file says is believed only if the process that it names runs and listens there: the
    sign-in is not for a stranger who took the port since.
    """
    try:
        record = json.loads(ui_file().read_text())
        process, port = running(record["process"]), int(record["prefect_port"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if process and listens(process, port):
        return f"http://127.0.0.1:{port}/api"
    return None


def ui_file() -> Path:
    """Return the file in which a running `retune ui` leaves who it is and where its server is."""
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
