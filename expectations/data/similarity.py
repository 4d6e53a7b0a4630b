"""What rows have in common: near duplicates by MinHash, and word n-grams of evaluation prompts.

Words are hashed once per batch; everything else is arithmetic on arrays of hashes.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from expectations.data.tables import repeats
from retune.disk_space import require_space

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    Grams = tuple[np.ndarray, np.ndarray]  # hashes of n-grams (uint64), and their row indices

SHINGLE = 5  # words
LEAST_PROMPT = 5  # words; a shorter prompt is everyday language
PERMUTATIONS = 128
BANDS = 16  # of 8 hashes: finds 99 % of the pairs with a similarity of 0.85 (1 - (1 - s^8)^16)
MINHASH_BYTES = (
    2 * PERMUTATIONS + 8 * BANDS
)  # of a row, on disk while near duplicates are looked for
COMPARED = 20_000  # pairs of rows at a time
_SEED = 42
FACTOR = 0x9E3779B97F4A7C15  # odd and large, so that the order of words matters


class Words(NamedTuple):
    """The words of a batch, one after another: their hashes (uint64), each one's row index, and
    whether a system message says it."""

    hashes: "np.ndarray"
    rows: "np.ndarray"
    in_system: "np.ndarray"

    def without_system(self) -> "Words":
        """Leave out system messages: a prompt that all rows share makes no two of them alike."""
        if not self.in_system.any():
            return self
        mask = ~self.in_system
        return Words(self.hashes[mask], self.rows[mask], self.in_system[mask])


def words(messages: "pl.DataFrame", rows: "pl.Series") -> Words:
    """Return the words of `plain` message texts (see `messages.judge_messages`), row by row."""
    import polars as pl

    index = pl.DataFrame(
        {"row": rows, "index": range(len(rows))}, schema_overrides={"index": pl.Int32}
    )
    flat = (
        messages.select(
            "row",
            in_system=pl.col("role").fill_null("") == "system",
            word=pl.col("plain").str.extract_all(r"\w+"),
        )
        .explode("word", empty_as_null=False, keep_nulls=False)
        .with_columns(pl.col("word").hash())
        .join(index, on="row", maintain_order="left")
    )
    return Words(*(flat[name].to_numpy() for name in ("word", "index", "in_system")))


def ngrams(tokens: Words, lengths: Iterable[int]) -> "dict[int, Grams]":
    """Return for each length n the hashes of all n words in a row, and their row indices."""
    import numpy as np

    sizes = set(lengths)
    hashes, rows = tokens.hashes, tokens.rows
    result, gram = {}, hashes.copy()
    for n in range(1, max(sizes, default=0) + 1):
        if n > len(hashes):
            break
        if n > 1:
            gram = gram[:-1] * np.uint64(FACTOR) + hashes[n - 1 :]
        if n in sizes:
            same_row = rows[: len(gram)] == rows[n - 1 :]
            result[n] = gram[same_row], rows[: len(gram)][same_row]
    return result


def shingles(tokens: Words, grams: "dict[int, Grams]") -> "Grams":
    """Return the n-grams of SHINGLE words that two rows are compared by; `grams` are those of all
    `tokens`."""
    conversation = tokens.without_system()
    if conversation is not tokens:
        grams = ngrams(conversation, [SHINGLE])
    return grams.get(SHINGLE, (conversation.hashes[:0], conversation.rows[:0]))


def signatures(grams: "Grams", count: int) -> "np.ndarray":
    """Return the MinHash signatures (`count` x PERMUTATIONS, uint32) of `count` rows' shingles.

    MinHash: Broder 1997. A row without a single shingle has a signature of equal values only.
    """
    import numpy as np
    from rensa import RMinHash

    hashes, rows = grams
    offsets = np.searchsorted(rows, np.arange(count + 1)).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, PERMUTATIONS, _SEED)
    return np.array(matrix.to_rows(), dtype=np.uint32).reshape(count, PERMUTATIONS)


def bands(signature: "np.ndarray") -> "np.ndarray":
    """Return one hash per band (rows x BANDS, uint64): equal ones make two rows candidates."""
    import numpy as np

    width = PERMUTATIONS // BANDS
    parts = signature.astype(np.uint64).reshape(len(signature), BANDS, width)
    combined = parts[:, :, 0].copy()
    for place in range(1, width):
        combined = combined * np.uint64(FACTOR) + parts[:, :, place]
    return combined


class MinHashes:
    """The MinHash signatures of the rows of a dataset, in files of a folder; in memory is a band of
    them at a time. To be closed."""

    def __init__(self, folder: Path, count: int) -> None:
        """Raise NoSpaceLeft unless the folder's disk has room for those of `count` rows."""
        subject = f"looking for near duplicates among {count:,} rows"
        require_space(folder, count * MINHASH_BYTES, subject, "dataset.max_rows")
        self._signatures = (folder / "signatures").open("w+b")
        self._bands = [(folder / f"band-{number}").open("w+b") for number in range(BANDS)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._signatures, *self._bands):
            file.close()

    def add(self, signature: "np.ndarray") -> None:
        """Take the signatures (see `signatures`) of the next rows."""
        import numpy as np

        # Two bytes of each value tell equal from different nearly as well as four.
        self._signatures.write(signature.astype(np.uint16).tobytes())
        for file, band in zip(self._bands, bands(signature).T, strict=True):
            file.write(band.tobytes())

    def earlier_twins(self, rows: "np.ndarray", similarity: float) -> "np.ndarray":
        """Return for each of the `rows` the index among them of an earlier one that is as similar,
        -1 if there is none.

        Locality-sensitive hashing: rows that agree in a whole band are compared with the first such
        row, by the share of equal values in their signatures, which estimates the Jaccard similarity
        of their shingles (standard error 0.03 at 0.85).
        """
        import numpy as np

        twins = np.full(len(rows), -1, np.int32)
        for file in self._bands:
            file.seek(0)
            later, first = repeats(np.fromfile(file, np.uint64)[rows])
            single = twins[later] < 0
            later, first = later[single], first[single]
            for start in range(0, len(later), COMPARED):
                part, earlier = later[start : start + COMPARED], first[start : start + COMPARED]
                equal = self._of(rows[part]) == self._of(rows[earlier])
                alike = equal.mean(axis=1) >= similarity
                twins[part[alike]] = earlier[alike]
        return twins

    def _of(self, rows: "np.ndarray") -> "np.ndarray":
        """Return the signatures of some rows. They are read one by one: pages of a file that is mapped
        count as memory until it is unmapped."""
        import numpy as np

        self._signatures.flush()
        found = np.empty((len(rows), PERMUTATIONS), np.uint16)
        for signature, row in zip(found, rows.tolist(), strict=True):
            os.preadv(self._signatures.fileno(), [signature.data], row * signature.nbytes)
        return found


def prompt_grams(texts: Iterable[str], ngram: int) -> "dict[int, Grams]":
    """Return by length the n-grams that tell of each text: every `ngram` words in a row; a shorter text
    of at least LEAST_PROMPT words is one n-gram."""
    import numpy as np

    if not (texts := list(texts)):
        return {}
    tokens = words(*_as_messages(texts))
    sizes = np.bincount(tokens.rows, minlength=len(texts))
    widths = np.where(sizes >= ngram, ngram, sizes)
    lengths = [int(n) for n in np.unique(widths) if n >= LEAST_PROMPT]
    of_length = ngrams(tokens, lengths)
    return {
        n: (grams[widths[rows] == n], rows[widths[rows] == n])
        for n, (grams, rows) in of_length.items()
    }


def among(hashes: "np.ndarray", wanted: "np.ndarray") -> "np.ndarray":
    """Return the places of those hashes that are `wanted`."""
    import numpy as np

    # Nearly nothing passes a table of 16 bits, so that the exact search is short.
    table = np.zeros(1 << 16, dtype=bool)
    table[wanted & np.uint64(0xFFFF)] = True
    maybe = np.flatnonzero(table[hashes & np.uint64(0xFFFF)])
    return maybe[np.isin(hashes[maybe], wanted)]


class Prompts:
    """The n-grams of evaluation prompts, to look for in batches of words."""

    def __init__(self, texts: Iterable[str], ngram: int) -> None:
        """Take every `ngram` words in a row of each text; a shorter text of at least LEAST_PROMPT
        words is one n-gram."""
        import numpy as np

        found = prompt_grams(texts, ngram)
        self._grams = {n: np.unique(grams) for n, (grams, _) in found.items()}

    @property
    def lengths(self) -> list[int]:
        """The lengths of n-grams to look for, in words."""
        return list(self._grams)

    def rows_with(self, grams: "dict[int, Grams]", count: int) -> "np.ndarray":
        """Return which of `count` rows contain one of the prompts' n-grams."""
        import numpy as np

        contained = np.zeros(count, dtype=bool)
        for n, prompt_grams in self._grams.items():
            if n not in grams:
                continue
            hashes, rows = grams[n]
            contained[rows[among(hashes, prompt_grams)]] = True
        return contained


def _as_messages(texts: list[str]) -> "tuple[pl.DataFrame, pl.Series]":
    import polars as pl

    plain = pl.col("plain").str.to_lowercase()
    rows = pl.Series("row", range(len(texts)), dtype=pl.Int64)
    frame = pl.DataFrame({"row": rows, "role": "user", "plain": texts}, strict=False)
    return frame.with_columns(plain), rows
