"""What a row may cost: bytes, values and depth, counted before anything is made of its text."""

import re
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple

from retune.recipe import Dataset
from retune.recipe.flaws import OVERSIZED

if TYPE_CHECKING:
    import pyarrow as pa

# A string in JSON, to the end if it is not closed. Possessive: the time is linear, whatever comes.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NOT_BRACKETS = re.compile(rb"[^\[\]{}]+")

JsonText = bytes  # within Budget, `bytes` is a limit


class Budget(NamedTuple):
    """The most that a row may have; see the settings of the same names in `dataset`."""

    bytes: int
    values: int
    depth: int

    @classmethod
    def of(cls, dataset: Dataset) -> "Budget":
        return cls(dataset.max_row_bytes, dataset.max_row_values, dataset.max_row_depth)

    def over_bytes(self, size: int, what: str = "it") -> str:
        return _oversized(what, f"{size:,} bytes", "max_row_bytes", self.bytes)

    def over_values(self, count: int, what: str = "it") -> str:
        return _oversized(what, f"{count:,} keys and elements", "max_row_values", self.values)

    def over_depth(self, depth: int, what: str = "it") -> str:
        return _oversized(what, f"lists and objects {depth:,} deep", "max_row_depth", self.depth)

    def excess(self, text: JsonText, what: str = "it") -> str | None:
        """Say what a JSON text has too much of, None if nothing; it need not be valid."""
        if len(text) > self.bytes:
            return self.over_bytes(len(text), what)
        brackets = text.count(b"{") + text.count(b"[")
        if brackets <= self.depth and brackets + text.count(b",") <= self.values:
            return None  # even if none of them stands in a string, as most do
        bare = _STRING.sub(b"0", text)  # not nothing: a list of one text is not empty
        brackets = bare.count(b"{") + bare.count(b"[")
        # Each key and each element but the first has a comma in front; so has a list that is not empty.
        count = brackets + bare.count(b",") - bare.count(b"[]") - bare.count(b"{}")
        if count > self.values:
            return self.over_values(count, what)
        if brackets > self.depth and (depth := _depth(bare)) > self.depth:
            return self.over_depth(depth, what)
        return None

    def excess_of(self, table: "pa.Table") -> str | None:
        """Say what a table has too much of for a single row; None if none of its rows can."""
        if table.nbytes > self.bytes:
            return self.over_bytes(table.nbytes)
        if (depth := _type_depth([field.type for field in table.schema])) > self.depth:
            return self.over_depth(depth)
        count = sum(_values(chunk) for column in table.columns for chunk in column.chunks)
        return self.over_values(count) if count > self.values else None


def _oversized(what: str, cost: str, setting: str, limit: int) -> str:
    return f"{OVERSIZED}{what} has {cost}, more than dataset.{setting} ({limit:,})"


def _depth(bare: bytes) -> int:
    depth = deepest = 0
    for bracket in _NOT_BRACKETS.sub(b"", bare):
        if bracket in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        else:
            depth -= 1
    return deepest


def _type_depth(kinds: "list[pa.DataType]") -> int:
    depth = 0
    while kinds:
        depth += 1
        kinds = [kind.field(number).type for kind in kinds for number in range(kind.num_fields)]
    return depth


def _values(array: "pa.Array") -> int:
    """Return how many values an array of the known columns has, those inside of others included."""
    import pyarrow as pa

    kind = array.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return len(array) + _values(array.flatten())
    if pa.types.is_struct(kind):
        return sum(map(_values, array.flatten()))
    return len(array)


_USUAL = Budget.of(Dataset(source="unnamed"))
# Of the dataset that is read; what asks for it is deep inside of rows.
BUDGET = ContextVar("BUDGET", default=_USUAL)
