"""The judge of format: what is cut from the rows, and what the chat template makes of them."""

from collections.abc import Iterator, Mapping

from expectations.verdicts import Judgement, Verdict, at_most, severity
from retune.recipe import Recipe
from retune.recipe.flaws import Severity
from retune.records import Chats

GATE = "format"


def judgement(chats: Chats, recipe: Recipe) -> Judgement:
    """Return the verdicts on the rows that format made."""
    shown = f"The rows and the template's words: {chats.folder / 'template.json'}."
    return judged(chats.metrics, int(chats.metrics["rows/train"]), recipe, shown)


def judged(metrics: Mapping[str, float], rows: int, recipe: Recipe, shown: str = "") -> Judgement:
    """Return the verdicts on `rows` training rows, by those of format's measures that there are.

    `shown` says where the rows are that the template refuses or alters.
    """
    advice = "Repair the dataset, or change the setting named if it is right as it is."
    verdicts = tuple(_verdicts(metrics, rows, recipe, shown))
    return Judgement(GATE, "dataset", verdicts, extent=f"{rows:,} rows", advice=advice)


def _verdicts(
    metrics: Mapping[str, float], rows: int, recipe: Recipe, shown: str
) -> Iterator[Verdict]:
    length = f"model.max_length={recipe.model.max_length:,} tokens"
    of_training = {
        "truncated_share": f"the training rows are longer than {length}",
        "unlearned_share": f"the training rows have no token to learn from within {length}",
    }
    for name, words in of_training.items():
        if name in metrics:
            count = f"{round(metrics[name] * rows):,} of {rows:,} rows"
            yield _verdict(name, words, metrics[name], count, recipe)
    if "refused_share" in metrics:
        words = "the rows are refused by the chat template"
        count = f"{metrics['rows/refused']:,.0f} rows"
        yield _verdict("refused_share", words, metrics["refused_share"], count, recipe, fix=shown)
    if "altered_share" in metrics:
        words = "the rows have a message that the chat template does not write as it is"
        lost = metrics["rows/lost_reasoning"]
        count = f"{metrics['rows/altered']:,.0f} rows" + (
            f"; {lost:,.0f} lose reasoning, which is not learned then" if lost else ""
        )
        share = metrics["altered_share"]
        # Templates drop reasoning by design, so this is told and refuses nothing.
        yield _verdict("altered_share", words, share, count, recipe, "warning", shown)


def _verdict(
    name: str,
    words: str,
    share: float,
    count: str,
    recipe: Recipe,
    default: Severity = "critical",
    fix: str = "",
) -> Verdict:
    setting = f"max_{name}"
    limit = getattr(recipe.formatting, setting)
    return Verdict(
        gate=GATE,
        name=name,
        expected=f"at most {limit:.1%} of {words}",
        seen=f"{share:.1%} ({count})",
        limit=limit,
        setting=f"formatting.{setting}",
        severity=severity(recipe, GATE, name, default),
        passed=at_most(share, limit),
        fix=fix,
    )
