"""validate: the data gate. A bad dataset stops here, before anything costly starts."""

from pathlib import Path

from prefect import get_run_logger
from prefect.artifacts import create_table_artifact

from expectations.report import Report
from retune.config import Validation
from retune.records import Rows
from retune.tracking import Run
from retune.workspace import Step, building
from tasks.stage import stage

FILES = ("report.json", "data_docs")


class DatasetRejected(ValueError):
    """A critical expectation failed; the message names what, how many rows, and an example."""


@stage(name="validate")
def validate(rows: Rows, config: Validation, step: Step, run: Run) -> Rows:
    """Judge the rows; hand on the sound ones, put the flawed ones into quarantine, or stop the run."""
    with building(step) as build:
        report = gate(rows.path, config, build.path)
        _show(report)
        if report.failed:
            run.log_metrics({f"validate/{name}": value for name, value in metrics(report).items()})
            run.log_files(build.path, FILES, "validate")
            raise DatasetRejected(report.message())
        return build.finish(Rows, metrics=metrics(report), files=(*FILES, "quarantine.parquet"))


def gate(rows: Path, config: Validation, folder: Path) -> Report:
    """Judge a Parquet file of rows and write the outcome into `folder`.

    Writes `rows.parquet` (the sound rows), `quarantine.parquet` (the others, with `reasons` and
    `excerpt`), `report.json` and `data_docs/` (Great Expectations' HTML).
    """
    import polars as pl

    from expectations.features import features
    from expectations.report import report
    from expectations.suite import judge

    frame = pl.read_parquet(rows)
    judged = features(frame, config)
    outcome = report(judged, judge(judged, config, str(folder / "data_docs")), config)
    flawed = judged["flawed"]
    frame.remove(flawed).write_parquet(folder / "rows.parquet")
    frame.with_columns(judged["reasons"], judged["excerpt"]).filter(flawed).write_parquet(
        folder / "quarantine.parquet"
    )
    (folder / "report.json").write_text(outcome.model_dump_json(indent=1))
    return outcome


def metrics(report: Report) -> dict[str, float]:
    """Return the report's numbers under their stable metric names."""
    numbers = {
        "rows": report.rows,
        "accepted": report.accepted,
        "quarantined_share": 1 - report.accepted / report.rows,
        "critical_failures": len(report.failed),
    }
    if report.score_mean is not None:
        numbers["score_mean"] = report.score_mean
    return numbers | {f"quarantined/{flaw.reason}": flaw.rows for flaw in report.flaws}


def _show(report: Report) -> None:
    logger = get_run_logger()
    logger.info("%s of %s rows accepted", f"{report.accepted:,}", f"{report.rows:,}")
    for flaw in report.flaws:
        row, excerpt = flaw.examples[0]
        logger.info("quarantine: %s %s, e.g. row %s (%s)", flaw.rows, flaw.title, row, excerpt)
    for verdict in report.verdicts:
        if verdict.severity == "warning" and not verdict.success:
            logger.warning("expected: %s; seen: %s", verdict.title, verdict.seen)
    create_table_artifact(
        key="validation",
        table=[
            {
                "": "passed" if verdict.success else "FAILED",
                "severity": verdict.severity,
                "expectation": verdict.title,
                "seen": verdict.seen,
            }
            for verdict in report.verdicts
        ],
        description="The data gate's expectations",
    )
