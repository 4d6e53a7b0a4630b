"""What the repairs that a recipe does not ask for would do for the rows in quarantine.

Nothing is repaired here. A row counts as sound when it has no flaw left that keeps it in quarantine;
whether it then repeats another row is not looked at.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from expectations.data.features import batches, is_sound
from expectations.data.messages import (
    KNOWN_ROLES,
    MESSAGE_FLAWS,
    Rules,
    explode,
    judge_messages,
    judge_rows,
)
from expectations.data.repairs import Repaired, Repairs, Trial
from retune.recipe.flaws import FLAWS
from retune.recipe.repairs import REPAIRS
from tasks.validate.repairs.repair import OF_TURNS, repaired

if TYPE_CHECKING:
    import polars as pl

MOST = 10_000  # rows that are tried; of more, as many spread over all of them
# What mends fewer of them is not worth changing all other rows by.
LEAST_SHARE = 0.002
# No repair mends these.
_BEYOND_REPAIR = (
    *("malformed", "oversized_row", "no_messages", "contaminated"),
    *("exact_duplicate", "near_duplicate"),  # these are sound but for that
)


def trials(rows: Path, table: "pl.DataFrame", rules: Rules, applied: list[Repaired]) -> Repairs:
    """Try each repair that is not yet applied by itself, and those that are useful together.

    `rows` is the file that `table`, a feature table with dispositions, was made of; `applied` is what
    the repairs of the recipe did to it.
    """
    import polars as pl

    out = table.filter(pl.col("disposition") == "quarantined")
    names = [name for name in REPAIRS if name not in {repaired.name for repaired in applied}]
    tried = out.gather_every(max(1, -(-len(out) // MOST)))
    record = Repairs(applied=applied, quarantined=len(out), tried=len(tried))
    promising = tried.filter(~_any(_BEYOND_REPAIR, rules))
    if promising.is_empty() or not names:
        return record
    least = max(1, round(LEAST_SHARE * len(tried)))
    mended: dict[tuple[str, ...], pl.Series] = {
        (name,): _mended(rows, promising, [name], rules) for name in names
    }
    mended |= _together(rows, promising, mended, least, rules)
    found = [
        Trial(repairs=key, rows=len(numbers), flaws=_flaws(promising, numbers, rules))
        for key, numbers in mended.items()
        if len(numbers) >= least
    ]
    found.sort(key=lambda trial: (len(trial.repairs), -trial.rows))
    return record.model_copy(update={"trials": found})


def _together(
    rows: Path,
    promising: "pl.DataFrame",
    mended: "dict[tuple[str, ...], pl.Series]",
    least: int,
    rules: Rules,
) -> "dict[tuple[str, ...], pl.Series]":
    """Return the rows that become sound by all repairs that mend at least so many rows, by
    themselves, or of those that no single one mends."""
    import polars as pl

    names = [name for (name,) in mended]
    uses = Counter({name: len(numbers) for (name,), numbers in mended.items()})
    single = pl.concat(mended.values()).unique()
    left = promising.filter(~pl.col("row").is_in(single.implode()))
    for batch in _of(rows, left):
        uses += _needed(batch, left, names, rules)
    useful = tuple(name for name in names if uses[name] >= least)
    return {useful: _mended(rows, promising, useful, rules)} if len(useful) > 1 else {}


def _needed(
    batch: "pl.DataFrame", left: "pl.DataFrame", names: list[str], rules: Rules
) -> Counter[str]:
    """Count for each repair the rows that it changed and that all of them together make sound."""
    sound = _sound(batch, left, names, rules)
    steps = repaired(batch, names)[1]
    return Counter({step.name: int(step.rows.is_in(sound.implode()).sum()) for step in steps})


def _mended(
    rows: Path, promising: "pl.DataFrame", names: Iterable[str], rules: Rules
) -> "pl.Series":
    """Return the numbers of the rows that the repairs `names` make sound."""
    import polars as pl

    if not set(names) & OF_TURNS.keys():  # no change of a text mends the order of roles
        promising = promising.filter(~_any(("roles_out_of_order", "unknown_role"), rules))
    found = [_sound(batch, promising, names, rules) for batch in _of(rows, promising)]
    return pl.concat([promising["row"].clear(), *found])


def _of(rows: Path, table: "pl.DataFrame") -> "Iterator[pl.DataFrame]":
    """Yield the rows of a file that `table` has a line of."""
    import polars as pl

    for batch in batches(rows) if len(table) else ():
        wanted = batch.filter(pl.col("row").is_in(table["row"].implode()))
        if len(wanted):
            yield wanted


def _sound(
    batch: "pl.DataFrame", table: "pl.DataFrame", names: Iterable[str], rules: Rules
) -> "pl.Series":
    """Return the numbers of the rows of a batch that the repairs make sound."""
    import polars as pl

    new, steps = repaired(batch, names)
    changed = pl.concat([batch["row"].clear(), *(step.rows for step in steps)]).unique()
    altered = pl.concat(
        [batch["row"].clear(), *(step.rows for step in steps if step.name != "trim_ends")]
    )
    new = new.filter(pl.col("row").is_in(changed.implode()))
    # Most rows that are trimmed have no other flaw: what is left of them was judged before.
    others = [name for name in MESSAGE_FLAWS if name != "unknown_role"]
    flawed = table.filter(_any(("language", *others), rules))["row"]
    again = pl.col("row").is_in(altered.implode()) | pl.col("row").is_in(flawed.implode())
    by_order, whole = new.filter(~again), new.filter(again)
    free = rules.config.model_copy(update={"languages": ()})
    judged = [
        judge_rows(by_order, _unflawed(explode(by_order)), free),
        judge_rows(whole, judge_messages(explode(whole), rules), rules.config),
    ]
    return pl.concat([part.filter(is_sound(part, rules.config))["row"] for part in judged])


def _unflawed(messages: "pl.DataFrame") -> "pl.DataFrame":
    """Return messages as judged, that have no flaw but an unknown role."""
    import polars as pl

    return messages.with_columns(
        **dict.fromkeys(MESSAGE_FLAWS, pl.lit(False)), plain=pl.lit("")
    ).with_columns(unknown_role=~pl.col("role").fill_null("").is_in(KNOWN_ROLES))


def _any(flaws: Iterable[str], rules: Rules) -> "pl.Expr":
    import polars as pl

    names = [name for name in flaws if rules.config.quarantines(name)]
    return pl.any_horizontal(names) if names else pl.lit(False)


def _flaws(table: "pl.DataFrame", numbers: "pl.Series", rules: Rules) -> dict[str, int]:
    """Count the flaws that keep these rows in quarantine."""
    import polars as pl

    mended = table.filter(pl.col("row").is_in(numbers.implode()))
    counts = {name: int(mended[name].sum()) for name in FLAWS if rules.config.quarantines(name)}
    return {name: count for name, count in counts.items() if count}
