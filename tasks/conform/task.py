"""conform: base model, tokenizer and chat template fit each other and llama.cpp, before any GPU time.

parity, when the rows are known: llama.cpp reads them as they are trained on.
"""

import json

from prefect import get_run_logger

from retune.building import building
from retune.inspection import inspect_base
from retune.outputs import Step
from retune.recipe import Recipe
from retune.records import Chats, Conformance, Pins, TokenParity
from retune.sources import unchanged
from tasks.conform.examination import ExaminationReport, examine
from tasks.conform.rows import compare
from tasks.stage import stage


@stage(name="conform")
def conform(recipe: Recipe, pins: Pins, step: Step) -> Conformance:
    """Find out whether what this recipe trains can be asked and served as it is trained.

    No weights are needed. Without GGUF files to come, llama.cpp has no say.
    """
    model = recipe.model
    inspect_base(model, pins.model, weights=False)
    with building(step) as build, unchanged(model.base, pins.model, "model.base"):
        gguf = build.path / "tiny.gguf" if recipe.makes_gguf else None
        report = examine(model, pins.commit(pins.model), gguf, recipe.training.train_on, build.path)
        (build.path / "report.json").write_text(report.model_dump_json(indent=1))
        _tell(report)
        metrics: dict[str, float] = {"checks": len(report.checks)}
        if report.parity:
            metrics["texts"] = sum(report.parity.texts.values())
            metrics["texts/decomposed_differ"] = report.parity.decomposed
        code = model.trust_remote_code or "none"
        return build.finish(
            Conformance, metrics=metrics, params={"custom_code": code}, files=("report.json",)
        )


@stage(name="parity")
def parity(
    conformance: Conformance, chats: Chats, recipe: Recipe, pins: Pins, step: Step
) -> TokenParity:
    """Have llama.cpp read the dataset's rows and the recipe's prompts, and count what differs."""
    with building(step) as build:
        found = compare(conformance.gguf, chats, recipe.evaluation.prompts)
        (build.path / "differing.json").write_text(json.dumps(found.examples(), indent=1))
        get_run_logger().info(
            "llama.cpp reads %s of %s rows and prompts as they are trained on",
            f"{found.rows - len(found.differing):,}",
            f"{found.rows:,}",
        )
        metrics = {"rows_compared": found.rows, "differing_rows": found.share}
        return build.finish(TokenParity, metrics=metrics, files=("differing.json",))


def _tell(report: ExaminationReport) -> None:
    logger = get_run_logger()
    passed = sum(check.passed for check in report.checks)
    compared = sum(report.parity.texts.values()) if report.parity else 0
    logger.info(
        "%d of %d checks of tokenizer and chat template passed, %s texts compared with llama.cpp",
        *(passed, len(report.checks), f"{compared:,}"),
    )
    if report.parity and report.parity.decomposed:
        logger.warning(
            "llama.cpp does not compose characters as this tokenizer does: %s texts with accents "
            "written apart from their letters are read differently",
            f"{report.parity.decomposed:,}",
        )
