"""How a run ends, as a state of Prefect's with a name of its own, and with its page.

*Rejected* is no failure of the program, and *Equivalent* no promotion: whoever looks at Prefect's list
of runs sees which. Callers still get the summary, and Rejected is still raised. What a person can mend
ends a run by its message alone; a fault of ours has its traceback in the run's log.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from httpx import HTTPError
from prefect import State, get_client, get_run_logger
from prefect._internal.control_listener import get_intent
from prefect.context import FlowRunContext
from prefect.exceptions import TerminationSignal
from prefect.states import Cancelled, Completed, Crashed, Failed

from expectations.verdicts import Rejected
from flows import run_page
from flows.full_disk import full_disk
from flows.kept_status import keep
from flows.summary import Summary
from retune.errors import ProgramFailed, RetuneError
from retune.escaping import terminal
from retune.retention import WAITING
from retune.tracking import Waiting

KEPT = "retune.kept"  # label of a flow run: what it left when it was told to end
MESSAGE_LIMIT = 4000  # characters; all of it is in MLflow and in the table of verdicts


def with_ending(line: Callable[[], Summary]) -> Summary:
    """Return what `line` gives, as the state that a flow ends in. To Prefect it is that state; who
    calls the flow gets the summary, or the error.

    While it waits for a person, Prefect's own signal goes on to Prefect. Of one that is told to end
    (Ctrl-C, SIGTERM, a cancellation) the message says what is kept and how to go on.
    """
    run_page.CURRENT.set(None)
    try:
        return cast("Summary", _ended(line()))
    except Rejected as error:
        return cast("Summary", _failed("Rejected", error))
    except Waiting as waiting:
        _tell(WAITING, str(waiting))
        raise (waiting.__cause__ or waiting) from None
    except (TerminationSignal, KeyboardInterrupt) as interruption:
        _leave_word(interruption)
        raise
    except (RetuneError, ProgramFailed) as error:
        return cast("Summary", _failed("Failed", error))
    except Exception as error:
        if full := full_disk(error):
            return cast("Summary", _failed("Failed", full))
        _tell(
            "Failed",
            f"{type(error).__name__}: {error}\nThis is a fault of retune; its log "
            "has the traceback.",
        )
        raise


def _leave_word(interruption: BaseException) -> None:
    """Say in the run's state, log and label what is kept.

    A run that somebody cancels is Cancelled here and now, which frees its slot: its worker writes that
    state with words of its own, after it has imported the flow once more to look for hooks. The label is
    for who puts these words right (see `flows.watchdog`).
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    run, intent = context.flow_run, get_intent()
    with suppress(HTTPError), get_client(sync_client=True) as client:
        # Without a worker (it was killed) the cancellation comes from somebody else.
        seen = client.read_flow_run(run.id).state
        cancelled = intent == "cancel" or (seen is not None and seen.is_cancelling())
        sentence = told_to_end(interruption, cancelled, deployed=bool(run.deployment_id))
        get_run_logger().warning("%s", sentence)
        client.update_flow_run_labels(run.id, {KEPT: sentence})
        if intent in (None, "cancel"):  # else whoever supervises the run has a state for it
            kind = Cancelled if cancelled else Crashed
            state: State[Any] = kind(message=sentence)
            client.set_flow_run_state(run.id, state, force=True)
            run.state = state  # what has ended is not ended again, with other words
            _tell(str(state.name), sentence)  # the slot is free by now


def told_to_end(interruption: BaseException, cancelled: bool, deployed: bool) -> str:
    """Return what a run that was interrupted leaves behind, and how to go on with it."""
    by = "Ctrl-C" if isinstance(interruption, KeyboardInterrupt) else "SIGTERM"
    kept = "; ".join(getattr(interruption, "__notes__", [])) or "finished stages are kept"
    again = "Retry" if deployed else "run it again, and it"
    happened = "Cancelled" if cancelled else f"It was told to end by {by}"
    return f"{happened}: {kept}; {again} continues from there."


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
    room = MESSAGE_LIMIT - (len(numbers) + 1 if numbers else 0)
    text = "\n".join(map(_closed, terminal(reason).strip().splitlines()))
    text = text if len(text) <= room else f"{text[: room - 1]}…"
    return f"{text}\n{numbers}" if numbers else text


def _closed(line: str) -> str:
    """Return a line as a sentence that ends: Prefect's pages show a message's lines in one."""
    line = line.rstrip()
    return line if not line or line[-1] in ".:;!?…" else f"{line}."
