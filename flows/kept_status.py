"""The status of all recipes as it is after a run: a line in the home's log, and a page in Prefect."""

import logging

from prefect import runtime

from flows.replaced import replace
from flows.status import status
from retune.run_log import note_end

KEY = "retune-status"


def keep(ending: str, reason: str, run_id: str) -> None:
    """Note how this flow run ends, and make the page anew. Never raises: a run does not fail by it."""
    parameters = runtime.flow_run.parameters or {}
    recipe = parameters.get("name")
    try:
        if isinstance(recipe, str) and recipe:
            note_end(recipe, ending, reason, run_id)
        replace(key=KEY, markdown=status().markdown(), description="How all recipes stand")
    except Exception:
        logging.getLogger(__name__).warning("the status was not kept", exc_info=True)
