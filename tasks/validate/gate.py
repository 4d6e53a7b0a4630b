"""The data gate as a plain function: from a Parquet file of rows to a verdict, files included."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from expectations.excerpts import LENGTH, excerpts
from expectations.features import batches, fate, features, is_sound, reasons, with_scores
from expectations.masking import masked
from expectations.measures import measures, sound_scores
from expectations.messages import Rules
from expectations.page import page
from expectations.report import EXAMPLES, Report, report
from expectations.scores import Distribution
from expectations.suite import DATASET, ROWS, fingerprint, judge, suites
from retune.config import Validation
from retune.flaws import FLAWS
from tasks.validate.classifier import planned, score

if TYPE_CHECKING:
    import polars as pl
    from great_expectations.core import ExpectationSuiteValidationResult

# What the gate leaves besides the rows; all of it small, without secrets, and shown in MLflow.
FILES = (
    *("report.json", "expectations.json", "quarantine.parquet", "scores.json", "data_docs"),
    *("reasons.png", "scores.png"),
)
WHOLE_ROWS = "quarantine_rows.parquet"  # stays in the work folder: it holds what the rows say


def gate(
    rows: Path,
    rules: Rules,
    folder: Path,
    reference: Distribution | None = None,
    say: Callable[[str], None] = lambda _sentence: None,
) -> Report:
    """Judge a Parquet file of rows and write the outcome into `folder`.

    `reference` is the score distribution of the last accepted run; `say` is told how it goes.
    Writes `rows.parquet` (the accepted rows, control tokens escaped if the recipe says so),
    `quarantine.parquet` (`row`, `source`, `score`, `reasons`, `place` of the message to blame and
    `excerpt`), `report.json`, `scores.json` (the next run's reference), `expectations.json` and
    `data_docs/index.html` (all of it as one page that loads nothing), and the charts. What quotes a
    row is masked (`expectations.masking`), but in `quarantine_rows.parquet`, the quarantined rows as
    they are, which is written only if the recipe says so.
    """
    config = rules.config
    table = features(rows, rules)
    work = planned(table, config)
    scored = not (work and _is_rejected(table, config))
    if not scored:  # whatever the classifier would say: so it is not asked, and not waited for
        config = config.model_copy(update={"score_required": False})
        work = None
    scores, agreement = score(rows, work, config.classifier, say) if work else (None, None)
    table = with_scores(table, config, scores)
    numbers = measures(table, config, reference, agreement)
    suite = suites(config, scored)
    results = judge(_tables(table, numbers, config), suite)
    table = table.with_columns(masked(table["source"]).str.head(LENGTH).alias("source"))
    shown = _write_rows(rows, table, rules._replace(config=config), folder)
    outcome = report(table, shown, results, numbers, fingerprint(rules.config), config)
    _write_report(outcome, results, folder)
    _draw(outcome, table, reference, config, folder)
    _write_page(outcome, folder)
    return outcome


def _is_rejected(table: "pl.DataFrame", config: Validation) -> bool:
    """Tell whether the rows are too flawed already, before their scores are looked at."""
    return any(
        config.severity(flaw) == "critical" and table[flaw].mean() > config.tolerance(flaw)
        for flaw in FLAWS
        if flaw in table.columns
    )


def _tables(
    table: "pl.DataFrame", numbers: dict[str, float], config: Validation
) -> "dict[str, pl.DataFrame]":
    """Return the two tables that the suites judge."""
    import polars as pl

    score = pl.col("score")
    if table["score"].is_null().all():
        score = score.fill_null(float("-inf"))  # no quantile of no scores is high enough
    every = dict.fromkeys(("max_psi", "max_ks", "min_agreement")) | numbers
    return {
        ROWS: table.select("row", *FLAWS, sound_score=pl.when(is_sound(table, config)).then(score)),
        DATASET: pl.DataFrame([every], schema_overrides=dict.fromkeys(every, pl.Float64)),
    }


def _write_rows(rows: Path, table: "pl.DataFrame", rules: Rules, folder: Path) -> "pl.DataFrame":
    """Write accepted rows and quarantine; return excerpts of the first rows with each flaw."""
    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = table.with_columns(reasons(table), fate=fate(table, rules.config))
    examples = pl.concat(
        [table.filter(pl.col(flaw)).head(EXAMPLES)["row"] for flaw in FLAWS]
    ).unique()
    shown, quarantine, whole = [], [], []
    done = 0
    schema = pq.read_schema(rows).append(pa.field("twin", pa.int64()))
    with pq.ParquetWriter(folder / "rows.parquet", schema) as writer:
        for batch in batches(rows):
            lines = table[done : done + len(batch)]
            done += len(batch)
            kept = batch.with_columns(lines["score"], lines["twin"])
            kept = _escaped(kept.filter(lines["fate"] == "accepted"), rules)
            writer.write_table(kept.to_arrow().cast(writer.schema))
            flawed = (lines["fate"] == "quarantined") | lines["row"].is_in(examples.implode())
            found = excerpts(batch.filter(flawed), lines.filter(flawed), rules)
            shown.append(found.filter(pl.col("row").is_in(examples.implode())))
            first = found.unique("row", keep="first", maintain_order=True)
            quarantine.append(
                lines.filter(pl.col("fate") == "quarantined")
                .select("row", "source", "score", "reasons")
                .join(first.select("row", "place", "excerpt"), on="row", how="left")
            )
            if rules.config.quarantine_rows == "whole":
                judged = batch.with_columns(lines["score"], lines["reasons"])
                whole.append(judged.filter(lines["fate"] == "quarantined"))
    pl.concat(quarantine).write_parquet(folder / "quarantine.parquet")
    if whole:
        pl.concat(whole).write_parquet(folder / WHOLE_ROWS)
    return pl.concat(shown)


def _escaped(rows: "pl.DataFrame", rules: Rules) -> "pl.DataFrame":
    """Make plain text of control tokens typed inside messages, if the recipe says so.

    A zero-width space after the first character keeps the look and ends the token.
    """
    import polars as pl

    if rules.config.special_tokens != "escape":
        return rows
    broken = {token: f"{token[0]}\u200b{token[1:]}" for token in rules.control_tokens}
    content = pl.element().struct.field("content").str.replace_many(broken)
    return rows.with_columns(
        pl.col("messages").list.eval(pl.element().struct.with_fields(content.alias("content")))
    )


def _write_report(
    outcome: Report, results: "list[ExpectationSuiteValidationResult]", folder: Path
) -> None:
    (folder / "report.json").write_text(outcome.model_dump_json(indent=1))
    described = [result.to_json_dict() for result in results]
    (folder / "expectations.json").write_text(json.dumps(described, indent=1))
    scores = outcome.scores.model_dump_json() if outcome.scores else "null"
    (folder / "scores.json").write_text(scores)


def _write_page(outcome: Report, folder: Path) -> None:
    docs = folder / "data_docs"
    docs.mkdir(exist_ok=True)
    charts = {name: (folder / name).read_bytes() for name in ("reasons.png", "scores.png")}
    (docs / "index.html").write_text(page(outcome, charts), encoding="utf-8")


def _draw(
    outcome: Report,
    table: "pl.DataFrame",
    reference: Distribution | None,
    config: Validation,
    folder: Path,
) -> None:
    from retune.plots import reasons_chart, score_histogram

    counts = {found.flaw.replace("_", " "): found.rows for found in outcome.findings}
    reasons_chart(counts, outcome.rows, folder / "reasons.png")
    score_histogram(
        sound_scores(table, config).to_numpy(),
        folder / "scores.png",
        config.score_threshold,
        reference.quantiles if reference else None,
    )
