"""How a run ends, as a state of Prefect's with a name of its own, and with its page.

*Rejected* is no failure of the program, and *Equivalent* no promotion: whoever looks at Prefect's list
of runs sees which. Callers still get the summary, and Rejected is still raised. What a person can mend
ends a run by its message alone; a fault of ours has its traceback in the run's log.
"""

from collections.abc import Callable
from typing import cast

from prefect import State
from prefect.states import Completed, Failed

from expectations.verdicts import Rejected
from flows import run_page
from flows.kept_status import keep
from flows.summary import Summary
from retune.errors import ProgramFailed, RetuneError
from retune.escaping import terminal
from retune.tracking import Waiting

MESSAGE_LIMIT = 4000  # characters; all of it is in MLflow and in the table of verdicts


def with_ending(line: Callable[[], Summary]) -> Summary:
    """Return what `line` gives, as the state that a flow ends in. To Prefect it is that state; who
    calls the flow gets the summary, or the error.

    While it waits for a person, Prefect's own signal goes on to Prefect.
    """
    run_page.CURRENT.set(None)
    try:
        return cast("Summary", _ended(line()))
    except Rejected as error:
        return cast("Summary", _failed("Rejected", error))
    except Waiting as waiting:
        _tell("Suspended", str(waiting))
        raise (waiting.__cause__ or waiting) from None
    except (RetuneError, ProgramFailed) as error:
        return cast("Summary", _failed("Failed", error))
    except Exception as error:
        _tell(
            "Failed",
            f"{type(error).__name__}: {error}\nThis is a fault of retune; its log "
            "has the traceback.",
        )
        raise


def _ended(summary: Summary) -> "State[Summary]":
    _tell(summary.ending, summary.reason, summary.markdown())
    message = _message(summary.reason)
    return Completed(name=summary.ending, message=message, data=summary)


def _failed(name: str, error: BaseException) -> "State[Summary]":
    reason = str(error).strip() or type(error).__name__
    _tell(name, reason)
    return Failed(name=name, message=_message(reason), data=error)


def _tell(ending: str, reason: str, grids: str = "") -> None:
    """Make the page of this run, and keep the status of all up to date. Never raises."""
    run_page.show(ending, reason, grids)
    run = run_page.CURRENT.get()
    keep(ending, reason, run.id if run else "")


def _message(reason: str) -> str:
    """Return a message of which Prefect shows the first line at once; its last has three numbers."""
    numbers = run_page.told(run_page.CURRENT.get())
    room = MESSAGE_LIMIT - len(numbers) - 1
    text = terminal(reason).strip()
    text = text if len(text) <= room else f"{text[: room - 1]}…"
    return f"{text}\n{numbers}" if numbers else text
