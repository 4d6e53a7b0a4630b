"""What texts are made of: words, marks and pairs of them, each by the share of the texts that have it."""

import base64
import re
import zlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from expectations.data.masking import masked

if TYPE_CHECKING:
    import polars as pl

LEAST_SHARE = 0.005  # of the texts; what fewer say is not remembered
LEAST_MOVE = 0.02  # of the texts, by which a share moves that is told; what is rarer is not shown
_LEAST_TEXTS = 8
_HEAD = 4_000  # characters of a text
_LONGEST = 30  # characters of a word
_BEFORE, _EXCERPT = 20, 60  # characters of an excerpt before what is said, and in all
# A sign of a script without spaces, a word, a number, line breaks, or marks in a row.
_ALONE = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}]"
_TOKEN = (
    rf"{_ALONE}|[\p{{L}}\p{{M}}--{_ALONE}]+(?:['’]\p{{L}}+)?|\p{{N}}+|\n+|"
    r"[^\p{L}\p{M}\p{N}\s]+"
)
BEGIN, END, NUMBER, BREAK = "^", "$", "0", "\n"  # tokens that stand for what they are
_FACTOR = 0x9E3779B97F4A7C15  # odd and large, so that the order of two words matters
_WHOLE = 65_535  # a share of 1, in two bytes


def vocabulary(rows: "pl.Series", texts: "pl.Series") -> "pl.DataFrame":
    """Return what at least LEAST_SHARE of the texts have, once or more: `said` (a token, or two with a
    space between), `share` (0 to 1), `row` (of `rows`, the first that has it) and `excerpt` of its
    text, masked, of all but the rare. Numbers are one token; the beginning and the end of a text are
    tokens, too.
    """
    import polars as pl

    tokens = _tokens(texts)
    follows = pl.col("hash").shift(-1)
    same = pl.col("text") == pl.col("text").shift(-1)
    both = tokens.with_columns(hash=pl.when(same).then(pl.col("hash") * _FACTOR + follows))
    common = [_common(each, len(texts)) for each in (tokens, both.drop_nulls("hash"))]
    words = tokens["token"]
    single, double = (found["place"] for found in common)
    after = words.gather(double + 1)
    found = pl.concat(common).with_columns(
        said=pl.concat([words.gather(single), words.gather(double) + " " + after])
    )
    found = found.with_columns(row=rows.gather(found["text"]).cast(pl.Int64))
    shown = [
        excerpt(text, said) if share >= LEAST_MOVE else ""
        for text, said, share in zip(
            texts.gather(found["text"]), found["said"], found["share"], strict=True
        )
    ]
    return found.select(
        masked(found["said"]).alias("said"),
        "share",
        "row",
        masked(pl.Series(shown, dtype=pl.String)).alias("excerpt"),
    )


def _tokens(texts: "pl.Series") -> "pl.DataFrame":
    """Return one line per token, in order: `text` (its index), `place` (the line's), `token`, `hash`."""
    import polars as pl

    token = pl.col("token")
    ends = pl.lit([BEGIN]), pl.lit([END])
    found = pl.DataFrame({"content": texts.str.head(_HEAD).str.to_lowercase()})
    inner = pl.col("content").str.extract_all(_TOKEN)
    return (
        found.with_row_index("text")
        .select("text", token=pl.concat_list(ends[0], inner, ends[1]))
        .explode("token")
        .with_columns(
            token=pl.when(token.str.contains(r"^\p{N}"))
            .then(pl.lit(NUMBER))
            .when(token.str.starts_with("\n"))
            .then(pl.lit(BREAK))
            .otherwise(token.str.head(_LONGEST))
        )
        .with_columns(hash=token.hash())
        .with_row_index("place")
    )


def _common(tokens: "pl.DataFrame", texts: int) -> "pl.DataFrame":
    """Return `share`, and `text` and `place` of the first one, of each hash that enough texts have."""
    import polars as pl

    each = tokens.select("text", "hash", "place").unique(["text", "hash"], keep="first")
    least = max(_LEAST_TEXTS, LEAST_SHARE * texts)
    return (
        each.group_by("hash")
        .agg(
            share=pl.len() / texts,
            count=pl.len(),
            text=pl.col("text").min(),
            place=pl.col("place").min(),
        )
        .filter(pl.col("count") >= least)
        .sort("place")
        .select("share", "text", "place")
    )


def excerpt(text: str, said: str) -> str:
    """Return some characters of a text around what is `said` there, as `vocabulary` says it."""
    parts = [_pattern(token) for token in said.split(" ")]
    match = re.search(r"\s*".join(parts), text[:_HEAD], re.IGNORECASE)
    begin = max(0, (match.start() if match else 0) - _BEFORE)
    if begin + _EXCERPT > len(text):
        begin = max(0, len(text) - _EXCERPT)
    shown = " ".join(text[begin : begin + _EXCERPT].split())
    return f"…{shown}" if begin else shown


def _pattern(token: str) -> str:
    known = {BEGIN: r"\A", END: r"\Z", NUMBER: r"\d+", BREAK: r"\n+"}
    return known.get(token, re.escape(token))


def packed(words: "pl.DataFrame") -> str:
    """Return the shares of a vocabulary by hashes of what is said, as text: six bytes each at most."""
    import numpy as np

    keys = np.array([key(said) for said in words["said"]], dtype=np.uint32)
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
        content = zlib.decompress(base64.b85decode(text))
        size = len(content) // 6
        keys = np.frombuffer(content[: 4 * size], np.uint32).cumsum(dtype=np.uint32)
        shares = np.frombuffer(content[4 * size :], np.uint16) / _WHOLE
    except (zlib.error, ValueError) as error:
        raise ValueError(f"no packed vocabulary: {error}") from None
    return dict(zip(keys.tolist(), shares.tolist(), strict=True))


def key(said: str) -> int:
    return zlib.crc32(said.encode())  # the same in every version


def named(said: str) -> str:
    """Return what is said as a person reads it."""
    words = {BREAK: "a line break", NUMBER: "a number"}
    first, _, second = said.partition(" ")
    if first == BEGIN:
        return f"{_named(second, words)} at the beginning"
    if second == END:
        return f"{_named(first, words)} at the end"
    if not second:
        return _named(first, words)
    if {first, second} & words.keys():
        return f"{_named(first, words)} before {_named(second, words)}"
    return repr(f"{first} {second}" if first[-1:].isalnum() else first + second)


def _named(token: str, words: dict[str, str]) -> str:
    return words.get(token, repr(token))


def without_parts(said: Iterable[str]) -> list[str]:
    """Return those that share no token with one before them, as pieces of one phrase do."""
    seen: set[str] = set()
    chosen: list[str] = []
    for one in said:
        tokens = set(one.split(" ")) - {BEGIN, END, NUMBER, BREAK}
        if not tokens & seen and (tokens or not chosen):
            chosen.append(one)
        seen |= tokens
    return chosen
