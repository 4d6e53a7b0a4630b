"""The Great Expectations suite of the data gate, built from a recipe's thresholds.

It reads the feature table of `expectations.features`. Severities: `critical` blocks the run,
`warning` is reported, `info` is logged.
"""

import os
from typing import TYPE_CHECKING, Any

from expectations.features import REASONS
from retune.config import Validation

if TYPE_CHECKING:
    import polars as pl
    from great_expectations import ExpectationSuite
    from great_expectations.core import ExpectationSuiteValidationResult
    from great_expectations.data_context import EphemeralDataContext

SUITE = "conversations"

FLAWS = {
    "no_messages": "rows without messages",
    "unknown_role": "messages with an unknown role",
    "roles_out_of_order": "roles out of order (user and assistant must alternate, ending with assistant)",
    "empty_message": "empty messages",
    "oversized_message": "messages longer than {max_message_chars:,} characters",
    "chat_token_in_message": "ChatML control tokens typed inside a message",
    "score_missing": "rows without a score",
    "score_out_of_range": "scores outside {score_min:g} to {score_max:g}",
    "duplicate": "exact duplicates of an earlier row",
}


def suite(config: Validation) -> "ExpectationSuite":
    """Return the suite for these thresholds; each expectation's `meta.title` says it in words."""
    import great_expectations as gx

    e = gx.expectations
    least, most = config.score_mean_min, config.score_mean_max
    expectations = [
        e.ExpectColumnSumToBeBetween(
            column="accepted",
            min_value=config.min_rows,
            severity="critical",
            meta=_meta("min_rows", f"at least {config.min_rows:,} rows remain after quarantine"),
        ),
        e.ExpectColumnMeanToBeBetween(
            column="flawed",
            max_value=config.max_quarantined_share,
            severity="critical",
            meta=_meta(
                "max_quarantined_share",
                f"at most {config.max_quarantined_share:.1%} of the rows are flawed",
            ),
        ),
        e.ExpectColumnMeanToBeBetween(
            column="duplicate",
            max_value=config.max_duplicate_share,
            severity="warning",
            meta=_meta(
                "max_duplicate_share",
                f"at most {config.max_duplicate_share:.1%} of the rows are duplicates",
            ),
        ),
    ]
    for setting, bound, words in (
        ("score_mean_min", {"min_value": least}, f"the mean score is at least {least}"),
        ("score_mean_max", {"max_value": most}, f"the mean score is at most {most}"),
    ):
        if getattr(config, setting) is not None:
            expectations.append(
                e.ExpectColumnMeanToBeBetween(
                    column="accepted_score",
                    severity="critical",
                    meta=_meta(setting, words),
                    **bound,
                )
            )
    for quantile, score in sorted(config.score_quantiles_min.items()):
        # The quantile is at least x exactly when at most that share of scores is below x. Written
        # so, GX counts and lists the rows; its quantile expectation returns a NumPy bool that its
        # own store cannot serialise (1.24.1 with NumPy 2).
        expectations.append(
            e.ExpectColumnValuesToBeBetween(
                column="accepted_score",
                min_value=score,
                mostly=1 - quantile,
                severity="critical",
                meta=_meta(
                    "score_quantiles_min",
                    f"the {quantile:.0%} quantile of the scores is at least {score:g}",
                ),
            )
        )
    for reason in REASONS:
        title = "no " + FLAWS[reason].format(**config.model_dump())
        expectations.append(
            e.ExpectColumnValuesToBeInSet(
                column=reason, value_set=[False], severity="info", meta={"title": title}
            )
        )
    return gx.ExpectationSuite(name=SUITE, expectations=expectations)


def judge(
    features: "pl.DataFrame", config: Validation, docs: str
) -> "ExpectationSuiteValidationResult":
    """Validate the feature table and write GX's Data Docs (HTML) into the folder `docs`."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # read when it is imported
    import great_expectations as gx
    import polars as pl

    context = _context(docs)
    table = features.drop("reasons").with_columns(
        accepted=~pl.col("flawed"),
        accepted_score=pl.when(~pl.col("flawed")).then(pl.col("score")),
    )
    # GX counts and averages numbers, not booleans.
    table = table.with_columns(pl.col("accepted", "flawed", "duplicate").cast(pl.Int8))
    batch = (
        context.data_sources.add_pandas("features")
        .add_dataframe_asset("rows")
        .add_batch_definition_whole_dataframe("all")
    )
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(name="gate", data=batch, suite=context.suites.add(suite(config)))
    )
    checkpoint = context.checkpoints.add(
        gx.Checkpoint(
            name="gate",
            validation_definitions=[definition],
            actions=[gx.checkpoint.UpdateDataDocsAction(name="docs", site_names=["docs"])],
            result_format={
                "result_format": "SUMMARY",
                "partial_unexpected_count": 5,
                "unexpected_index_column_names": ["row"],
            },
        )
    )
    result = checkpoint.run(batch_parameters={"dataframe": table.to_pandas()})
    return next(iter(result.run_results.values()))


def _context(docs: str) -> "EphemeralDataContext":
    """Return a context that keeps everything in memory but its HTML pages."""
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    store: dict[str, Any] = {"class_name": "TupleFilesystemStoreBackend", "base_directory": docs}
    context.add_data_docs_site(
        site_name="docs", site_config={"class_name": "SiteBuilder", "store_backend": store}
    )
    return context


def _meta(setting: str, title: str) -> dict[str, str]:
    return {"title": title, "setting": f"validation.{setting}"}
