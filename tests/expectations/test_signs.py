"""What was taken out, broken, shifted or asked by a template is named by how it looks, with no list of
words."""

import re
from random import Random

import polars as pl
import pytest

from expectations.data.profile.bags import bags
from expectations.data.profile.elsewhere import elsewhere, silent
from expectations.data.profile.residues import residues
from expectations.data.profile.talks import out_of_place
from expectations.data.profile.talks import talks as last_turns
from tests.corpus.text import capital, foreign, prose
from tests.expectations.test_profile import looked
from tests.expectations.test_residues import of_answers, sentences, some, varied

CODE = "x = {n}\ny = [x]\nprint(x, y)\nreturn y\nz = x"
GERMAN = (
    "Es ist wichtig, dass die neue Lampe {n} Mal in die Fassung geschraubt wird und nicht wackelt."
)


def fenced(code):
    return f"\n```\n{code}\n```"


def with_marks(text):
    return text + fenced("\n".join(f"+{line}" for line in CODE.format(n=len(text)).split("\n")))


def twice(text):
    lines = [f"{n}. {line}" for n, line in enumerate(re.split(r"(?<=[.]) ", text) * 4, 1)]
    return "\n".join(lines)


def introduced(text):
    return f"{('Here is a version of it.', 'This is what we have now.')[len(text) % 2]} {text}"


def parted(text):
    return re.sub(r"\b(\w{4})(\w{3,})\b", r"\1 \2", text)


def slotted(question, _answer):
    noun, buyer = question.split()[2], question.split()[-2]
    ask = f"Write some words about a {noun} for the {buyer}."
    return [ask, f"Our {noun} is the best that money can buy, so {buyer} will love the {noun}."]


BAD = {
    "have gaps from which": of_answers(lambda a: re.sub(r" \w+ (\w+) ", r"  \1 ", a)),
    "have quotation marks around nothing": of_answers(lambda a: f'{a} It is called "" here.'),
    "have code of which something": of_answers(lambda a: f"{a} Take the `` tag.", 0.1),
    "have code with marks before": of_answers(with_marks, 0.1),
    "say the same sentences or lines": of_answers(twice),
    "begin with one of a few sentences": of_answers(introduced),
    "are short and end with one of a few": of_answers(
        lambda a: f"Not {a[:9].lower()}, dear. Let us talk of something else instead."
    ),
    "are a single sentence": of_answers(lambda a: re.split(r"(?<=[.]) ", a)[0]),
    "begin nearly each word with a capital": of_answers(lambda a: a.title(), 0.1),
    "have lost the letters that a font": of_answers(
        lambda a: re.sub("ffi|ffl|ff|fi|fl", "", f"{a} The office finds flowers."), 0.1
    ),
    "have words in two halves": of_answers(parted, 0.1),
    "begin with one label but for its number": of_answers(lambda a: f"SPEAKER_0{len(a) % 3}: {a}"),
    "come from one template": some(slotted),
    "answer a few words that are those of many": some(
        lambda q, a: [f"{('Open', 'Closed', 'Odd')[len(q) % 3]} / {('A', 'B')[len(a) % 2]}", a]
    ),
    "break their lines within sentences": of_answers(
        # Three times is enough, where a list has as many breaks of its own.
        lambda a: re.sub(r"((?:\w+ ){9}\w+) (?=[a-z])", r"\1\n", a.replace("\n", " ")),
        0.15,
    ),
}


@pytest.mark.parametrize("words", BAD)
def test_a_sign_is_named(words):
    made = varied()
    if "font" in words:  # the others have the words whole
        whole = " The office finds flowers."
        made = [[q, a + whole * (n % 3 == 0)] for n, (q, a) in enumerate(made)]
    assert sentences(made) == []
    found = sentences(BAD[words](made))
    assert [sentence for sentence in found if words in sentence], found


def conversations(change):
    """Pairs with one before them, a third of which `change` spoils."""
    rng, rows = Random(4), []
    for row, (question, answer) in enumerate(varied(240)):
        first, reply = f"{prose(rng, 2)} Why?", prose(rng, 3)
        line = {"row": row, "question": question, "answer": answer}
        line |= {"before": first, "replied": reply, "opening": first, "system": ""}
        rows.append(change(line) if row % 3 == 0 else line)
    return pl.DataFrame(rows)


def retried(line):
    answer = line["replied"].replace("the", "this", 2) + " So."
    return {**line, "question": line["before"].upper().rstrip("?"), "answer": answer}


def continued(line):
    return {**line, "question": line["before"]}


def in_german(line):
    return {**line, "opening": GERMAN.format(n=line["row"] + 2)}


@pytest.mark.parametrize(
    ("change", "words"),
    [(retried, "once more, nearly as before"), (in_german, "begins in another")],
)
def test_what_a_conversation_does_is_named(change, words):
    assert residues(conversations(dict)).alarms(lambda *_: False) == []
    found = [alarm.sentence for alarm in residues(conversations(change)).alarms(lambda *_: False)]
    assert [sentence for sentence in found if words in sentence], found


def test_who_says_continue_gets_another_answer_and_a_german_is_answered_in_german():
    assert residues(conversations(continued)).alarms(lambda *_: False) == []
    rng = Random(2)
    german = conversations(
        lambda line: {
            **in_german(line),
            "question": GERMAN.format(n=3),
            "answer": foreign("de", rng),
        }
    )
    found = [alarm.sentence for alarm in residues(german).alarms(lambda *_: False)]
    assert not [sentence for sentence in found if "begins in another" in sentence], found


def topic(rng, words=6):
    letters = ("ba", "ke", "lo", "mi", "ru", "ton", "sa", "vi")
    return ["".join(rng.choice(letters) for _ in range(4)) for _ in range(words)]


def asked_and_told(count, rng):
    """Pairs of a topic each."""
    made = []
    for row in range(count):
        words = topic(rng, 14)
        asked = f"{prose(rng, 1)} What is {' '.join(words[:6])}?"
        told = f"{' '.join(words)} {prose(rng, 1)}"
        made.append({"row": row, "question": asked, "answer": told, "before": None})
    return pl.DataFrame(made, schema_overrides={"before": pl.String})


def moved(frame, every, others):
    """Give every so many rows the answer of `others`."""
    place = pl.int_range(pl.len())
    return frame.with_columns(answer=pl.when(place % every == 0).then(others).otherwise("answer"))


def test_answers_of_other_rows_are_named_wherever_these_are():
    sound = asked_and_told(300, Random(1))
    rows = sound["row"].to_numpy()
    assert elsewhere(rows, bags(sound)) == []
    bad = moved(sound, 10, sound["answer"].shift(-120).fill_null(sound["answer"][0]))
    (alarm,) = elsewhere(rows, bags(bad))
    assert alarm.expectation == "shuffled_pairs"
    assert "fit that of another row" in alarm.sentence
    assert alarm.value == pytest.approx(0.1, abs=0.02)


def test_answers_of_another_dataset_say_nothing_of_the_only_question():
    sound, other = asked_and_told(300, Random(1)), asked_and_told(300, Random(2))
    assert silent(sound, bags(sound), lambda *_: False) == []
    bad = moved(sound, 6, other["answer"])
    (alarm,) = silent(bad, bags(bad), lambda *_: False)
    assert "say nothing of it" in alarm.sentence
    assert silent(bad, bags(bad), lambda _: True) == []


def talks(swapped):
    rng, rows = Random(8), []
    for row in range(200):
        topics = [topic(rng, 14) for _ in range(3)]
        asked = [f"What about {' '.join(words[:6])}?" for words in topics]
        said = [capital(f"{' '.join(words)} {prose(rng, 1)}") for words in topics]
        last, before = (said[1], said[2]) if swapped and row % 8 == 0 else (said[2], said[1])
        rows.append([row, asked[2], last, asked[1], asked[0], before, asked[0]])
    names = ["row", "question", "answer", "before", "earlier", "replied", "opening"]
    return pl.DataFrame(rows, schema=names, orient="row")


def test_answers_that_changed_places_within_a_conversation_are_named():
    assert out_of_place(last_turns(talks(swapped=False))) == []
    (alarm,) = out_of_place(last_turns(talks(swapped=True)))
    assert "fit another question of theirs" in alarm.sentence
    assert alarm.value == pytest.approx(1 / 8)


def test_the_survey_looks_for_answers_of_other_rows(tmp_path):
    sound = asked_and_told(300, Random(1)).select("question", "answer").rows()
    assert "shuffled_pairs" not in [alarm.expectation for alarm in looked(tmp_path, sound).alarms]
    answers = [answer for _, answer in sound]
    bad = [[q, answers[(n + 160) % 300] if n % 20 == 0 else a] for n, (q, a) in enumerate(sound)]
    assert "shuffled_pairs" in [alarm.expectation for alarm in looked(tmp_path, bad).alarms]
