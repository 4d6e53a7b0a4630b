"""Columns by which KTO says whether a row's answer is one to give: `kto_tag`, and often `label`.

A source that says of one answer that it is not to be given is another kind of data: it is refused as a
whole, at its end, however few they are. How many would be tolerable is not for a reader to say; and who
leaves these rows out, or says that the column means something else, has told what is to become of them.
A `label` may as well be a class: the whole column decides.
"""

from collections import Counter
from typing import TYPE_CHECKING, Any

from retune.sources import SourceError

if TYPE_CHECKING:
    import pyarrow as pa

LABEL, TAG = "label", "kto_tag"
_NO = ("false", "0", "0.0")
_YES = ("true", "1", "1.0")
_ADVICE = (
    "KTO, answers not to give: retune trains on conversations (SFT), keep the rows whose {column} is "
    "true"
)
_MOST_VALUES = 8  # different ones, from which on it is a class


class Labels:
    """The values in the two columns of a source, as far as they tell verdicts from classes."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()  # with a value, by column
        self._seen: dict[str, Counter[str]] = {LABEL: Counter(), TAG: Counter()}

    def note(self, column: str, value: Any, rows: int = 1) -> None:
        """Count a value of one of the columns, in so many rows."""
        if value is None:
            return
        self.rows[column] += rows
        seen = self._seen[column]
        name = "…" if isinstance(value, list | dict) else str(value)[:20].strip().lower()
        if name in seen or len(seen) < _MOST_VALUES:
            seen[name] += rows

    def note_column(self, column: str, values: "pa.Array") -> None:
        """Count the values of a whole column."""
        import pyarrow as pa
        import pyarrow.compute as pc

        kind, types = values.type, pa.types
        counted = (types.is_boolean, types.is_integer, types.is_floating, types.is_string)
        if not any(is_kind(kind) for is_kind in counted):
            self.note(column, [], len(values) - values.null_count)
            return
        for entry in pc.value_counts(values)[: 2 * _MOST_VALUES].to_pylist():
            self.note(column, entry["values"], entry["counts"])

    def are_verdicts(self, column: str) -> bool:
        """Tell whether a column says of each answer whether it is one to give."""
        seen = set(self._seen[column])
        return bool(seen) and (column == TAG or seen <= {"true", "false"} or seen <= {*_NO, *_YES})

    def check(self, source: str, rows: int) -> None:
        """Raise SourceError if an answer of a source of so many rows is not to be given."""
        for column in (TAG, LABEL):
            rejected = sum(self._seen[column][no] for no in _NO)
            if rejected and self.are_verdicts(column):
                raise SourceError(_of_source(source, column, rejected, rows))


def _of_source(source: str, column: str, rejected: int, rows: int) -> str:
    return (
        f"dataset.source: {source} says by `{column}` that {rejected:,} of {rows:,} answers are not to "
        f"be given ({_ADVICE.format(column=column)}; if `{column}` is something else, set "
        f"dataset.ignore=[{column}])"
    )
