"""How a run ends, as a state of Prefect's with a name of its own.

*Rejected* is no failure of the program, and *Equivalent* no promotion: whoever looks at Prefect's list
of runs sees which. Callers still get the summary, and Rejected is still raised.
"""

from collections.abc import Callable
from typing import cast

from prefect import State
from prefect.states import Completed, Failed

from expectations.verdicts import Rejected
from flows.summary import Summary
from retune.tracking import Waiting

MESSAGE_LIMIT = 4000  # characters; all of it is in MLflow and in the table of verdicts


def with_ending(line: Callable[[], Summary]) -> Summary:
    """Return what `line` gives, as the state that a flow ends in. To Prefect it is that state; who
    calls the flow gets the summary, or Rejected.

    While it waits for a person, Prefect's own signal goes on to Prefect.
    """
    try:
        return cast("Summary", _ended(line()))
    except Rejected as error:
        return cast("Summary", _rejected(error))
    except Waiting as waiting:
        raise (waiting.__cause__ or waiting) from None


def _ended(summary: Summary) -> "State[Summary]":
    return Completed(name=summary.ending, message=_short(summary.reason), data=summary)


def _rejected(error: Rejected) -> "State[Summary]":
    return Failed(name="Rejected", message=_short(str(error)), data=error)


def _short(text: str) -> str:
    """Return a message of which Prefect shows the first line at once."""
    text = text.strip()
    return text if len(text) <= MESSAGE_LIMIT else f"{text[: MESSAGE_LIMIT - 1]}…"
