"""What single stages show on Prefect's pages, from their outputs: the same whether a stage ran or was
reused, so that every run has all of it.

format and evaluate show something as they run as well. That is replaced here, and not changed there:
their code is part of what determines their outputs, which new looks must not make anew.
"""

from collections.abc import Sequence
from typing import Any

from prefect.artifacts import create_progress_artifact

from flows.described import masked_samples
from flows.replaced import replace
from retune.escaping import code_block, markdown
from retune.measures import measure, title
from retune.records import Adapter, Chats, Scores
from retune.tracking import Run
from tasks.stage import show

LONGEST_EXAMPLES = 6_000  # characters of the first training rows
LONGEST_CELL = 400  # characters of an answer


def show_chats(chats: Chats) -> None:
    """Show the numbers of the training rows, and the first of them as the model sees them."""
    with chats.some("learned.txt") as folder:
        show_format(chats.metrics, (folder / "learned.txt").read_text(encoding="utf-8"))


def show_format(metrics: dict[str, float], examples: str) -> None:
    lines = [f"| {_words(name)} | {_number(name, value)} |" for name, value in metrics.items()]
    numbers = "\n".join(["| | |", "|---|---:|", *lines])
    show(
        replace,
        key="format",
        markdown=f"{numbers}\n\nThe first training rows, with ⟦what is not learned⟧ in brackets:\n\n"
        f"{code_block(examples[:LONGEST_EXAMPLES])}",
        description="Token statistics and examples",
    )


def show_training(adapter: Adapter, run: Run) -> None:
    """Show a training that was reused as one that is done; one that ran has shown itself."""
    if not run.reused(adapter):
        return
    metrics = adapter.metrics
    told = [
        f"{title(name)} {measure(name).text(metrics[name])}"
        for name in ("steps", "final_loss", "total_tokens", "gpu_hours")
        if name in metrics
    ]
    made = f"{adapter.started:%Y-%m-%d %H:%M} UTC"
    show(
        replace,
        100.0,
        kind=create_progress_artifact,
        key="training",
        description=f"Reused, made {made}: {', '.join(told)}",
    )


def show_scores(scores: Scores, limit: int) -> None:
    """Show what base and tuned model answered: the first `limit` questions, and all prompts."""
    show_samples(masked_samples(scores), limit)


def show_samples(rows: Sequence[dict[str, Any]], limit: int) -> None:
    asked = [row for row in rows if row["family"] != "prompt"][:limit]
    prompts = [row for row in rows if row["family"] == "prompt"]
    show(
        replace,
        key="samples",
        markdown="\n\n".join(map(_sample, [*asked, *prompts])) or "No question was asked.",
        description="Base and tuned, answering",
    )


def _sample(row: dict[str, Any]) -> str:
    """Return a question and its answers one below the other: side by side they would be cut."""
    sides = ("expected", "base", "tuned") if row["expected"] else ("base", "tuned")
    lines = [f"| {side} | {markdown(row[side] or '', LONGEST_CELL)} |" for side in sides]
    prompt = markdown(row["prompt"] or "", LONGEST_CELL)
    return "\n".join([f"| question | {prompt} |", "|---|---|", *lines])


def _words(name: str) -> str:
    try:
        return markdown(title(name))
    except KeyError:
        return markdown(name.replace("/", ", ").replace("_", " "))


def _number(name: str, value: float) -> str:
    try:
        return measure(name).text(value)
    except KeyError:
        return f"{value:,.4g}"
