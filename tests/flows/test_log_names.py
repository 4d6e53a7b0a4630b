"""A line of a run's log says of which stage it is."""

import logging

import pytest
from prefect.client.schemas.objects import TaskRun
from prefect.logging.loggers import task_run_logger

from flows.log_names import LOGGER, name_lines
from tasks.merge.task import merge
from tasks.quantize.task import quantize


@pytest.fixture
def lines(monkeypatch):
    seen: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())
    logger = logging.getLogger(LOGGER)
    monkeypatch.setattr(logger, "filters", [])
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "level", logging.INFO)
    monkeypatch.setattr(logger, "disabled", False)
    return seen


def test_a_line_begins_with_the_stage_that_says_it_and_once(lines):
    name_lines()
    name_lines()
    of_merge = task_run_logger(TaskRun(name="merge-3f2", task_key="m", dynamic_key="0"), merge)
    of_file = task_run_logger(
        TaskRun(name="quantize q8_0", task_key="q", dynamic_key="0"), quantize
    )
    of_merge.info("%s", "begins")
    of_merge.info("100% done")
    of_merge.info("merge: is said already")
    of_file.info("Finished in state %s", "Completed()")
    of_file.info("Finished in state %s", "Cached('reused from run 3bceaeff: made then')")
    logging.getLogger(LOGGER).info("of no task")
    assert lines == [
        *("merge: begins", "merge: 100% done", "merge: is said already"),
        *("quantize q8_0: Finished in state Completed()", "of no task"),
    ]
