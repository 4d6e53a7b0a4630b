"""The judge of format: how much of the training rows is cut."""

from expectations.verdicts import Judgement, Verdict, at_most, severity
from retune.recipe import Recipe
from retune.records import Chats

GATE = "format"


def judgement(chats: Chats, recipe: Recipe) -> Judgement:
    """Return the verdict on the training rows that format made."""
    return truncation(chats.metrics["truncated_share"], int(chats.metrics["rows/train"]), recipe)


def truncation(truncated_share: float, rows: int, recipe: Recipe) -> Judgement:
    """Return the verdict on `rows` training rows, of which a share (0 to 1) is longer than allowed."""
    limit = recipe.formatting.max_truncated_share
    verdict = Verdict(
        gate=GATE,
        name="truncated_share",
        expected=f"at most {limit:.1%} of the training rows are longer than "
        f"model.max_length={recipe.model.max_length:,} tokens",
        seen=f"{truncated_share:.1%} ({round(truncated_share * rows):,} of {rows:,} rows)",
        limit=limit,
        setting="formatting.max_truncated_share",
        severity=severity(recipe, GATE, "truncated_share"),
        passed=at_most(truncated_share, limit),
    )
    advice = "Repair the dataset, or change the setting named if it is right as it is."
    return Judgement(GATE, "dataset", (verdict,), extent=f"{rows:,} rows", advice=advice)
