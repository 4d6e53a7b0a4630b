"""What is noted of a source while it is read: what no row was made of, and what is known at the end."""

from collections import Counter
from collections.abc import Iterable, Mapping

from expectations.data.masking import LONGEST_QUOTED, mask
from retune.ignored import LONGEST_NAME, Ignored
from tasks.fetch.shape import VERDICT_COLUMNS
from tasks.fetch.verdicts import Labels

_MOST_COUNTED = 1000  # names of each kind; a file may have millions
_MOST_NAMED = 50


class Unused:
    """Columns that were not used with the number of rows that have a value there, and keys of messages
    with the number of messages."""

    def __init__(self) -> None:
        self._columns: Counter[str] = Counter()
        self._keys: Counter[str] = Counter()
        self._uncounted: dict[str, None] = {}
        self._more = {"columns": 0, "keys": 0}

    def column(self, name: str, rows: int | None = 1) -> None:
        """Count a column in so many rows; None where it is not known in how many of them."""
        if rows is None:
            if len(self._uncounted) < _MOST_COUNTED:
                self._uncounted[name] = None
        elif rows:
            self._add("columns", self._columns, name, rows)

    def columns(self, names: Iterable[str]) -> None:
        for name in names:
            self._add("columns", self._columns, name, 1)

    def keys(self, counts: Mapping[str, int]) -> None:
        for name, messages in counts.items():
            self._add("keys", self._keys, name, messages)

    def _add(self, kind: str, counts: Counter[str], name: str, count: int) -> None:
        if name in counts or len(counts) < _MOST_COUNTED:
            counts[name] += count
        else:
            self._more[kind] += count

    def summary(self) -> Ignored:
        """Return the most frequent names, masked, and how much more there is."""
        columns: list[tuple[str, int | None]] = [
            (name, None if name in self._uncounted else count)
            for name, count in _ordered(self._columns)
        ]
        columns += [(name, None) for name in self._uncounted if name not in self._columns]
        keys = _ordered(self._keys)
        return Ignored(
            columns=_named(columns[:_MOST_NAMED]),
            keys=_named(keys[:_MOST_NAMED]),
            more_columns=self._more["columns"] + _rest(columns),
            more_keys=self._more["keys"] + _rest(keys),
        )


class Notes:
    """What is noted of a whole source: what is `unused`, its `labels`, and which columns it has."""

    def __init__(self) -> None:
        self.unused = Unused()
        self.labels = Labels()
        self.names: set[str] = set()  # of those columns that the recipe names

    def summary(self) -> Ignored:
        """Return what is not used; a label that is no verdict on an answer is not either."""
        for column in VERDICT_COLUMNS:
            if not self.labels.are_verdicts(column):
                self.unused.column(column, self.labels.rows[column])
        return self.unused.summary()


def _ordered(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda entry: (-entry[1], str(entry[0])))


def _named(counts: "list[tuple[str, int | None]] | list[tuple[str, int]]") -> dict[str, int | None]:
    """Return the counts by names that may be shown; of two that look alike then, together."""
    named: dict[str, int | None] = {}
    for name, count in counts:
        shown = mask(str(name)[:LONGEST_QUOTED])[:LONGEST_NAME]
        before = named.get(shown, 0)
        named[shown] = None if before is None or count is None else before + count
    return named


def _rest(counts: "list[tuple[str, int | None]] | list[tuple[str, int]]") -> int:
    return sum(count or 1 for _, count in counts[_MOST_NAMED:])
