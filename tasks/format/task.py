"""format: conversations become ChatML text and token ids, split into training and held-out rows."""

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact

from expectations.data.masking import mask
from retune.chat import chatml_tokenizer
from retune.escaping import code_block, terminal
from retune.loaders import admit, strip_code
from retune.recipe import Recipe
from retune.records import Chats, Pins, Rows
from retune.sources import unchanged
from retune.workspace import Step, building, write_json
from tasks.format.chats import learned, token_statistics, write_chats
from tasks.format.effects import TemplateEffects
from tasks.stage import stage

_REASONS = 5  # of a template that refuses rows, told in the log
_SEPARATOR = "\n\n--------\n\n"  # between examples


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
        lengths, held_out, effects = write_chats(rows.path, tokenizer, share, build.path)
        train_on = recipe.training.train_on
        train = build.path / "train.parquet"
        unlearned, examples = learned(train, tokenizer, train_on, model.max_length)
        metrics: dict[str, float] = {"rows/train": len(lengths), "rows/held_out": held_out}
        metrics |= token_statistics(lengths, model.max_length) | effects.metrics()
        metrics["unlearned_share"] = unlearned
        write_json(build.path / "template.json", effects.described())
        masked = [mask(example) for example in examples]
        (build.path / "learned.txt").write_text(_SEPARATOR.join(masked))
        _show(metrics, masked, effects)
        length_histogram(lengths, model.max_length, build.path / "lengths.png")
        files = (
            *("tokenizer/chat_template.jinja", "template.json"),
            *("learned.txt", "lengths.png"),
        )
        return build.finish(Chats, metrics=metrics, files=files)


def _show(metrics: dict[str, float], examples: list[str], effects: TemplateEffects) -> None:
    logger = get_run_logger()
    logger.info(
        "%s training rows, %s held out, %s tokens, %.1f %% cut",
        f"{metrics['rows/train']:,}",
        f"{metrics['rows/held_out']:,}",
        f"{metrics['tokens/total']:,}",
        100 * metrics["truncated_share"],
    )
    for reason, count in effects.reasons()[:_REASONS]:
        logger.warning("the chat template refuses %s rows: %s", f"{count:,}", terminal(reason))
    if effects.reasoning:
        logger.warning(
            "the chat template drops reasoning in %s rows: it is not learned",
            f"{effects.reasoning:,}",
        )
    numbers = "\n".join(f"| {name} | {value:,.4g} |" for name, value in metrics.items())
    rows = "\n\n".join(code_block(example[:2000]) for example in examples)
    create_markdown_artifact(
        key="format",
        markdown=f"| | |\n|---|---:|\n{numbers}\n\n"
        f"The first training rows, with ⟦what is not learned⟧ in brackets:\n\n{rows}",
        description="Token statistics and examples",
    )
