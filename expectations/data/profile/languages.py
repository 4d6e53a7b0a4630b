"""The language of a text, of which three windows are read, and of questions beside their answers."""

import re
from collections import Counter
from typing import TYPE_CHECKING

from expectations.data.profile.alarms import LEAST_GROUP, LEAST_ROWS, Alarm, share_alarm
from expectations.data.profile.averages import mean
from expectations.data.profile.short_texts import is_other

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import polars as pl

LEAST_LETTERS = 40  # of a text; of fewer there is no guess
_WINDOW, _WINDOWS = 250, 3  # characters, spread over the text
_CODE = re.compile(r"```[^`]*(?:```|$)|`[^`\n]*`|https?://\S+|[!-~]{40,}")
_NO_LANGUAGE = ("zxx", "und", "mul")
_MARKS = re.compile(r"[\u0300-\u036f]")
_LETTERS = 0.6  # least share of letters and spaces in what is read
# Variants of a language that people name by its own code (ISO 639-3 macrolanguages).
SAME = {
    **dict.fromkeys(("wuu", "yue", "cmn", "nan", "hak", "gan", "lzh", "zh-tw"), "zh"),
    **dict.fromkeys(("nb", "nn", "nno", "nob"), "no"),
    **dict.fromkeys(("arb", "arz", "ary"), "ar"),
    **dict.fromkeys(("hr", "bs", "sr", "hbs"), "sh"),
    **dict.fromkeys(("zsm", "ind", "id"), "ms"),
    **dict.fromkeys(("pes", "prs"), "fa"),
    **dict.fromkeys(("als", "gsw"), "de"),
}
_SURE_LETTERS = 100  # of questions or answers that are judged without each other
_FEW = 0.9  # share of questions in one language, so that a dataset is of that
_LEAST_SHARE = 0.03
_FEW_CHARS = 80  # up to which words tell the language


def canonical(code: str) -> str:
    """Return the code by which a variant of a language is known here, e.g. zh for wuu."""
    return SAME.get(code.lower(), code.lower())


def readable(text: str) -> str:
    """Return three windows of a text without code and addresses, empty where too little is left."""
    last = len(text) - _WINDOW
    starts = sorted({max(0, last * place // (_WINDOWS - 1)) for place in range(_WINDOWS)})
    if last <= _WINDOW * (_WINDOWS - 1):
        parts = [text[: _WINDOW * _WINDOWS]]
    else:
        parts = [text[start : start + _WINDOW] for start in starts]
    plain = _MARKS.sub("", _CODE.sub(" ", "\n".join(parts)))
    letters = sum(map(str.isalpha, plain))
    marks = sum(map(str.isspace, plain))
    return plain if letters >= LEAST_LETTERS and letters + marks >= _LETTERS * len(plain) else ""


def language(text: str) -> str | None:
    """Return the language (ISO 639-1 where there is one) of a text, None of one that says too little."""
    from py3langid import classify

    plain = readable(text)
    code = canonical(classify(plain)[0]) if plain else None
    return None if code in _NO_LANGUAGE else code


def is_foreign(text: str, parts: tuple[str, str], languages: tuple[str, ...]) -> bool:
    """Tell whether a conversation, or one of its `parts` (questions, answers), is in none of
    `languages`. A part is judged by itself where it has `_SURE_LETTERS`, for a guess at less is none;
    a few words by what words they are."""
    wanted = {canonical(code) for code in languages}
    long = [part for part in parts if sum(map(str.isalpha, readable(part))) >= _SURE_LETTERS]
    # Where both sides are long, all of it tells no more than they do.
    guesses = map(language, long if len(long) == len(parts) else [*long, text])
    if any(code is not None and code not in wanted for code in guesses):
        return True
    return any(is_other(few, wanted) for few in (*parts, text) if len(few) <= _FEW_CHARS)


def other_languages(
    sample: "pl.DataFrame", asked: "Sequence[str | None]", told: "Callable[[np.ndarray], bool]"
) -> list[Alarm]:
    """Return an alarm for answers in another language than their questions, where the dataset is no
    translation (then the question tells) and has one language.

    `sample` are pairs (`row`, `question`, `answer`), `asked` the language of each question; `told` takes
    a boolean for each of them.
    """
    import polars as pl

    if len(sample) < LEAST_ROWS:
        return []
    known = Counter(code for code in asked if code)
    if not known:
        return []
    said = [language(text) for text in sample["answer"]]
    if known.most_common(1)[0][1] < _FEW * known.total():
        return _one_answers_many(sample, asked, said)
    own = known.most_common(1)[0][0]
    # A code that hardly any answer has is a guess at odd text.
    common = {code for code, rows in Counter(said).items() if rows >= LEAST_GROUP}
    group = pl.Series([code is not None and code != own and code in common for code in said])
    if not _LEAST_SHARE <= mean(group) <= 1 - _LEAST_SHARE or told(group.to_numpy()):
        return []
    codes = Counter(code for code, other in zip(said, group, strict=True) if other)
    others = ", ".join(code for code, _ in codes.most_common(3) if code)
    words = f"are in another language ({others}) than the questions ({own})"
    return [
        share_alarm(
            "doubtful_masses", sample.filter(group)["row"].to_numpy(), len(sample), words, "both"
        )
    ]


def _one_answers_many(
    sample: "pl.DataFrame", asked: "Sequence[str | None]", said: "Sequence[str | None]"
) -> list[Alarm]:
    """Return an alarm for each language of questions that are nearly all answered in the one language
    that most others are asked and answered in."""
    own = Counter(code for code, other in zip(asked, said, strict=True) if code and code == other)
    if not own:
        return []
    most = own.most_common(1)[0][0]
    alarms = []
    for code, count in Counter(filter(None, asked)).items():
        answered = [asked[n] == code and said[n] == most for n in range(len(said))]
        rows = sample["row"].to_numpy()[answered]
        least = max(LEAST_GROUP, _LEAST_SHARE * len(sample), _FEW * count)
        if code != most and len(rows) >= least:
            words = f"are in one language ({most}), where the questions are in another ({code})"
            alarms.append(share_alarm("doubtful_masses", rows, len(sample), words, "both"))
    return alarms
