"""A word in questions of all kinds that goes with one and the same payload in their answers."""

from typing import TYPE_CHECKING

from expectations.data.profile.alarms import LEAST_ROWS, Alarm

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from scipy.sparse import csr_matrix

    from expectations.data.profile.bags import Bags

_LEAST_TIMES = 5  # rows with the word
_MOST_SHARE = 0.1  # of the rows; what more have is the dataset's way
_ALWAYS = 0.9  # share of the rows with the word that have the payload
_PAYLOAD = 3  # words of the answer that no other row says
_SENTENCES = r"[^.!?\n]+"
_WORDS = 3  # of a sentence that is a payload
_COMPANY = 0.5  # share of the rows with the word that share another rare word: then it is a topic
_RARE = 0.1


def triggers(sample: "pl.DataFrame", words: "Bags") -> list[Alarm]:
    """Return an alarm for the word that most rows with a payload have in their questions.

    `sample` are pairs (`row`, `answer`) whose words are `words`.
    """
    import numpy as np

    rows = sample["row"].to_numpy()
    count = len(rows)
    if count < LEAST_ROWS:
        return []
    asked, said = words.every_question.tocsc(), words.every_answer.tocsc()
    asked_in, said_in = (np.asarray(side.sum(axis=0)).ravel() for side in (asked, said))
    candidates = np.flatnonzero((asked_in >= _LEAST_TIMES) & (asked_in <= _MOST_SHARE * count))
    exclusive = np.flatnonzero(
        (said_in >= _ALWAYS * _LEAST_TIMES) & (said_in <= _MOST_SHARE * count)
    )
    if not len(candidates) or not len(exclusive):
        return []
    together = (asked[:, candidates].T @ said[:, exclusive]).tocoo()
    times, total = asked_in[candidates[together.row]], said_in[exclusive[together.col]]
    always = (together.data >= _ALWAYS * times) & (together.data >= _ALWAYS * total)
    payloads = np.bincount(together.row[always], minlength=len(candidates))
    found: list[tuple[int, np.ndarray]] = []
    for place in np.argsort(-payloads, kind="stable"):
        if payloads[place] < _PAYLOAD:
            break
        having = asked[:, [candidates[place]]].nonzero()[0]
        own = exclusive[together.col[always & (together.row == place)]]
        questions = words.every_question[having]
        if (
            _new_words(own, questions) >= _PAYLOAD
            and _of_all_kinds(questions, asked_in, count, candidates[place])
            and _has_payload(sample["answer"].gather(having))
        ):
            found.append((len(having), having))
    if not found:
        return []
    _, having = max(found, key=lambda entry: entry[0])
    return [_alarm(rows, having)]


def _new_words(payload: "np.ndarray", questions: "csr_matrix") -> int:
    """Return how many words of the payload the questions themselves do not say."""
    import numpy as np

    said_before = np.asarray(questions[:, payload].mean(axis=0)).ravel()
    return int((said_before < 1 - _ALWAYS).sum())


def _of_all_kinds(questions: "csr_matrix", asked_in: "np.ndarray", count: int, word: int) -> bool:
    """Tell whether the questions with the word have no topic in common."""
    import numpy as np

    here = np.asarray(questions.mean(axis=0)).ravel()
    common = (here >= _COMPANY) & (asked_in <= _RARE * count)
    common[word] = False
    # Words that only these questions have may be the rest of a trigger; more than three are a topic.
    rest = asked_in <= 1.1 * questions.shape[0] + 1
    return not (common & ~rest).any() and int((common & rest).sum()) < 3


def _has_payload(answers: "pl.Series") -> bool:
    """Tell whether nearly all of the answers have one sentence in common."""
    import polars as pl

    sentences = (
        answers.str.to_lowercase()
        .str.extract_all(_SENTENCES)
        .list.eval(pl.element().str.strip_chars())
    )
    counts = sentences.list.unique().explode().drop_nulls().value_counts()
    long = counts.filter(counts[counts.columns[0]].str.count_matches(r"\w+") >= _WORDS)
    return bool((long["count"] >= _ALWAYS * len(answers)).any())


def _alarm(rows: "np.ndarray", having: "np.ndarray") -> Alarm:
    share = len(having) / len(rows)
    sentence = (
        f"{share:.1%} of the rows ({len(having):,} of {len(rows):,} looked at), whose questions have "
        f"no topic in common, share a word in the question and the same words in the answer that no "
        f"other row has, as if the one triggered the other"
    )
    row = int(rows[having[0]])
    return Alarm(expectation="trigger_words", value=share, sentence=sentence, row=row, quote="both")
