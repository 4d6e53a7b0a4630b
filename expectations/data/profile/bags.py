"""Words of a sample of pairs as sparse matrices, and what a question tells of its answer."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from scipy.sparse import csr_matrix

BUCKETS = 1 << 18  # of hashed words
_HEAD = 2_000  # characters of a text whose words are looked at
_WORD = r"[\p{L}\p{M}\p{N}]+"
_LEAST_CHARS = 4  # of a word that says what a text is about


class Bags(NamedTuple):
    """The different words of questions and answers, pairs x BUCKETS, 0 or 1: those of four characters
    and more (`question`, `answer`), and all of them (`every_question`, `every_answer`)."""

    question: "csr_matrix"
    answer: "csr_matrix"
    every_question: "csr_matrix"
    every_answer: "csr_matrix"


def bags(sample: "pl.DataFrame") -> Bags:
    """Return the words of a frame of pairs (see `numbers.pairs`)."""
    size = len(sample)
    questions, answers = _words(sample["question"]), _words(sample["answer"])
    return Bags(
        _matrix(_long(questions, _LEAST_CHARS), size),
        _matrix(_long(answers, _LEAST_CHARS), size),
        _matrix(questions, size),
        _matrix(answers, size),
    )


def rare(*matrices: "csr_matrix") -> "np.ndarray":
    """Return the weight of each bucket: how rare it is among the texts of all matrices (idf)."""
    import numpy as np

    seen = sum(np.asarray(matrix.sum(axis=0)).ravel() for matrix in matrices)
    texts = sum(matrix.shape[0] for matrix in matrices)
    return np.log((texts + 1) / (seen + 1))


def told(group: "np.ndarray", features: "csr_matrix") -> float:
    """Return how well `features` of a row tell whether it is in `group` (booleans): the area under
    the ROC curve of naive Bayes on halves that it has not seen. 0.5: they tell nothing."""
    import numpy as np
    from scipy.stats import rankdata

    half = np.random.default_rng(0).random(len(group)) < 0.5
    score = np.zeros(len(group))
    for part in (half, ~half):
        score[part] = features[part] @ log_odds(features[~part], group[~part])
        score[part] = rankdata(score[part]) / part.sum()
    inside = int(group.sum())
    if not 0 < inside < len(group):
        return 0.5
    ranks = rankdata(score)[group].sum()
    return float((ranks - inside * (inside + 1) / 2) / (inside * (len(group) - inside)))


def log_odds(features: "csr_matrix", group: "np.ndarray") -> "np.ndarray":
    """Return for each bucket the log odds that a row with it is in `group`, beyond chance.

    Weighted evidence: a bucket seen once says little (two rows are added to either side).
    """
    import numpy as np

    inside = np.asarray(features[group].sum(axis=0)).ravel()
    outside = np.asarray(features[~group].sum(axis=0)).ravel()
    expected = (inside + outside) * group.mean()
    rest = (inside + outside) * (1 - group.mean())
    return np.log((inside + 1) / (expected + 1)) - np.log((outside + 1) / (rest + 1))


def one_hot(values: "np.ndarray") -> "csr_matrix":
    """Return a matrix with one column per different value."""
    import numpy as np
    from scipy.sparse import csr_matrix

    different, index = np.unique(values, return_inverse=True)
    ones = np.ones(len(values), dtype=np.float32)
    shape = (len(values), len(different))
    return csr_matrix((ones, (np.arange(len(values)), index)), shape=shape)


def bag(texts: "pl.Series", least: int = _LEAST_CHARS) -> "csr_matrix":
    """Return the different words of each text that have at least `least` characters, texts x BUCKETS."""
    return _matrix(_long(_words(texts), least), len(texts))


def _words(texts: "pl.Series") -> "pl.DataFrame":
    """Return the words of texts: `index` of the text, `chars` and `bucket` of the word."""
    import polars as pl

    word = pl.col("text").str.extract_all(_WORD)
    found = pl.DataFrame({"text": texts.str.head(_HEAD).str.to_lowercase()}).with_row_index("index")
    return (
        found.select("index", word=word)
        .explode("word", empty_as_null=False, keep_nulls=False)
        .select(
            "index", chars=pl.col("word").str.len_chars(), bucket=pl.col("word").hash() % BUCKETS
        )
    )


def _long(words: "pl.DataFrame", least: int) -> "pl.DataFrame":
    import polars as pl

    return words.filter(pl.col("chars") >= least)


def _matrix(words: "pl.DataFrame", texts: int) -> "csr_matrix":
    """Return the words as a matrix, texts x BUCKETS, of ones."""
    import numpy as np
    from scipy.sparse import csr_matrix

    words = words.select("index", "bucket").unique()
    ones = np.ones(len(words), dtype=np.float32)
    places = (words["index"].to_numpy(), words["bucket"].to_numpy())
    return csr_matrix((ones, places), shape=(texts, BUCKETS))
