"""format: conversations become ChatML text and token ids, split into training and held-out rows."""

from pathlib import Path

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact

from retune.chat import chatml_tokenizer
from retune.escaping import code_block
from retune.loaders import admit, strip_code
from retune.recipe import Recipe
from retune.records import Chats, Pins, Rows
from retune.sources import unchanged
from retune.workspace import Step, building
from tasks.format.chats import token_statistics, write_chats
from tasks.stage import stage


@stage(name="format")
def format_chats(rows: Rows, recipe: Recipe, pins: Pins, step: Step) -> Chats:
    """Render every conversation with the chat template, count its tokens, and split."""
    from retune.plots import length_histogram

    model = recipe.model
    with building(step) as build:
        with unchanged(model.base, pins.model, "model.base"):
            admit(model, pins.commit(pins.model))
            tokenizer = chatml_tokenizer(model.base, pins.commit(pins.model), model.chat_tokens)
        tokenizer.save_pretrained(build.path / "tokenizer")
        strip_code(build.path / "tokenizer")
        share = recipe.formatting.held_out_share
        lengths, held_out = write_chats(rows.path, tokenizer, share, build.path)
        metrics: dict[str, float] = {"rows/train": len(lengths), "rows/held_out": held_out}
        metrics |= token_statistics(lengths, model.max_length)
        _show(build.path / "train.parquet", metrics)
        length_histogram(lengths, model.max_length, build.path / "lengths.png")
        files = ("tokenizer/chat_template.jinja", "lengths.png")
        return build.finish(Chats, metrics=metrics, files=files)


def _show(train: Path, metrics: dict[str, float]) -> None:
    import polars as pl

    get_run_logger().info(
        "%s training rows, %s held out, %s tokens, %.1f %% cut",
        f"{metrics['rows/train']:,}",
        f"{metrics['rows/held_out']:,}",
        f"{metrics['tokens/total']:,}",
        100 * metrics["truncated_share"],
    )
    example = pl.scan_parquet(train).select("text").head(1).collect().item()
    numbers = "\n".join(f"| {name} | {value:,.4g} |" for name, value in metrics.items())
    create_markdown_artifact(
        key="format",
        markdown=f"| | |\n|---|---:|\n{numbers}\n\n"
        f"The first training row:\n\n{code_block(example[:2000])}",
        description="Token statistics and an example",
    )
