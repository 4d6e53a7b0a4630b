"""Whether letters follow each other as in the other answers: text that was reversed, shifted through the
alphabet or otherwise scrambled keeps its length, symbols and spaces, and has no words of any language."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

_HEAD = 1_000  # characters of an answer that are looked at
_LEAST = 100  # pairs of letters in them; of fewer the mean is chance
_CODE = r"(?s)```.*?(?:```|$)|`[^`\n]*`|https?://\S+"
_SYMBOLS = 27  # a to z, and whatever stands between words


def unlikely_letters(answers: "pl.Series") -> "np.ndarray":
    """Return for each answer the mean of -ln p over its pairs of neighbouring letters, where p is how
    often the second follows the first in all answers; NaN where there are too few."""
    import numpy as np
    import polars as pl

    prose = answers.str.head(_HEAD).str.replace_all(_CODE, " ").str.to_lowercase()
    letters = prose.str.count_matches("[a-z]") >= 0.7 * prose.str.len_chars()
    texts = prose.to_frame().select(pl.when(letters).then(pl.col(prose.name)).otherwise(pl.lit("")))
    pairs = [_pairs(text) for text in texts.to_series()]
    counts = np.bincount(np.concatenate([*pairs, np.empty(0, np.int64)]), minlength=_SYMBOLS**2)
    table = counts.reshape(_SYMBOLS, _SYMBOLS) + 1.0
    cost = -np.log(table / table.sum(axis=1, keepdims=True)).ravel()
    return np.array([cost[p].mean() if len(p) >= _LEAST else np.nan for p in pairs])


def _pairs(text: str) -> "np.ndarray":
    """Return a number for each pair of neighbours in a text that has a letter."""
    import numpy as np

    codes = np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.int64) - ord("a")
    codes[(codes < 0) | (codes >= _SYMBOLS - 1)] = _SYMBOLS - 1
    found = codes[:-1] * _SYMBOLS + codes[1:]
    return found[found != _SYMBOLS**2 - 1]
