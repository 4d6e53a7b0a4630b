"""Example by example: which the newer run won, which it lost, and the most telling of both, masked."""

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from expectations.data.masking import masked
from expectations.promotion.contest import direction
from flows.compared.records import ComparedExample, NearRow, Tally
from retune.outcomes import TUNED, graded_examples, of_side

if TYPE_CHECKING:
    import polars as pl

TELLING = 12  # examples that are shown, won and lost
EXCERPT = 600  # characters of a text
SAME = 1e-6  # a smaller difference of grades is none
KEY = ["suite", "scorer", "example"]
NO_MARGINS: Mapping[str, float] = MappingProxyType({})


class Examples(NamedTuple):
    """The graded examples of two runs, joined: a line for each that both were asked, by its `gain`
    (positive: the newer run is better), and how each suite went."""

    lines: "pl.DataFrame"
    tallies: list[Tally]

    def lost(self, margins: Mapping[str, float] = NO_MARGINS) -> "pl.DataFrame":
        """Return the examples that the newer run lost by more than the margin of `<suite>/<scorer>`, the
        most telling first."""
        return self._telling(-1, margins)

    def won(self, margins: Mapping[str, float] = NO_MARGINS) -> "pl.DataFrame":
        return self._telling(1, margins)

    def _telling(self, sign: int, margins: Mapping[str, float]) -> "pl.DataFrame":
        """Of each scorer as many in turn, so that none hides the others; an example comes once."""
        import polars as pl

        metric = pl.concat_str("suite", "scorer", separator="/")
        least = metric.replace_strict(
            list(margins),
            [max(SAME, margin) for margin in margins.values()],
            default=SAME,
            return_dtype=pl.Float64,
        )
        lines = self.lines.filter(sign * pl.col("gain") > least)
        ranked = lines.sort(sign * pl.col("gain"), "example", descending=[True, False])
        ranked = ranked.with_columns(turn=pl.int_range(pl.len()).over("suite", "scorer"))
        ranked = ranked.sort("turn", pl.col("scorer"), maintain_order=True)
        return ranked.unique("example", keep="first", maintain_order=True).head(TELLING)


def examples(older: "pl.DataFrame", newer: "pl.DataFrame") -> Examples:
    """Return what either run's model did with the same examples; both are tables of outcomes."""
    import polars as pl

    before, after = (graded_examples(of_side(side, TUNED)) for side in (older, newer))
    both = after.join(before, on=KEY, how="inner", suffix="_before", maintain_order="left")
    signs = {name: float(direction(name)) for name in both["scorer"].unique()}
    sign = pl.col("scorer").replace_strict(signs, return_dtype=pl.Float64, default=0.0)
    lines = both.with_columns(gain=(sign * (pl.col("value") - pl.col("value_before"))))
    lines = lines.with_columns(pl.col("gain").fill_nan(0.0))
    return Examples(lines, _tallies(lines, before, after))


def shown(
    lines: "pl.DataFrame", near: Mapping[str, Sequence[NearRow]] | None = None
) -> list[ComparedExample]:
    """Return examples as they may be shown; `near` are new training rows by an example's name."""
    import polars as pl

    columns = {
        "slice": lines["slice"],
        "prompt": pl.Series([_asked(prompt) for prompt in lines["prompt"]], dtype=pl.String),
        "expected": lines["expected"],
        "older_answer": lines["answer_before"],
        "newer_answer": lines["answer"],
    }
    safe = {name: excerpts(column) for name, column in columns.items()}
    same = zip(*(lines[name] for name in ("suite", "scorer", "example")), strict=True)
    grades = zip(lines["value_before"], lines["value"], strict=True)
    return [
        ComparedExample(
            suite=suite,
            scorer=scorer,
            example=name,
            older=before,
            newer=after,
            near=list((near or {}).get(name, ())),
            **{key: column[place] for key, column in safe.items()},
        )
        for place, ((suite, scorer, name), (before, after)) in enumerate(
            zip(same, grades, strict=True)
        )
    ]


def excerpts(texts: "pl.Series") -> list[str | None]:
    """Return texts masked and then cut: a secret that was cut is no longer known for one."""
    safe = masked(texts) if len(texts) else texts
    return [
        text if text is None or len(text) <= EXCERPT else f"{text[: EXCERPT - 1]}…"
        for text in safe.to_list()
    ]


def _asked(prompt: str) -> str:
    """Return a prompt as text: the last message alone, or the whole conversation that a loss is of."""
    try:
        messages = json.loads(prompt)
        if messages[-1]["role"] == "user":
            return str(messages[-1]["content"])
        return "\n".join(f"{turn['role']}: {turn['content']}" for turn in messages)
    except (ValueError, LookupError, TypeError):
        return prompt


def _tallies(lines: "pl.DataFrame", before: "pl.DataFrame", after: "pl.DataFrame") -> list[Tally]:
    import polars as pl

    groups = {key: part["gain"] for key, part in lines.group_by("suite", "scorer")}
    alone = [
        {key: len(part) for key, part in one.join(other, on=KEY, how="anti").group_by(KEY[:2])}
        for one, other in ((before, after), (after, before))
    ]
    return [
        Tally(
            suite=str(key[0]),
            scorer=str(key[1]),
            won=int((gain > SAME).sum()),
            lost=int((gain < -SAME).sum()),
            same=int((gain.abs() <= SAME).sum()),
            only_older=alone[0].get(key, 0),
            only_newer=alone[1].get(key, 0),
        )
        for key, gain in sorted(groups.items(), key=lambda item: str(item[0]))
        if direction(str(key[1])) and isinstance(gain, pl.Series)
    ]
