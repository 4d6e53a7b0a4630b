"""Signs of a careless export in single answers, beyond the recorded numbers: what they mean is a matter
of how many have them, which `masses` judges."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

_LEAST_HALF = 40  # characters of a text that is there twice
_FEWEST = 3  # escapes in an answer
_OPENED = r"(?i)<(?:think|thinking|reasoning|thought)>"
_CLOSED = r"(?i)</(?:think|thinking|reasoning|thought)>"
_MARKDOWN_ESCAPE = r"[\p{L}\p{N} ]\\[.\-_*#!>+][\p{L}\p{N}\s*#]"
_FORMULA = r"\\[()\[\]a-zA-Z{]"  # TeX, and regular expressions
_QUOTED = r'(?s)^\s*".*"\s*$'
_DOUBLED_QUOTE = r'[\s(]""\w|\w[.,!?]?""[\s).,;:]'
_LABEL = r"^\s*\*{0,2}((?:[\p{L}\p{N}#.-]+ ?){1,3})\*{0,2}[:：]\*{0,2}\s*\S"
_LAST_ADDRESS = r"(?s).*((?:https?://|www\.)[\w./-]+\w)"


def export_signs() -> "list[pl.Expr]":
    """Return what is true or false of the answers of `numbers`' frame: one boolean for each."""
    import polars as pl

    prose = pl.col("prose")
    signs = {
        "doubled": _doubled(),
        "quoted": prose.str.contains(_QUOTED) & prose.str.contains(_DOUBLED_QUOTE),
        "thought_open": prose.str.count_matches(_OPENED) > prose.str.count_matches(_CLOSED),
        "markdown_escapes": (prose.str.count_matches(_MARKDOWN_ESCAPE) >= _FEWEST)
        & ~prose.str.contains(_FORMULA),
    }
    return [sign.fill_null(False).alias(name) for name, sign in signs.items()]


def export_hashes() -> "list[pl.Expr]":
    """Return the hash of the label that an answer begins with ("Answer:"), and of the last address near
    its end; null where it has none."""
    import polars as pl

    label = pl.col("a").str.head(60).str.extract(_LABEL)
    address = pl.col("end").str.extract(_LAST_ADDRESS)
    return [
        pl.when(text.is_not_null()).then(text.hash()).alias(name)
        for name, text in (("label", label), ("last_address", address))
    ]


def _doubled() -> "pl.Expr":
    """Return which answers are one text twice, with at most two characters between."""
    import polars as pl

    text = pl.col("a").str.strip_chars()
    count = text.str.len_chars().cast(pl.Int64)  # of unsigned ones, one less two is four billion
    twice = [
        (text.str.head(half) == text.str.tail(half)) & (half >= _LEAST_HALF)
        for half in (count // 2, (count - 2).clip(0) // 2)
    ]
    return twice[0] | twice[1]
