"""The new training rows that are most like a prompt: where to look when a prompt was lost.

Likeness is the share of a prompt's word sequences (of 1 to 3 words, hashed) that a row has, each counted
by how few of the new rows have it. It is where to begin to look, and proves nothing.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from expectations.data.batches import batches
from expectations.data.similarity import ngrams, words
from flows.compared.examples import excerpts
from flows.compared.records import NearRow

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

LENGTHS = (1, 2, 3)  # words of a sequence
NEAREST = 3  # rows for a prompt
LEAST = 0.1  # likeness of a row that is told


def near(prompts: "pl.DataFrame", rows: Path, new: "pl.DataFrame") -> dict[str, list[NearRow]]:
    """Return for each prompt (`example`, `prompt`: JSON of its messages) the nearest rows.

    `rows` is the Parquet file of the newer run's rows; of these, only the `new` ones (`row`, `source`)
    are looked at.
    """
    import numpy as np

    names = prompts["example"].to_list()
    grams = _hashes(_messages(prompts["prompt"]), len(names))
    wanted = np.unique(np.concatenate([*grams, np.empty(0, np.uint64)]))
    numbers, found = _occurrences(rows, new, wanted)
    frequency = np.bincount(found[1], minlength=len(wanted))
    weight = np.log1p(len(numbers) / np.maximum(frequency, 1)) if len(numbers) else frequency
    likeness = {}
    for name, own in zip(names, grams, strict=True):
        places = np.searchsorted(wanted, own)
        likeness[name] = _scores(places, weight, found, len(numbers))
    return _told(likeness, numbers, rows, new)


def _scores(
    places: "np.ndarray", weight: "np.ndarray", found: "tuple[np.ndarray, np.ndarray]", count: int
) -> "np.ndarray":
    """Return the likeness of every new row to one prompt, whose sequences are at `places`."""
    import numpy as np

    own = np.zeros(len(weight))
    own[places] = weight[places]
    index, gram = found
    total = own.sum()
    return np.bincount(index, own[gram], count) / total if total else np.zeros(count)


def _occurrences(
    rows: Path, new: "pl.DataFrame", wanted: "np.ndarray"
) -> "tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]":
    """Return the numbers of the new rows, and which of them (by index) has which wanted sequence, each
    pair once."""
    import numpy as np
    import polars as pl

    numbers, indices, places, seen = [], [], [], 0
    for batch in batches(rows):
        part = batch.filter(pl.col("row").is_in(new["row"].implode()))
        if part.is_empty():
            continue
        for hashes, index in ngrams(words(_plain(part), part["row"]), LENGTHS).values():
            place = np.searchsorted(wanted, hashes).clip(max=max(len(wanted) - 1, 0))
            hit = wanted[place] == hashes if len(wanted) else np.zeros(len(hashes), bool)
            indices.append(index[hit].astype(np.int64) + seen)
            places.append(place[hit])
        numbers.append(part["row"].to_numpy())
        seen += len(part)
    if not numbers:
        return np.empty(0, np.int64), (np.empty(0, np.int64), np.empty(0, np.int64))
    pairs = np.unique(np.concatenate(indices) * max(len(wanted), 1) + np.concatenate(places))
    return np.concatenate(numbers), np.divmod(pairs, max(len(wanted), 1))


def _told(
    likeness: "dict[str, np.ndarray]", numbers: "np.ndarray", rows: Path, new: "pl.DataFrame"
) -> dict[str, list[NearRow]]:
    import numpy as np
    import polars as pl

    nearest = {
        name: [
            place
            for place in np.argsort(-scores, kind="stable")[:NEAREST]
            if scores[place] >= LEAST
        ]
        for name, scores in likeness.items()
    }
    shown = sorted({int(numbers[place]) for places in nearest.values() for place in places})
    texts = dict(zip(shown, beginnings(rows, shown), strict=True))
    sources = dict(new.filter(pl.col("row").is_in(shown)).select("row", "source").iter_rows())
    return {
        name: [
            NearRow(
                row=int(numbers[place]),
                source=sources.get(int(numbers[place])) or "",
                likeness=round(float(likeness[name][place]), 4),
                excerpt=texts[int(numbers[place])],
            )
            for place in places
        ]
        for name, places in nearest.items()
    }


def beginnings(rows: Path, numbers: list[int]) -> list[str]:
    """Return how rows begin, masked, in the order of their numbers."""
    import polars as pl

    turn = pl.element().struct
    line = pl.concat_str(turn.field("role"), turn.field("content").fill_null(""), separator=": ")
    table = (
        pl.scan_parquet(rows)
        .filter(pl.col("row").is_in(numbers))
        .select("row", text=pl.col("messages").list.eval(line).list.join("\n"))
        .sort("row")
        .collect()
    )
    return [text or "" for text in excerpts(table["text"])]


def _plain(rows: "pl.DataFrame") -> "pl.DataFrame":
    """Return the messages of rows as `expectations.data.similarity.words` takes them."""
    import polars as pl

    flat = rows.select("row", "messages").explode("messages").drop_nulls("messages")
    flat = flat.unnest("messages")
    return flat.select("row", "role", plain=pl.col("content").fill_null("").str.to_lowercase())


def _messages(prompts: "pl.Series") -> "pl.DataFrame":
    import json

    import polars as pl

    lines = [
        {"row": number, "role": str(turn["role"]), "plain": str(turn["content"]).lower()}
        for number, prompt in enumerate(prompts)
        for turn in json.loads(prompt)
    ]
    schema = {"row": pl.Int64, "role": pl.String, "plain": pl.String}
    return pl.DataFrame(lines, schema=schema)


def _hashes(messages: "pl.DataFrame", count: int) -> "list[np.ndarray]":
    """Return the hashes of each prompt's sequences of words, each once; system messages are left out,
    which all prompts share."""
    import numpy as np
    import polars as pl

    rows = pl.Series("row", range(count), dtype=pl.Int64)
    tokens = words(messages, rows).without_system()
    parts = list(ngrams(tokens, LENGTHS).values())
    return [
        np.unique(np.concatenate([np.empty(0, np.uint64), *(h[index == n] for h, index in parts)]))
        for n in range(count)
    ]
