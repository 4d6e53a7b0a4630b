"""Runs without a server: where Prefect keeps its state, and how much of it a person must read."""

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

from flows.full_disk import full_disk
from retune.access import LOOPBACK, no_proxy, sign_in, ui_server
from retune.errors import TOLD_ERRORS, RetuneError
from retune.escaping import terminal
from retune.home import home, keep_private, make_home

LEASES = "prefect.server.concurrency.lease_storage.filesystem"
# A run waits for a server that is away or out of order, as by a full disk (2, 4, 8, … seconds between two
# requests, 17 minutes in all), rather than to end, since what it then has to say would be lost.
PATIENT = {
    "PREFECT_CLIENT_MAX_RETRIES": "9",
    "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500,504",  # beside 408, 429, 502 and 503
}
# Of Prefect's own life; the first comes at the end of a run on a busy machine, the others at its start.
NO_NEWS = ("Still processing items", "unning hook 'sign'", "Hook 'sign'")


class NoServer(RetuneError):
    """A command needs a Prefect server that stays, and there is none."""


def configure() -> None:
    """Point Prefect and MLflow at the home folder, before either is imported.

    Whoever has named a server of their own, by PREFECT_API_URL, a profile or a prefect.toml, keeps
    it, and it learns nothing of this home's sign-in. Else, while `retune ui` runs, its server is
    used, so that a run shows there live; else a run starts a temporary one on the same database.
    What is written from here on, by children too, is for the user's eyes alone.
    """
    configure_home()
    running = ui_server()
    address = api_address()
    if address and address.replace("://localhost:", "://127.0.0.1:").rstrip("/") != running:
        return
    os.environ |= own_server()
    if running:
        os.environ["PREFECT_API_URL"] = running
    reread()


def configure_home() -> None:
    """Do what `configure` does for a command that asks no Prefect server: Prefect is not imported,
    which takes seconds."""
    keep_private()
    make_home()
    defaults = {
        "PREFECT_HOME": str(home() / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
        "GX_ANALYTICS_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    # Prefect itself makes no parent folders.
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)


def own_server(port: int | None = None) -> dict[str, str]:
    """Return the settings of a Prefect server that we start, and of its clients.

    Prefect's API runs commands as the user, so it wants the home's sign-in, and no page of another
    origin gets an answer. `port` is where its own pages are; a temporary server has none.
    """
    secret = sign_in()
    pages = [f"http://{name}:{port}" for name in LOOPBACK] if port else ["http://127.0.0.1"]
    return no_proxy() | {
        "PREFECT_SERVER_API_AUTH_STRING": secret,
        "PREFECT_API_AUTH_STRING": secret,
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "true",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(pages),
        # By default leases live in the server's memory and what they hold in its database: after a
        # power cut a deployment's only slot would be held for ever.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": LEASES,
    }


def be_patient() -> None:
    """Let runs of this process and of its children wait for their server (PATIENT), but for what the
    user has set."""
    for name, value in PATIENT.items():
        os.environ.setdefault(name, value)
    reread()


def reread() -> None:
    """Let Prefect, which reads its settings at import, see those that were set since."""
    from prefect.context import refresh_global_settings_context

    refresh_global_settings_context()


def api_address() -> str | None:
    """Return the address of the Prefect server that runs would use, wherever it is set.

    None means a temporary one.
    """
    from prefect.settings import get_current_settings

    return get_current_settings().api.url


def require_server(why: str) -> None:
    """Raise NoServer if no Prefect server is known, after `configure`; `why` says what it is for."""
    if not api_address():
        raise NoServer(
            f"{why}, and none is known: start `retune ui`, or set PREFECT_API_URL to the address of "
            f"one, such as http://prefect:4200/api (and PREFECT_API_AUTH_STRING)"
        )


def quieten() -> None:
    """Tell an expected error once on the terminal: the command's last words are its message.

    Prefect's log in its UI has the tracebacks.
    """
    for handler in logging.getLogger().handlers:
        if handler.formatter is not None:
            handler.addFilter(_is_news)
            handler.formatter.format = _brief(handler.formatter.format)  # type: ignore[method-assign, assignment]


def _is_news(record: logging.LogRecord) -> bool:
    """Tell what a person must read from what there is to learn to ignore."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, Exception) and (isinstance(error, TOLD_ERRORS) or full_disk(error)):
        return False
    return not any(words in record.getMessage() for words in NO_NEWS)


def _brief(render: Callable[[logging.LogRecord], str]) -> Callable[[logging.LogRecord], str]:
    """Leave the exception's text out of "Finished in state Failed(...)"; print what data says."""
    return lambda record: terminal(
        re.sub(r"(in state \w+)\(.*", r"\1", render(record), flags=re.DOTALL)
    )
