"""The slot of a run that works, which a server that is away for a while must not end.

Prefect terminates a run whose lease it cannot renew, a training of hours because a server was started
again. Here a lease is renewed for as long as the run lasts, and if it is lost the run goes on: that
another run may begin beside it costs less.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any
from uuid import UUID

from httpx import HTTPError, HTTPStatusError
from prefect import flow_engine, get_client, get_run_logger
from prefect.exceptions import PrefectException

SHARE = 1 / 5  # of a lease's length, between two renewals: a server may be away for the rest
GONE = (404, 410)


def keep_working_without_lease() -> None:
    """Let the runs of this process survive the loss of their lease."""
    flow_engine.maintain_concurrency_lease = maintained  # type: ignore[assignment]


@contextmanager
def maintained(lease_id: UUID, lease_duration: float, **_: Any) -> Iterator[None]:
    """Renew a lease of `lease_duration` seconds for the length of a block."""
    ended = threading.Event()
    arguments = (lease_id, lease_duration, ended)
    # In the context of the run, whose log a loss goes to.
    threading.Thread(target=copy_context().run, args=(_renew, *arguments), daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _renew(lease_id: UUID, seconds: float, ended: threading.Event) -> None:
    while True:
        try:
            with get_client(sync_client=True) as client:
                client.renew_concurrency_lease(lease_id=lease_id, lease_duration=seconds)
        except (HTTPError, PrefectException) as error:
            if isinstance(error, HTTPStatusError) and error.response.status_code in GONE:
                get_run_logger().warning(
                    "the run has lost its slot while the server was away, and goes on without: another "
                    "run of this deployment may begin beside it"
                )
                return
        if ended.wait(SHARE * seconds):
            return
