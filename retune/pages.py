"""Where a person sees runs in MLflow: the address of its pages, if a server shows them."""

import os
from urllib.parse import urlsplit

from retune.access import ui_record


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
    process, port = (None, 0) if address else ui_record("mlflow_port")
    return f"http://127.0.0.1:{port}" if process else None
