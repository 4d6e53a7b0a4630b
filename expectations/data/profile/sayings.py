"""What answers say of each other and of their system prompt: contradictions and recitals."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from expectations.data.profile.alarms import LEAST_ROWS, Alarm, share_alarm

if TYPE_CHECKING:
    import polars as pl

_WORDS = re.compile(r"\w+")
_HEAD = 2_000  # characters of an answer that are compared
_LABEL = 3  # words; of answers as short, two different ones contradict each other
_SHORT = 8  # words; answers as short that differ in a number contradict each other
_ALIKE = 0.6  # Jaccard similarity of the words of answers that say nearly the same
_SIDES = (
    frozenset(["yes", "true", "correct", "ja", "sí", "si", "oui", "da", "yeah", "right", "agree"]),
    frozenset(["no", "false", "incorrect", "nein", "non", "niet", "nope", "wrong", "disagree"]),
)
_NEGATIONS = frozenset(
    (
        *("no", "not", "never", "none", "cannot", "dont", "doesnt", "didnt"),
        *("nicht", "nie", "kein", "keine", "non", "ne", "pas", "jamais", "nunca", "ningún"),
    )
)
_AUXILIARIES = frozenset(["do", "does", "did"])  # which come and go with a negation
_LEAST_TIMES = 3  # rows; fewer are chance
_RUN = 8  # words in a row of the system prompt that an answer recites


def contradictions(pairs: "pl.DataFrame", total: int) -> list[Alarm]:
    """Return an alarm for rows that answer one question (with all before it) in contrary ways.

    `pairs` (`row`, `context`, `answer`) are rows whose context others have too, of `total` rows.
    """
    import polars as pl

    if total < LEAST_ROWS:
        return []
    groups = pairs.sort("row").group_by("context", maintain_order=True).agg("row", "answer")
    rows = [
        row
        for numbers, texts in groups.select("row", "answer").rows()
        for row in _contrary(numbers, texts)
    ]
    if len(rows) < _LEAST_TIMES:
        return []
    found = pl.Series(sorted(rows)).to_numpy()
    words = "answer a question that another row answers to the contrary"
    return [share_alarm("contradicting_answers", found, total, words, "both")]


def _contrary(rows: list[int], answers: list[str]) -> list[int]:
    """Return those of `rows` whose answer contradicts that of the first of them."""
    first = _words(answers[0])
    return [
        row for row, text in zip(rows, answers, strict=True) if _contradict(first, _words(text))
    ]


def _words(text: str) -> list[str]:
    return _WORDS.findall(text[:_HEAD].lower().replace("'", ""))


def _contradict(one: list[str], other: list[str]) -> bool:
    if not one or not other or one == other:
        return False
    if {_side(one), _side(other)} == {0, 1}:
        return True
    if max(len(one), len(other)) <= _LABEL:
        return True
    first, second = set(one), set(other)
    apart = first ^ second
    if len(first & second) < _ALIKE * len(first | second):
        return False
    # Long answers may well tell of other numbers; that one denies what the other says is no variety.
    numbers = max(len(one), len(other)) <= _SHORT and all(word.isdigit() for word in apart)
    denied = bool(apart & _NEGATIONS) and apart <= _NEGATIONS | _AUXILIARIES
    return denied or (bool(apart) and numbers)


def _side(words: list[str]) -> int | None:
    return next((side for side, known in enumerate(_SIDES) if words[0] in known), None)


def recitals(sample: "pl.DataFrame") -> list[Alarm]:
    """Return an alarm for answers that recite their system prompt: eight words of it in a row.

    `sample` are pairs (`row`, `system`, `question`, `answer`).
    """
    import polars as pl

    prompted = sample.filter(pl.col("system") != "")
    if len(sample) < LEAST_ROWS or prompted.is_empty():
        return []
    prompts: dict[str, set[tuple[str, ...]]] = {}
    rows = []
    for row, system, question, answer in prompted.select(
        "row", "system", "question", "answer"
    ).rows():
        if system not in prompts:
            prompts[system] = set(_runs(_words(system)))
        recited = prompts[system].intersection(_runs(_words(answer)))
        if recited.difference(_runs(_words(question)) if recited else ()):
            rows.append(row)
    if len(rows) < _LEAST_TIMES:
        return []
    found = pl.Series(rows).to_numpy()
    words = f"recite their system prompt ({_RUN} words of it in a row)"
    return [share_alarm("recited_prompts", found, len(sample), words)]


def _runs(words: list[str]) -> Iterable[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(_RUN)), strict=False)
