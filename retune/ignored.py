"""What of a source no row was made of: columns, and keys of messages, by name with their counts."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Self

from pydantic import BaseModel

from retune.escaping import visible

FILE = "ignored.json"  # beside the rows, in the output of each stage up to the gate
LONGEST_NAME = 100  # characters of a name that are kept
_SHOWN = 10  # names in a sentence


class Ignored(BaseModel):
    """Names with the number of rows (for `keys`: of messages) that have a value there, masked; None
    where it is not known, because a column was not read. `more_columns` and `more_keys` count the
    values under further names. Of a mix, `parts` has each part's own."""

    columns: dict[str, int | None] = {}
    keys: dict[str, int | None] = {}
    more_columns: int = 0
    more_keys: int = 0
    parts: tuple["Ignored", ...] = ()

    @classmethod
    def beside(cls, rows: Path) -> Self:
        """Return what stands beside a file of rows; nothing where nobody wrote it."""
        path = rows.with_name(FILE)
        return cls.model_validate_json(path.read_text()) if path.exists() else cls()

    @classmethod
    def joined(cls, parts: Iterable["Ignored"]) -> Self:
        """Return what is not used of several sources together."""
        joined = cls(parts=tuple(parts))
        for part in joined.parts:
            joined.more_columns += part.more_columns
            joined.more_keys += part.more_keys
            for counts, more in ((joined.columns, part.columns), (joined.keys, part.keys)):
                for name, count in more.items():
                    before = counts.get(name, 0)
                    counts[name] = None if before is None or count is None else before + count
        return joined

    def write(self, folder: Path) -> None:
        (folder / FILE).write_text(self.model_dump_json(indent=1))

    def without(self, acknowledged: Sequence[Collection[str]]) -> Self:
        """Return it without the names that a recipe acknowledges (`dataset.ignore`), of each part for
        itself; none, if no part's are given."""
        if not acknowledged:
            return self
        if self.parts:
            pairs = zip(self.parts, acknowledged, strict=True)
            return self.joined(part.without([names]) for part, names in pairs)
        (names_known,) = acknowledged
        kept = {
            kind: {name: n for name, n in names.items() if name not in names_known}
            for kind, names in (("columns", self.columns), ("keys", self.keys))
        }
        return self.model_copy(update=kept)

    def measures(self) -> dict[str, float]:
        """Return how many names there are of each kind."""
        return {
            "ignored_columns": len(self.columns) + bool(self.more_columns),
            "ignored_keys": len(self.keys) + bool(self.more_keys),
        }

    def sentence(self, kind: str) -> str:
        """Say which `columns` or `keys` are not used, in how many rows or messages; "" for none."""
        names, more, unit = (
            (self.columns, self.more_columns, "rows")
            if kind == "columns"
            else (self.keys, self.more_keys, "messages")
        )
        told = [
            f"{visible(name, 60)} ({'some' if count is None else f'{count:,}'} {unit})"
            for name, count in list(names.items())[:_SHOWN]
        ]
        if len(names) > _SHOWN:
            told.append(f"{len(names) - _SHOWN} more")
        if more:
            told.append(f"others ({more:,} {unit})")
        return f"{', '.join(told)}: not used" if told else ""


ALL_USED = Ignored()
