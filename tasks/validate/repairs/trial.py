"""What the repairs that a recipe does not ask for would do for the rows in quarantine.

Nothing is repaired here. A row counts as sound when it has no flaw left that keeps it in quarantine;
whether it then repeats another row is not looked at.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from expectations.data.batches import BATCH_BYTES, batches, copied
from expectations.data.features import is_sound
from expectations.data.messages import (
    KNOWN_ROLES,
    MESSAGE_FLAWS,
    Rules,
    explode,
    judge_messages,
    judge_rows,
)
from expectations.data.repairs import Repaired, Repairs, Trial
from expectations.data.tables import column
from retune.recipe.flaws import FLAWS
from retune.recipe.repairs import REPAIRS
from tasks.validate.repairs.repair import OF_TURNS, Change, repaired

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
# No change of a text mends these: only another order of turns, or fewer of them.
_BEYOND_WORDS = (
    *("roles_out_of_order", "unknown_role", "empty_message"),
    *("refusal", "self_identification", "secret"),
)


def trials(rows: Path, table: "pl.LazyFrame", rules: Rules, applied: list[Repaired]) -> Repairs:
    """Try each repair that is not yet applied by itself, and those that are useful together.

    `rows` is the file that `table`, a feature table with dispositions, was made of; `applied` is what
    the repairs of the recipe did to it.
    """
    import polars as pl

    out = table.filter(pl.col("disposition") == "quarantined")
    quarantined = column(out, "row")
    names = [name for name in REPAIRS if name not in {repaired.name for repaired in applied}]
    some = quarantined.gather_every(max(1, -(-len(quarantined) // MOST)))
    tried = out.filter(pl.col("row").is_in(some.implode())).collect(engine="streaming")
    record = Repairs(applied=applied, quarantined=len(quarantined), tried=len(tried))
    promising = tried.filter(~_any(_BEYOND_REPAIR, rules))
    if promising.is_empty() or not names:
        return record
    least = max(1, round(LEAST_SHARE * len(tried)))
    mended = _mended(rows, promising, [(name,) for name in names], rules)
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
    return _mended(rows, promising, [useful], rules) if len(useful) > 1 else {}


def _needed(
    batch: "pl.DataFrame", left: "pl.DataFrame", names: list[str], rules: Rules
) -> Counter[str]:
    """Count for each repair the rows that it changed and that all of them together make sound."""
    attempt, steps = _attempt(batch, left, names, rules)
    (sound,) = _sound([attempt], rules)
    return Counter({step.name: int(step.rows.is_in(sound.implode()).sum()) for step in steps})


def _mended(
    rows: Path, promising: "pl.DataFrame", choices: list[tuple[str, ...]], rules: Rules
) -> "dict[tuple[str, ...], pl.Series]":
    """Return for each choice of repairs the numbers of the rows that it makes sound."""
    import polars as pl

    worded = promising.filter(~_any(_BEYOND_WORDS, rules))
    tables = [promising if set(names) & OF_TURNS.keys() else worded for names in choices]
    mended = [[promising["row"].clear()] for _ in choices]
    for batch in _of(rows, promising):
        attempts = [
            _attempt(batch, table, names, rules)[0]
            for names, table in zip(choices, tables, strict=True)
        ]
        for found, sound in zip(mended, _sound(attempts, rules), strict=True):
            found.append(sound)
    return {names: pl.concat(found) for names, found in zip(choices, mended, strict=True)}


def _of(rows: Path, table: "pl.DataFrame") -> "Iterator[pl.DataFrame]":
    """Yield the rows of a file that `table` has a line of, as many at a time as a batch holds: what
    judges them takes its time to be built, each time."""
    import polars as pl

    held: list[pl.DataFrame] = []
    for batch in batches(rows) if len(table) else ():
        wanted = batch.filter(pl.col("row").is_in(table["row"].implode()))
        if len(wanted):
            held.append(copied(wanted))
        if sum(part.estimated_size() for part in held) >= BATCH_BYTES:
            yield pl.concat(held, rechunk=True)
            held = []
    if held:
        yield pl.concat(held, rechunk=True)


class _Attempt(NamedTuple):
    """The rows of a batch as repairs leave those that they changed: what is to be judged again by
    the order of its roles alone, and what as a whole."""

    by_order: "pl.DataFrame"
    whole: "pl.DataFrame"


def _attempt(
    batch: "pl.DataFrame", table: "pl.DataFrame", names: Iterable[str], rules: Rules
) -> tuple[_Attempt, list[Change]]:
    """Repair the rows of a batch that `table` has a line of."""
    import polars as pl

    batch = batch.filter(pl.col("row").is_in(table["row"].implode()))
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
    return _Attempt(new.filter(~again), new.filter(again)), steps


def _sound(attempts: list[_Attempt], rules: Rules) -> "list[pl.Series]":
    """Return for each attempt the numbers of the rows that are sound by it."""
    import polars as pl

    free = rules.config.model_copy(update={"languages": ()})

    def by_order(rows: pl.DataFrame) -> pl.DataFrame:
        return judge_rows(rows, _unflawed(explode(rows)), free)

    def whole(rows: pl.DataFrame) -> pl.DataFrame:
        return judge_rows(rows, judge_messages(explode(rows), rules), rules.config)

    found = zip(
        _judged([attempt.by_order for attempt in attempts], by_order, rules),
        _judged([attempt.whole for attempt in attempts], whole, rules),
        strict=True,
    )
    return [pl.concat(parts) for parts in found]


def _judged(
    frames: "list[pl.DataFrame]", judge: "Callable[[pl.DataFrame], pl.DataFrame]", rules: Rules
) -> "list[pl.Series]":
    """Return for each frame of rows the numbers of those that are sound.

    They are judged together: to build the patterns takes longer than to look for them in few rows.
    """
    import polars as pl

    every = pl.concat([frame.with_columns(_frame=pl.lit(n)) for n, frame in enumerate(frames)])
    own = every.select("_frame", "row")
    # The same row is in several of them.
    every = every.drop("_frame").with_columns(row=pl.int_range(pl.len(), dtype=pl.Int64))
    size = max(1, int(len(every) * BATCH_BYTES / max(1, every.estimated_size())))
    sound = [own["_frame"].clear().cast(pl.Boolean)]
    for part in every.iter_slices(size) if len(every) else ():
        judged = judge(part)
        sound.append(judged.select(is_sound(judged, rules.config)).to_series())
    own = own.filter(pl.concat(sound))
    return [own.filter(_frame=n)["row"] for n in range(len(frames))]


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
