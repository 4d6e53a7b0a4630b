"""What texts are made of: words, marks and pairs of them, each by the share of the texts that have it."""

import base64
import re
import zlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from expectations.data.masking import masked
from expectations.data.similarity import FACTOR

if TYPE_CHECKING:
    import polars as pl

LEAST_SHARE = 0.002  # of the texts; what fewer say is not remembered
LEAST_MOVE = 0.012  # of the texts, by which a share moves that is told; what is rarer is not shown
LEAST_TEXTS = 4
MOST = 40_000  # things said that are remembered
HEAD, _TOKENS = 4_000, 1_000  # characters of a text, and tokens of it
_LONGEST = 30  # characters of a word
_BEFORE, _EXCERPT = 20, 60  # characters of an excerpt before what is said, and in all
# A sign of a script without spaces, a word, a number, line breaks, or marks in a row.
_ALONE = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}]"
_TOKEN = (
    rf"{_ALONE}|[\p{{L}}\p{{M}}--{_ALONE}]+(?:['’]\p{{L}}+)?|\p{{N}}+|\n+|"
    r"[^\p{L}\p{M}\p{N}\s]+"
)
# What stands for others; a mark and a letter are never one token of a text.
BEGIN, END, NUMBER, BREAK, ALIKE = "^b", "$e", "0", "\n", "~"
_DIGITS = 5  # of a number that are counted
# A word of which the last letter may stand for it.
_LONG = r"^[\p{Latin}\p{Cyrillic}\p{Greek}]{4,}$"
_WHOLE = 65_535  # a share of 1, in two bytes


def vocabulary(rows: "pl.Series", texts: "pl.Series") -> "pl.DataFrame":
    """Return what at least LEAST_SHARE of the texts have, once or more, the MOST common: `key` (see
    `key`), `share` (0 to 1), `row` (of `rows`, the first that has it), `said` (a token, or two with a
    space between) and `excerpt` of its text, masked; both null of what is rare, or hidden by a mask.

    Of a number its length counts; the beginning and the end of a text are tokens, too. In pairs a word
    stands also for all that end with its last letter (`~s`), which shows how words are bent.
    """
    import polars as pl

    found = pl.concat(_said(_tokens(texts), len(texts))).sort("share", descending=True)
    found = found.head(MOST)
    examples = found.filter(pl.col("share") >= LEAST_MOVE)["text"].unique()
    # Masked as a whole: half of a secret is not seen as one.
    shown = dict(zip(examples, masked(texts.gather(examples)).str.head(HEAD), strict=True))
    excerpts = [
        excerpt(shown[text], said) if share >= LEAST_MOVE else None
        for said, share, text in found.select("said", "share", "text").rows()
    ]
    keys = [key(said) for said in found["said"]]
    found = found.with_columns(
        pl.Series("key", keys, dtype=pl.UInt32), pl.Series("excerpt", excerpts, dtype=pl.String)
    )
    return found.select(
        "key",
        pl.when(pl.col("excerpt").is_not_null()).then(pl.col("said")).alias("said"),
        "share",
        rows.gather(found["text"]).cast(pl.Int64).alias("row"),
        "excerpt",
    )


def _tokens(texts: "pl.Series") -> "pl.DataFrame":
    """Return one line per token, in order: `text` (its index), `token`, and `ending`, the token or what
    stands for all long words that end as it does."""
    import polars as pl

    token = pl.col("token")
    ends = pl.lit([BEGIN]), pl.lit([END])
    found = pl.DataFrame({"content": texts.str.head(HEAD).str.to_lowercase()})
    inner = pl.col("content").str.extract_all(_TOKEN)
    return (
        found.with_row_index("text")
        .select("text", token=pl.concat_list(ends[0], inner.list.head(_TOKENS), ends[1]))
        .explode("token")
        .with_columns(
            token=pl.when(token.str.contains(r"^\p{N}"))
            .then(pl.lit(NUMBER * _DIGITS).str.head(token.str.len_chars()))
            .when(token.str.starts_with("\n"))
            .then(pl.lit(BREAK))
            .otherwise(token.str.head(_LONGEST))
        )
        .with_columns(
            ending=pl.when(token.str.contains(_LONG))
            .then(pl.lit(ALIKE) + token.str.tail(1))
            .otherwise(token)
        )
    )


def _said(tokens: "pl.DataFrame", texts: int) -> "Iterator[pl.DataFrame]":
    """Yield `said`, `share` and `text` (the first that has it) of what enough texts have: of tokens, of
    pairs of them, and of pairs in which the long one stands for those that end as it does."""
    import polars as pl

    lines = tokens.select(
        pl.col("text").set_sorted(),
        place=pl.int_range(pl.len(), dtype=pl.UInt32),
        token=pl.col("token").hash(),
        ending=pl.col("ending").hash(),
        is_long=pl.col("ending") != pl.col("token"),
    )
    pairs = lines.with_columns(
        pl.col("token", "ending", "is_long").shift(-1).name.prefix("next_")
    ).filter(pl.col("text") == pl.col("text").shift(-1))
    first_long = pairs.filter(pl.col("is_long") & ~pl.col("next_is_long"))
    second_long = pairs.filter(~pl.col("is_long") & pl.col("next_is_long"))
    for rows, first, second in (
        (lines, "token", None),
        (pairs, "token", "token"),
        (first_long, "ending", "token"),
        (second_long, "token", "ending"),
    ):
        after = pl.col(f"next_{second}") if second else 0
        hashed = rows.select("text", "place", hash=pl.col(first) * FACTOR + after)
        found = _common(hashed, texts)
        said = tokens[first].gather(found["place"])
        if second:
            said = said + " " + tokens[second].gather(found["place"] + 1)
        yield found.select(said=said, share=pl.col("count") / texts, text="text")


def _common(hashed: "pl.DataFrame", texts: int) -> "pl.DataFrame":
    """Return `count`, `text` and `place` of each hash that enough texts have: how many, and the first."""
    import polars as pl

    least = max(LEAST_TEXTS, LEAST_SHARE * texts)
    return (
        hashed.unique(["text", "hash"], keep="first")
        .group_by("hash")
        .agg(count=pl.len(), text=pl.col("text").min(), place=pl.col("place").min())
        .filter(pl.col("count") >= least)
        .sort("place")
    )


def excerpt(text: str, said: str) -> str | None:
    """Return some characters of a text around what is `said` there, as `vocabulary` says it; None where
    it is not, as where it was masked."""
    begin = _place(text, said)
    if begin is None:
        return None
    begin = max(0, min(begin - _BEFORE, len(text) - _EXCERPT))
    shown = " ".join(text[begin : begin + _EXCERPT].split())
    return f"…{shown}" if begin else shown


def _place(text: str, said: str) -> int | None:
    lowered = text.lower()
    # Plain words need no pattern, which takes longer to make than to find.
    if len(lowered) == len(text):
        for plain in {said, said.replace(" ", "")}:
            place = lowered.find(plain)
            while place >= 0:
                if _stands_alone(lowered, place, place + len(plain)):
                    return place
                place = lowered.find(plain, place + 1)
    pattern = r"[^\S\n]*+".join(_pattern(token) for token in said.split(" "))
    match = re.search(pattern, text, re.IGNORECASE)
    return match.start() if match else None


def _stands_alone(text: str, begin: int, end: int) -> bool:
    """Tell whether no word goes on before or behind a place."""
    before = begin and _joins(text[begin - 1]) and _joins(text[begin])
    behind = end < len(text) and _joins(text[end]) and _joins(text[end - 1])
    return not (before or behind)


def _joins(sign: str) -> bool:
    """Tell whether a sign is a part of the word beside it; those of scripts without spaces are not."""
    return sign.isalnum() and not ("\u0e00" <= sign < "\u0e80" or sign >= "\u2e80")


def _pattern(token: str) -> str:
    """Return a pattern of a token, of which each place of a text is looked at once."""
    if token.startswith(NUMBER):
        return rf"(?<!\d)\d{{{len(token)}{',' * (len(token) == _DIGITS)}}}+(?!\d)"
    if _stands_for_others(token) and token != BREAK:
        return rf"\b\w+{re.escape(token[1:])}\b"
    known = {BEGIN: r"\A\s*+", END: r"\s*+\Z", BREAK: r"\n++"}
    if token in known:
        return known[token]
    return rf"(?<!\w){re.escape(token)}(?!\w)" if all(map(_joins, token)) else re.escape(token)


def packed(words: "pl.DataFrame") -> str:
    """Return the shares of a vocabulary by hashes of what is said, as text: six bytes each at most."""
    import numpy as np

    keys = words["key"].to_numpy()
    order = np.argsort(keys)
    shares = np.round(words["share"].to_numpy() * _WHOLE).astype(np.uint16)[order]
    gaps = np.diff(keys[order], prepend=np.uint32(0)).astype(np.uint32)
    return base64.b85encode(zlib.compress(gaps.tobytes() + shares.tobytes(), 9)).decode()


def unpacked(text: str) -> dict[int, float]:
    """Return the share of each hash, none of an empty text; raises ValueError if it is no packed
    vocabulary."""
    import numpy as np

    if not text:
        return {}
    try:
        unpacking = zlib.decompressobj()
        content = unpacking.decompress(base64.b85decode(text), 6 * MOST)
        if unpacking.unconsumed_tail or not unpacking.eof:
            raise ValueError("it holds more than any vocabulary")
        size = len(content) // 6
        keys = np.frombuffer(content[: 4 * size], np.uint32).cumsum(dtype=np.uint32)
        shares = np.frombuffer(content[4 * size :], np.uint16) / _WHOLE
    except (zlib.error, ValueError) as error:
        raise ValueError(f"no packed vocabulary: {error}") from None
    return dict(zip(keys.tolist(), shares.tolist(), strict=True))


def key(said: str) -> int:
    """Return what a record knows it by, the same in every version."""
    return zlib.crc32(said.encode())


def named(said: str) -> str:
    """Return what is said as a person reads it."""
    first, _, second = said.partition(" ")
    if first == BEGIN:
        return f"{_named(second)} at the beginning"
    if second == END:
        return f"{_named(first)} at the end"
    if not second:
        return _named(first)
    if _stands_for_others(first) or _stands_for_others(second):
        return f"{_named(first)} before {_named(second)}"
    return repr(f"{first} {second}" if first[-1:].isalnum() else first + second)


def _named(token: str) -> str:
    if token == BREAK:
        return "a line break"
    if token.startswith(NUMBER):
        digits = len(token)
        more = " or more" * (digits == _DIGITS)
        return f"a number of {digits} digit{'s' * (digits > 1)}{more}"
    if _stands_for_others(token):
        return f"a word that ends in {token[1:]!r}"
    return repr(token)


def _stands_for_others(token: str) -> bool:
    bent = len(token) == 2 and token.startswith(ALIKE) and token[1].isalpha()
    return bent or token.startswith((BREAK, NUMBER))


def without_parts(said: Iterable[str]) -> list[str]:
    """Return those that share no token with one before them, as pieces of one phrase do."""
    seen: set[str] = set()
    chosen: list[str] = []
    for one in said:
        tokens = {token for token in one.split(" ") if not _is_a_mark(token)}
        if not tokens & seen and (tokens or not chosen):
            chosen.append(one)
        seen |= tokens
    return chosen


def _is_a_mark(token: str) -> bool:
    return token in (BEGIN, END) or _stands_for_others(token)
