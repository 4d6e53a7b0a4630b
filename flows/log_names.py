"""Lines of a run's log say which stage they are of: Prefect's page shows them without their tasks."""

import logging

LOGGER = "prefect.task_runs"  # Prefect's, of everything that is said in a task
# Prefect's line on a stage that has said itself what it reuses.
REUSED = "Finished in state Cached("


def name_lines() -> None:
    """Let each line that is logged in a task of this process begin with the task's name."""
    logging.getLogger(LOGGER).addFilter(_named)  # the same one is added once


def _named(record: logging.LogRecord) -> bool:
    """Put the name before the line, and leave out what was said. A name that each run has anew
    (`train-3f2`) is told as the task's."""
    task, run = getattr(record, "task_name", ""), getattr(record, "task_run_name", "")
    name, text = task if run.startswith(f"{task}-") else run, record.getMessage()
    if text.startswith(REUSED):
        return False
    if name and not text.startswith(f"{name}: "):
        record.msg, record.args = f"{name}: {text}", ()
    return True
