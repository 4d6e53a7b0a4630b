"""validate: the data gate. A bad dataset stops here, before anything costly starts."""

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from expectations.messages import Rules
from expectations.report import DatasetRejected, Report
from expectations.scores import Distribution
from retune.chat import chatml_tokenizer, special_tokens
from retune.config import Recipe
from retune.escaping import table, visible
from retune.loaders import admit
from retune.records import Pins, Rows
from retune.sources import unchanged
from retune.tracking import Run, download_json
from retune.workspace import Step, building
from tasks.stage import stage
from tasks.validate.gate import FILES, gate
from tasks.validate.prompts import evaluation_prompts


@stage(name="validate")
def validate(rows: Rows, recipe: Recipe, pins: Pins, step: Step, run: Run) -> Rows:
    """Judge the rows; hand on the sound ones, put the flawed ones into quarantine, or stop the run."""
    logger = get_run_logger()
    with building(step) as build:
        model, commit = recipe.model, pins.commit(pins.model)
        with unchanged(model.base, pins.model, "model.base"):
            admit(model, commit)
            tokenizer = chatml_tokenizer(model.base, commit, model.chat_tokens)
        prompts = evaluation_prompts(recipe, pins.benchmarks)
        rules = Rules(recipe.validation, special_tokens(tokenizer), prompts)
        report = gate(rows.path, rules, build.path, _reference(pins), logger.info)
        _show(report)
        if report.failed:
            metrics = {f"validate/{name}": value for name, value in report.metrics().items()}
            run.log_metrics(metrics)
            run.log_files(build.path, FILES, "validate")
            raise DatasetRejected(report.message())
        params = {"suite": report.suite, "reference": pins.accepted or "none"}
        return build.finish(Rows, metrics=report.metrics(), params=params, files=FILES)


def _reference(pins: Pins) -> Distribution | None:
    """Return the score distribution of the last accepted run, if there is one and it has scores."""
    stored = download_json(pins.accepted, "validate/scores.json") if pins.accepted else None
    return Distribution.model_validate(stored) if stored else None


def _show(report: Report) -> None:
    logger = get_run_logger()
    logger.info(
        "%s of %s rows accepted, %s in quarantine, %s dropped by the filter (suite %s)",
        *(f"{n:,}" for n in (report.accepted, report.rows, report.quarantined, report.filtered)),
        report.suite,
    )
    for found in report.findings:
        row, excerpt = found.examples[0]
        fate = "quarantined" if found.quarantined else "kept"
        logger.info(
            "%s rows have %s (%s), e.g. row %s (%s)",
            f"{found.rows:,}",
            found.title,
            fate,
            row,
            visible(excerpt),
        )
    for verdict in report.warnings:
        logger.warning("expected: %s; seen: %s (%s)", verdict.title, verdict.seen, verdict.setting)
    create_table_artifact(
        key="validation",
        table=table(
            {
                "result": "passed" if verdict.success else "FAILED",
                "severity": verdict.severity,
                "expectation": verdict.title,
                "seen": verdict.seen,
            }
            for verdict in sorted(report.verdicts, key=lambda verdict: verdict.success)
        ),
        description=f"The data gate's expectations, suite {report.suite}",
    )
    create_markdown_artifact(
        key="quarantine", markdown=report.markdown(), description="The data gate"
    )
