"""format: conversations become ChatML text and token ids, split into training and held-out rows."""

from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact

from retune.building import building
from retune.child import run_child
from retune.escaping import code_block, terminal
from retune.files import write_json
from retune.outputs import Step
from retune.recipe import Recipe
from retune.records import Chats, Pins, Rows
from retune.sources import unchanged
from tasks.format.child import PREVIEW, FormatJob
from tasks.stage import show, stage

CHILD = Path(__file__).with_name("child.py")
ALL_CORES = {"TOKENIZERS_PARALLELISM": "true"}
_REASONS = 5  # of a template that refuses rows, told in the log
_SEPARATOR = "\n\n--------\n\n"  # between examples


@stage(name="format")
def format_chats(rows: Rows, recipe: Recipe, pins: Pins, step: Step) -> Chats:
    """Render every conversation with the chat template, count its tokens, and split."""
    model, revision = recipe.model, pins.commit(pins.model)
    with building(step) as build:
        job = FormatJob(
            rows=rows.path,
            folder=build.path,
            model=model,
            revision=revision,
            held_out_share=recipe.formatting.held_out_share,
            train_on=recipe.training.train_on,
        )
        log = build.path / "format.log"
        with unchanged(model.base, pins.model, "model.base"):
            found = run_child(CHILD, job, log, env=ALL_CORES, hub=revision is not None, forked=True)
        write_json(build.path / "template.json", found["effects"])
        (build.path / "learned.txt").write_text(_SEPARATOR.join(found["examples"]))
        _show(found)
        files = (
            *("tokenizer/chat_template.jinja", "template.json"),
            *("learned.txt", PREVIEW, "lengths.png", log.name),
        )
        return build.finish(Chats, metrics=found["metrics"], files=files)


def _show(found: dict[str, Any]) -> None:
    logger = get_run_logger()
    metrics = found["metrics"]
    logger.info(
        "%s training rows, %s held out, %s tokens, %.1f %% cut",
        f"{metrics['rows/train']:,}",
        f"{metrics['rows/held_out']:,}",
        f"{metrics['tokens/total']:,}",
        100 * metrics["truncated_share"],
    )
    for reason, count in found["reasons"][:_REASONS]:
        logger.warning("the chat template refuses %s rows: %s", f"{count:,}", terminal(reason))
    if found["reasoning"]:
        logger.warning(
            "the chat template drops reasoning in %s rows: it is not learned",
            f"{found['reasoning']:,}",
        )
    numbers = "\n".join(f"| {name} | {value:,.4g} |" for name, value in metrics.items())
    rows = "\n\n".join(code_block(example[:2000]) for example in found["examples"])
    show(
        create_markdown_artifact,
        key="format",
        markdown=f"| | |\n|---|---:|\n{numbers}\n\n"
        f"The first training rows, with ⟦what is not learned⟧ in brackets:\n\n{rows}",
        description="Token statistics and examples",
    )
