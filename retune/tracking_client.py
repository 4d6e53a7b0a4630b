"""MLflow's client, for which a server that does not answer is one sentence, after one wait."""

import functools
import logging
import os
import re
from typing import Any

from retune.disk_space import is_disk_full, no_space_left
from retune.errors import RetuneError
from retune.escaping import terminal
from retune.home import home
from retune.moved_home import DATABASE

# What MLflow says once its own retries, about four minutes of them, are used up. Its exception has no
# other mark, and refusals are exceptions of the same class.
UNANSWERED = re.compile(r"API request to \S+ failed with (timeout )?exception")
RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"


MLFLOWS_LOG = "mlflow.store.db.utils"  # which tells each error of its database, with a traceback


class TrackingUnreachable(RetuneError):
    """MLflow did not answer, also after some minutes; what was made is kept."""


class PatientClient:
    """An MlflowClient. The first call that a server leaves unanswered waits as long as MLflow does; until
    it answers again, others ask once. Each raises TrackingUnreachable."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._usual: str | None = None
        self._is_away = False
        logging.getLogger(MLFLOWS_LOG).addFilter(_is_news)  # the same one, each time

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return functools.partial(self._call, method) if callable(method) else method

    def _call(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            answer = method(*args, **kwargs)
        except Exception as error:
            if is_disk_full(error):  # of an SQLite file
                raise no_space_left(home() / DATABASE, error) from None
            if not UNANSWERED.match(str(error)):
                raise
            self._be(away=True)
            raise unreachable(self._client.tracking_uri, error) from None
        if self._is_away:
            self._be(away=False)
        return answer

    def _be(self, away: bool) -> None:
        """Let MLflow, which reads this at each request, retry as often as it is to from here on."""
        if away and not self._is_away:
            self._usual = os.environ.get(RETRIES)
            os.environ[RETRIES] = "0"
        elif self._is_away and not away:
            os.environ.pop(RETRIES)
            os.environ |= {RETRIES: self._usual} if self._usual is not None else {}
        self._is_away = away


def _is_news(record: logging.LogRecord) -> bool:
    """Tell what a person must read from what is said in a sentence already: a disk is full."""
    return not (record.exc_info and is_disk_full(record.exc_info[1]))


def unreachable(address: str, error: Exception) -> TrackingUnreachable:
    """Return the error that tells a person what to do."""
    reason = terminal(str(error)).rpartition(": ")[2].strip("')")[:120]
    return TrackingUnreachable(
        f"MLflow at {address} does not answer ({reason}): start it, or correct MLFLOW_TRACKING_URI, and "
        f"run again. Nothing that was made is lost: it is reused, and what MLflow missed is logged then"
    )
