"""Where a person sees runs in MLflow: the address of its pages, if a server shows them."""

import json
import os
from urllib.parse import urlsplit

from retune.access import ui_file
from retune.processes import running


def mlflow_pages() -> str | None:
    """Return the address of the MLflow server that this home's runs are on, without any sign-in in it.

    That is the server named by MLFLOW_TRACKING_URI, or that of a running `retune ui`; None if the runs
    are in a file that no server shows.
    """
    address = os.environ.get("MLFLOW_TRACKING_URI", "")
    parts = urlsplit(address)
    if parts.scheme in ("http", "https") and parts.hostname:
        host = parts.netloc.rpartition("@")[2]
        return f"{parts.scheme}://{host}{parts.path}".rstrip("/")
    return None if address else _own_server()


def _own_server() -> str | None:
    try:
        record = json.loads(ui_file().read_text())
        process, port = running(record["process"]), int(record["mlflow_port"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # none runs, or one of an older version
    return f"http://127.0.0.1:{port}" if process else None
