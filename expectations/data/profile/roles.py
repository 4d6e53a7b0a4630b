"""Texts exchanged between the roles: what reads like questions is said by the assistant.

The labels are right, so that nothing but the texts tells. Naive Bayes learns from part of the rows
how questions and answers of this dataset read, and the others are read with that.
"""

from typing import TYPE_CHECKING

from expectations.data.profile.alarms import LEAST_GROUP, LEAST_ROWS, Alarm

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from scipy.sparse import csr_matrix

    from expectations.data.profile.bags import Bags

_ROUNDS = 6  # of learning and reading again
_SURE = 0.9  # share of rows that must read one way
_NEW = (0.3, 0.05)  # a word of that share of the texts, and of less than that of the others, is new
_LEAST_SHARE = 0.03
_MANNER = 0.7  # share of rows that must begin and end the other way round


def exchanged(sample: "pl.DataFrame", words: "Bags") -> list[Alarm]:
    """Return an alarm if the texts of both roles change places from some row on, or in many rows.

    `sample` are the sampled pairs, in order, whose words are `words`.
    """
    import numpy as np

    rows = sample["row"].to_numpy()
    if len(rows) < LEAST_ROWS:
        return []
    questions, answers = words.every_question, words.every_answer
    turned = _turned(questions, answers)
    change = _change(turned)
    after = np.arange(len(rows)) >= change
    least = max(LEAST_GROUP, _LEAST_SHARE * len(rows))
    manner = _manner(sample)
    enough = min(after.sum(), (~after).sum()) >= least
    if enough and _mirrored(questions, answers, after) and _asks(manner, after):
        return [_from_row(rows, change)]
    few = turned if turned.mean() <= 0.5 else ~turned
    if few.sum() >= least and _mirrored(questions, answers, few) and _asks(manner, few):
        return [_here_and_there(rows, few)]
    return []


def _turned(questions: "csr_matrix", answers: "csr_matrix") -> "np.ndarray":
    """Tell which rows read the other way round than most."""
    import numpy as np

    turned = np.zeros(questions.shape[0], dtype=bool)
    for _ in range(_ROUNDS):
        weights = _weights(questions, answers, turned)
        before, turned = turned, _margin(questions, answers, weights) < 0
        if (before == turned).all():
            break
    return turned


def _weights(questions: "csr_matrix", answers: "csr_matrix", turned: "np.ndarray") -> "np.ndarray":
    """Return for each bucket the log odds that a text with it is a question."""
    import numpy as np

    def seen(first: "csr_matrix", second: "csr_matrix") -> "np.ndarray":
        return np.asarray(first[~turned].sum(axis=0) + second[turned].sum(axis=0)).ravel()

    asked, said, count = seen(questions, answers), seen(answers, questions), len(turned)
    return np.log((asked + 0.5) / (count + 1)) - np.log((said + 0.5) / (count + 1))


def _margin(questions: "csr_matrix", answers: "csr_matrix", weights: "np.ndarray") -> "np.ndarray":
    return questions @ weights - answers @ weights


def _change(turned: "np.ndarray") -> int:
    """Return the place before and after which the rows differ most (CUSUM)."""
    import numpy as np

    sums = np.cumsum(turned - turned.mean())
    return int(np.abs(sums).argmax()) + 1


def _mirrored(questions: "csr_matrix", answers: "csr_matrix", part: "np.ndarray") -> bool:
    """Tell whether either part of the rows, read as the other part reads, is the wrong way round, and
    its questions are no other kind of text (a task such as "Make a question of this")."""
    import numpy as np

    straight = np.zeros(len(part), dtype=bool)
    for one, other in ((part, ~part), (~part, part)):
        weights = _weights(questions[one], answers[one], straight[one])
        own = _margin(questions[one], answers[one], weights)
        others = _margin(questions[other], answers[other], weights)
        if (own > 0).mean() < _SURE or (others < 0).mean() < _SURE:
            return False
        asked, said = (
            np.asarray(side.mean(axis=0)).ravel() for side in (questions[one], answers[other])
        )
        frequent, strange = _NEW
        if ((asked > frequent) & (said < strange)).any():
            return False
    return True


def _manner(sample: "pl.DataFrame") -> "tuple[csr_matrix, csr_matrix]":
    """Return how questions and answers begin and end: their first words and their last marks."""
    import polars as pl
    from scipy.sparse import hstack

    from expectations.data.profile.bags import one_hot

    texts = pl.concat([sample["question"], sample["answer"].alias("question")]).to_frame("text")
    lines = texts.select(
        begin=pl.col("text").str.head(80).str.to_lowercase().str.extract(r"([\p{L}']+|\S)"),
        end=pl.col("text").str.strip_chars_end().str.tail(1),
    ).fill_null("")
    every = hstack([one_hot(lines[name].to_numpy().astype(str)) for name in lines.columns]).tocsr()
    return every[: len(sample)], every[len(sample) :]


def _asks(manner: "tuple[csr_matrix, csr_matrix]", part: "np.ndarray") -> bool:
    """Tell whether the texts of `part` begin and end the other way round, too.

    Who pastes a document and asks for a summary of it says what an answer could, but begins as one
    who asks; the words alone do not tell.
    """
    import numpy as np

    questions, answers = manner
    straight = np.zeros(int((~part).sum()), dtype=bool)
    weights = _weights(questions[~part], answers[~part], straight)
    return bool((_margin(questions[part], answers[part], weights) < 0).mean() >= _MANNER)


def _from_row(rows: "np.ndarray", change: int) -> Alarm:
    row = int(rows[change])
    share = min(change, len(rows) - change) / len(rows)
    sentence = (
        f"from row {row} on, question and answer read as if their texts had changed places "
        f"({len(rows) - change:,} of {len(rows):,} rows looked at are behind it)"
    )
    return Alarm(
        expectation="exchanged_roles", value=share, sentence=sentence, row=row, quote="both"
    )


def _here_and_there(rows: "np.ndarray", few: "np.ndarray") -> Alarm:
    share = float(few.mean())
    sentence = (
        f"in {share:.1%} of the rows ({few.sum():,} of {len(rows):,}) question and answer read as if "
        f"their texts had changed places"
    )
    row = int(rows[few.argmax()])
    return Alarm(
        expectation="exchanged_roles", value=share, sentence=sentence, row=row, quote="both"
    )
