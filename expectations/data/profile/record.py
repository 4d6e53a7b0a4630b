"""The compact record of a profile: what the next dataset is compared with. It holds no text."""

import zlib
from collections import Counter
from collections.abc import Sequence
from math import sqrt
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, field_validator

from expectations.data.profile.averages import correlation, mean
from expectations.data.profile.kinship import kinship
from expectations.data.profile.numbers import FLAGS, MEASURED
from expectations.data.profile.shapes import frequencies
from expectations.data.profile.table import Table
from expectations.data.profile.vocabulary import unpacked

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

STEPS = 100  # between neighbouring quantiles lies 1/100 of the rows
TOPICS = 256  # buckets of hashed words
SOURCES = 500  # largest ones that are remembered
_SIGMA = 5.0
_TOPIC_WORD = r"\p{L}{5,}"
_TOPIC_HEAD = 1_000  # characters of a question


class Profile(BaseModel):
    """A dataset in numbers: its `rows`, and how many rows that know nothing of each other they count
    as (`independent`); the quantiles of each number at 0, 0.01, ... 1, the share of rows for which each
    flag is true, the share of each source by its hash, the share of words of questions in each of 256
    buckets and how many words these are, the shares of languages of the questions of a sample of
    `languages_of` rows, the correlation of the lengths of question and answer, as logarithms, and what
    answers and questions of the sample are made of (`vocabulary.packed`; empty in older records), and
    the share of each group of answers (`signs.shares`)."""

    model_config = ConfigDict(frozen=True)

    rows: int
    independent: float
    quantiles: dict[str, tuple[float, ...]]
    shares: dict[str, float]
    sources: dict[str, float]
    topics: tuple[float, ...]
    topics_of: int
    sampled: int
    languages: dict[str, float]
    languages_of: int
    lengths_correlation: float
    answer_words: str = ""
    question_words: str = ""
    signs: dict[str, float] = {}

    @field_validator("answer_words", "question_words")
    @classmethod
    def _unpacks(cls, words: str) -> str:
        unpacked(words)
        return words


def profile(
    frame: Table,
    sources: "pl.Series",
    sample: "pl.DataFrame",
    spoken: Sequence[str | None] = (),
) -> Profile:
    """Return the record of a dataset: `frame` are the numbers of its rows (`numbers.numbers`),
    `sources` one name per row, `sample` some of its pairs, `spoken` the languages of some questions."""
    known = Counter(filter(None, spoken))
    counts = frequencies(sources.fill_null(""), SOURCES)
    topics, words = _topics(sample["question"])
    return Profile(
        rows=len(frame),
        independent=round(len(frame) / kinship(frame, MEASURED), 1),
        quantiles={name: _quantiles(frame[name].to_numpy()) for name in MEASURED},
        shares={name: round(mean(frame[name]), 6) for name in FLAGS},
        sources={
            hashed(name): round(count / max(len(sources), 1), 6) for name, count in counts.rows()
        },
        topics=topics,
        topics_of=words,
        sampled=len(sample),
        languages={code: round(count / known.total(), 6) for code, count in known.most_common()},
        languages_of=known.total(),
        lengths_correlation=correlation(frame["question_chars"], frame["answer_chars"]),
    )


def _quantiles(values: "np.ndarray") -> tuple[float, ...]:
    """Return values that occur, the smallest x with F(x) >= p (see `expectations.data.scores`)."""
    import numpy as np

    ordered = np.sort(values.astype(np.float64))
    if not len(ordered):
        return ()
    ranks = (np.arange(STEPS + 1) * len(ordered) + STEPS - 1) // STEPS
    return tuple(float(f"{value:.4g}") for value in ordered[np.maximum(ranks - 1, 0)])


def _topics(questions: "pl.Series") -> tuple[tuple[float, ...], int]:
    """Return the share of words in each bucket, each word counted once per question."""
    words: Counter[str] = Counter(
        questions.str.head(_TOPIC_HEAD)
        .str.to_lowercase()
        .str.extract_all(_TOPIC_WORD)
        .list.unique()
        .explode()
        .drop_nulls()
        .to_list()
    )
    buckets = [0] * TOPICS
    for word, count in words.items():
        buckets[zlib.crc32(word.encode()) % TOPICS] += count  # the same in every version
    total = sum(buckets)
    return tuple(round(count / max(total, 1), 6) for count in buckets), total


def hashed(name: str) -> str:
    """Return what a record knows a name by, the same in every version."""
    return f"{zlib.crc32(name.encode()):08x}"


def noise(reference: Profile, new: Profile) -> float:
    """Return 1 / n + 1 / m of the rows sampled of two datasets, as many as know nothing of each other."""
    return sum(one.rows / (one.independent * max(one.sampled, 1)) for one in (reference, new))


def chance(then: float, now: float, noise: float) -> float:
    """Return by how much two shares may differ by chance, 5 standard deviations: some twenty thousand are
    compared. `noise` is 1 / n + 1 / m of the rows that they are of."""
    mean = (then + now) / 2
    return _SIGMA * sqrt(mean * (1 - mean) * noise)
