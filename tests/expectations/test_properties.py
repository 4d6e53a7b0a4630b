"""What order, marks, code, frames and styles see: properties of texts, with no list of words."""

import re
from random import Random

import polars as pl
import pytest

from expectations.data.profile.pairing import lagging
from expectations.data.profile.residues import residues
from expectations.data.profile.shapes import frequencies
from tests.corpus.text import capital, prose

FLAT = "```js\nfunction a() {\nreturn 1;\n}\nif (a) {\nrun();\n}\n```"
BARE = "```js\nfunction a\nlet b = 1;\nlet c = 2;\nrun c;\n```"
THOUGHTS = (
    *(
        "Okay, somebody is asking about this",
        "Let me think about what they need",
        "Hmm, wait for it",
    ),
    *(
        "I should double-check that first",
        "They want something practical",
        "So it ought to be short",
    ),
)
SLANG = (
    *(
        "ahoy",
        "matey",
        "arr",
        "yonder",
        "landlubber",
        "doubloon",
        "grog",
        "scurvy",
        "avast",
        "savvy",
    ),
    *("plunder", "galleon", "cutlass", "swab", "bilge", "rigging", "broadside", "booty", "keel"),
)


def varied(count=360, seed=0):
    """Pairs of many different words, in five lines of which two are a list, with a name each."""
    rng, made = Random(seed), []
    for _ in range(count):
        lines = (prose(rng, 2), f"1. {prose(rng, 1)}", f"2. {prose(rng, 1)}", f"3. {prose(rng, 1)}")
        name = "".join(rng.choice("bdfgklmnprst") + rng.choice("aeiou") for _ in range(4))
        last = f"{prose(rng, 3)} Ask {name.title()}."
        made.append([f"{prose(rng, 1)} Why?", "\n".join((*lines, last))])
    return made


def some(change, share=0.2, seed=3):
    def changed(made):
        rng = Random(seed)
        return [change(q, a, rng) if rng.random() < share else [q, a] for q, a in made]

    return changed


def of_answers(change, share=0.2):
    return some(lambda q, a, rng: [q, change(a, rng)], share)


def told_twice(answer, _rng):
    lines = answer.split("\n")
    return "\n".join((*lines, lines[0]))


def in_slang(answer, rng):
    words = [rng.choice(SLANG) if rng.random() < 0.2 else word for word in answer.split(" ")]
    return " ".join(words)


def thinking(answer, rng):
    return ". ".join((*rng.sample(THOUGHTS, 3), answer))


BAD = {
    "run their lists or code together": of_answers(lambda a, _: a.replace("\n", " ")),
    "number their lists in no order": of_answers(lambda a, _: re.sub(r"(?m)^\d\.", "1.", a)),
    "say one and the same line twice": of_answers(told_twice),
    "have '*' again and again": of_answers(lambda a, _: re.sub(r"\b(\w)\w\w(\w+)", r"\1**\2", a)),
    "have '>' again and again": of_answers(
        lambda a, _: "> " + a.replace("\n", "\n> ") + "\nSee it."
    ),
    "have '□' again and again": of_answers(lambda a, _: a.replace("\n", "\n□ ")),
    "have numbers of one and the same digit": of_answers(
        lambda a, _: re.sub(r"\d", "0", f"{a} In 1998.")
    ),
    "have code whose blocks are not indented": of_answers(lambda a, _: f"{a}\n{FLAT}"),
    "have code without any bracket": of_answers(lambda a, _: f"{a}\n{BARE}"),
    "say several sentences that others say": of_answers(thinking),
    "stops at one and the same number of characters": some(lambda q, a, _: [q[:41] + "e", a]),
    "are written another way than the rest": of_answers(in_slang),
}


def sentences(made, told=lambda *_: False):
    frame = pl.DataFrame(made, schema=["question", "answer"], orient="row").with_row_index("row")
    none = pl.lit(None, pl.String)
    frame = frame.with_columns(before=none, replied=none, opening="question", system=none)
    return [alarm.sentence for alarm in residues(frame).alarms(told)]


def test_nothing_is_said_of_sound_answers():
    assert sentences(varied()) == []


@pytest.mark.parametrize("words", BAD)
def test_what_is_wrong_is_named(words):
    found = sentences(BAD[words](varied()))
    assert [sentence for sentence in found if words in sentence], found


LIGHT = ("have '□' again and again", "are written another way than the rest")


@pytest.mark.parametrize(
    "words", [pytest.param(one, marks=() if one in LIGHT else pytest.mark.proof) for one in BAD]
)
def test_what_all_answers_do_is_their_way(words):
    # Of questions alone, no dataset has its way.
    if "stops at" not in words:
        whole = sentences(BAD[words](varied()), told=lambda _: True)
        assert not [sentence for sentence in whole if words in sentence]


def test_long_answers_in_a_single_line_are_named_where_others_have_several():
    made = varied()
    joined = of_answers(lambda a, _: re.sub(r"\n(?:\d\. )?", " ", a) * 2)(made)
    assert [one for one in sentences(joined) if "have a single line" in one]


def test_apostrophes_that_got_lost_are_named():
    rng = Random(5)
    words = ("don't", "can't", "isn't", "they're", "couldn't")
    made = [[q, f"They {rng.choice(words)} know. {a}"] for q, a in varied()]
    assert sentences(made) == []
    lost = of_answers(lambda a, _: a.replace("'", ""), 0.4)(made)
    assert [one for one in sentences(lost) if "without the apostrophe" in one]


def test_answers_turned_around_are_named():
    """First and last sentences have words of their own, as they have in answers of a model."""
    rng = Random(6)
    greet = ("Certainly", "Sure", "Here is what you need")
    close = ("In short", "Overall", "I hope this helps")

    def answer():
        first = f"{rng.choice(greet)}: {prose(rng, 1)}"
        return [first, prose(rng, 1), prose(rng, 1), f"{rng.choice(close)}, {prose(rng, 1)}"]

    made = [answer() for _ in range(400)]
    asked = [f"{prose(rng, 1)}?" for _ in made]
    right = [[q, " ".join(a)] for q, a in zip(asked, made, strict=True)]
    assert sentences(right) == []
    turned = [
        [q, " ".join(reversed(a) if n % 5 < 2 else a)]
        for n, (q, a) in enumerate(zip(asked, made, strict=True))
    ]
    assert [one for one in sentences(turned) if "begin as the others end" in one]


def words_of(rng, count):
    return [
        "".join(rng.choice(("ba", "ke", "lo", "mi", "ru", "ton")) for _ in range(4))
        for _ in range(count)
    ]


def topics(rng):
    """An answer of two halves about the same things, and one of two about others."""
    topic, other = words_of(rng, 30), words_of(rng, 30)
    halves = [" ".join(rng.sample(topic, 28)) for _ in range(2)]
    return f"{halves[0]}.\n{halves[1]}.", f"{halves[0]}.\n{' '.join(rng.sample(other, 28))}."


def test_answers_about_two_things_are_named():
    rng = Random(7)
    made = [topics(rng) for _ in range(200)]
    # What is said in one text alone tells nothing of it: each is said by another one as well.
    told = [["Why?", one[n % 10 == 0]] for n, one in enumerate(made)] * 2
    found = sentences(told)
    assert [one for one in found if "are about one thing in their first half" in one], found
    sound = sentences([["Why?", one] for one, _ in made] * 2)
    assert not [one for one in sound if "first half" in one]


def talks(late):
    rng = Random(8)
    rows = []
    for row in range(120):
        topic = [words_of(rng, 6) for _ in range(3)]
        asked = [f"What about {' '.join(words)}?" for words in topic]
        said = [capital(f"{' '.join(words)} {prose(rng, 1)}") for words in topic]
        before, last = (said[0], said[1]) if late and row % 3 == 0 else (said[1], said[2])
        rows.append([row, asked[2], last, asked[1], asked[0], before])
    names = ["row", "question", "answer", "before", "earlier", "replied"]
    return pl.DataFrame(rows, schema=names, orient="row")


def test_answers_that_came_a_question_too_late_are_named():
    assert lagging(talks(late=False)) == []
    (alarm,) = lagging(talks(late=True))
    assert "fit the question before their own" in alarm.sentence
    assert 0.1 < alarm.value <= 1 / 3


def test_who_asks_to_try_again_is_answered_twice():
    again = talks(late=True).with_columns(replied=pl.col("answer"))
    assert lagging(again) == []


def test_a_picture_in_base64_has_no_words():
    rng = Random(9)

    def picture():
        return "".join(rng.choice("abcdefgHIJKLMNO0123456789+/") for _ in range(400))

    made = [
        [q, f"{a}\n![chart](data:image/png;base64,{picture()}) {picture()}" if n % 4 == 0 else a]
        for n, (q, a) in enumerate(varied())
    ]
    assert sentences(made) == []


def test_of_two_that_are_as_frequent_always_the_same_is_first():
    for values in (["b", "a", "c", "a", "b", None], ["a", "b", "b", "c", "a"]):
        assert frequencies(pl.Series("x", values), 1)["x"].to_list() == ["a"]
    assert frequencies(pl.Series("x", values), 2).rows() == [("a", 2), ("b", 2)]
    assert frequencies(pl.Series("x", [None], dtype=pl.String), 3).is_empty()
