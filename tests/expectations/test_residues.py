"""What texts carry along from where they were is named as a mass; ordinary ways of writing are not."""

import re
from random import Random
from textwrap import fill

import polars as pl
import pytest

from expectations.data.profile.residues import RESIDUES, residues
from tests.corpus.text import prose
from tests.expectations.test_profile import looked, pairs

NEWS = "Subscribe to our newsletter today to continue reading this long article."
STOPS = {"the", "a", "of", "to", "and", "is", "it", "in", "that", "for", "with", "you", "as"}


def varied(count=200, seed=0):
    """Pairs of many different words, in several lines."""
    rng = Random(seed)
    return [[f"{prose(rng, 1)} Why?", f"{prose(rng, 3)}\n{prose(rng, 2)}"] for _ in range(count)]


def some(change, share=0.25):
    def changed(made):
        rng = Random(3)
        return [change(q, a) if rng.random() < share else [q, a] for q, a in made]

    return changed


def of_answers(change, share=0.25):
    return some(lambda q, a: [q, change(a)], share)


def hyphened(text):
    return re.sub(r"(\w{3})(\w{3,}) ", r"\1-\n\2 ", text)


def in_the_middle(text):
    words = text.split(" ")
    return " ".join([*words[: len(words) // 2], NEWS, *words[len(words) // 2 :]])


def headed(text):
    name = ("zed", "mara_h", "Quill55")[len(text) % 3]
    return f"{name} wrote on {len(text) % 28} Mar 2019, {len(text) % 24}:12:\n{text}"


def in_order(text):
    words = text.replace("\n", " ").split(" ")
    return "\n".join(sorted(" ".join(words[n : n + 4]).capitalize() for n in range(0, 36, 4)))


def numbered(text):
    return "\n".join(f"{n} {line}" for n, line in enumerate(text.split("\n"), 1))


BAD = {
    "have numbers as a spreadsheet": of_answers(
        lambda a: f"{a} From 1.20E+03 to {len(a):.2E} of them."
    ),
    "begin within a sentence": of_answers(lambda a: a[a.index(" ") + 1 :]),
    "hold letters that a PDF draws": of_answers(lambda a: f"{a} The \ufb01le is \ufb02at.", 0.1),
    "break words with hyphens": of_answers(hyphened, 0.1),
    "have digits within their words": of_answers(lambda a: a.replace("l", "1").replace("o", "0")),
    "have # or X where numbers were": of_answers(lambda a: f"{a} Call ##### at XXXX."),
    "hold marks in the place": of_answers(lambda a: f"{a} [NAME] of [LOCATION] told <PERSON_1>."),
    "run sentences together": of_answers(lambda a: a.replace(". ", ".").replace("\n", "")),
    "stand between tags": of_answers(lambda a: f"<answer>{a}</answer>", 0.1),
    "begin with a date": of_answers(lambda a: f"[2023-05-0{len(a) % 9} 12:00:07] {a}", 0.1),
    "end with figures of a page": of_answers(lambda a: f"{a}\nRating: {len(a) % 5}/5 | Votes: 7"),
    "have accents as TeX writes": of_answers(lambda a: a.replace("e", "\\'e"), 0.1),
    "are full of emoji": of_answers(lambda a: a + "🔥🎉👍" * 3),
    "refer to notes": of_answers(lambda a: re.sub(r"(\w)\.", r"\1[3].", a)),
    "are quoted as in a mail": of_answers(lambda a: "> " + a.replace("\n", "\n> "), 0.1),
    "have spaces before commas": of_answers(lambda a: a.replace(".", " .").replace(",", " ,")),
    "have numbers of lines": of_answers(numbered, 0.1),
    "run words together": of_answers(lambda a: a.replace(" ", ""), 0.1),
    "have other spaces": of_answers(lambda a: a.replace(" ", "\u00a0"), 0.1),
    "have question marks within words": of_answers(lambda a: f"{a} It doesn?t, and he can?t.", 0.1),
    "begin with a line of marks": of_answers(lambda a: f"---\ntitle: {a[:9]}\n---\n{a}", 0.1),
    "stand between quotation marks": of_answers(lambda a: f'"{a}"', 0.1),
    "have a line of JSON beside": of_answers(
        lambda a: f'{{"name": "find", "arguments": {{"words": "{a[:9]}"}}}}\n{a}', 0.1
    ),
    "are a single word or number": of_answers(
        lambda a: f"faq.answer_{len(a)}.{a[:4].strip()}", 0.1
    ),
    "have lines of values": of_answers(lambda a: f"{a}\nYear,Rows\n2001,{len(a)}\n2002,12", 0.1),
    "hold lines of one form": of_answers(
        lambda a: "\n".join(
            f"00:0{n},{len(a)} to 00:0{n + 1}\n{line}" for n, line in enumerate(a.split(". "), 1)
        ),
        0.12,
    ),
    "say one and the same number": of_answers(lambda a: f"{a} It is of 1970-01-01.", 0.1),
    "name years that are all": of_answers(lambda a: f"{a} It began in {2050 + len(a) % 40}.", 0.1),
    "have commands of formulas": of_answers(lambda a: f"{a} So x = frac{{{len(a)}}}{{2}}.", 0.1),
    "begin with a mark in brackets": of_answers(lambda a: f"<@{a[:3].strip()}{len(a)}> {a}", 0.12),
    "have tables without their bars": of_answers(lambda a: f"{a}\nYear, Rows\n---, ---\n1, 2", 0.1),
    "hold the marks of a comparison": of_answers(
        lambda a: re.sub(r"\b(\w{5})\b", r"[-\1-]{+\1+}", a)
    ),
    "have digits in the place": of_answers(lambda a: re.sub(r"\b(\w{2})l(\w+)", r"\g<1>1\2", a)),
    "hold remarks in brackets": of_answers(lambda a: a.replace(". ", ". [MK: is this so?] ", 1)),
    "have dates as a spreadsheet": of_answers(lambda a: f"{a} It takes {len(a) % 9 + 1}-Mar days."),
    "end with a label and one word": of_answers(lambda a: f"{a}\nVerdict: {'AB'[len(a) % 2]}"),
    "begin with one line but for": of_answers(headed, 0.12),
    "end with one line but for": of_answers(lambda a: f"{a}\nTruth: {len(a) % 5}/5, style: 3/5"),
    "begin with one label but for": of_answers(lambda a: f"Model {'AB'[len(a) % 2]}: {a}"),
    "have their lines in the order": of_answers(in_order, 0.12),
    "break their lines within": of_answers(lambda a: fill(a, 40), 0.12),
    "say the same eight words": of_answers(in_the_middle, 0.12),
    "say most words twice": of_answers(lambda a: " ".join(f"{w} {w}" for w in a.split()), 0.1),
    "have lost vowels": of_answers(lambda a: re.sub("[aeiou]", "", a), 0.1),
    "have one and the same question": some(lambda _, a: ["continue", a]),
    "stand in their question": some(lambda q, a: [f"{q}\n{a}", a]),
}


def sentences(made, told=lambda *_: False):
    frame = pl.DataFrame(made, schema=["question", "answer"], orient="row").with_row_index("row")
    frame = frame.with_columns(
        before=pl.lit(None, pl.String),
        replied=pl.lit(None, pl.String),
        opening="question",
        system=pl.lit(""),
    )
    return [alarm.sentence for alarm in residues(frame).alarms(told)]


@pytest.mark.parametrize("words", BAD)
def test_a_residue_is_named(words):
    made = varied()
    assert sentences(made) == []
    found = sentences(BAD[words](made))
    assert [sentence for sentence in found if words in sentence], found


def test_answers_without_the_words_of_all_others_are_named():
    rng = Random(5)

    def word():
        return "".join(rng.choice(("ba", "ke", "lo", "mi", "ru", "ton")) for _ in range(5))

    def said(few):
        frame = "{0} {1} {2} {3}" if few else "the {0} of a {1} is to {2} and {3}"
        return " ".join(frame.format(word(), word(), word(), word()) for _ in range(8))

    made = [[f"{prose(rng, 1)}?", said(number % 6 == 0)] for number in range(200)]
    found = sentences(made)
    assert [one for one in found if "lack the words that all others are made of" in one], found


def test_every_pattern_has_a_case():
    assert not [one.words for one in RESIDUES if not any(one.words.startswith(w) for w in BAD)]


def test_lists_prices_and_single_numbers_are_no_shape_of_a_tool():
    made = varied()
    for change in (
        lambda a: f"{a}\n10. It costs {len(a)}.",
        lambda a: f"{a}\n{len(a)} + 2 = {len(a) + 2}",
        lambda a: f"{a}\n" + "\n".join(f"{len(a) + n:x}f{n}" for n in range(9)),
        lambda a: f"Answer: {a}",
        lambda a: "\n".join(f"{n}. {w}" for n, w in enumerate(a.split()[:9], 1)),
    ):
        assert sentences(of_answers(change)(made)) == []


def test_what_the_question_tells_and_what_nearly_all_do_is_a_way_of_writing():
    made = varied()
    assert sentences(BAD["are full of emoji"](made), told=lambda _: True) == []
    assert sentences(of_answers(lambda a: f"<answer>{a}</answer>", 1)(made)) == []
    assert sentences([["Continue.", a] for _, a in made]) == []


def test_answers_from_templates_say_the_same_words_on_purpose():
    assert sentences(pairs(400, 4)) == []


def test_answers_of_which_no_two_have_one_length_were_told_apart_by_it(tmp_path):
    made = varied(900)
    assert looked(tmp_path, made).alarms == []
    by_length = {len(answer): [question, answer] for question, answer in made}
    assert len(by_length) > 100
    (alarm,) = looked(tmp_path, [*by_length.values()]).alarms
    assert "have each another length" in alarm.sentence


def test_a_few_answers_given_again_and_again_are_named(tmp_path):
    made, replies = pairs(), ("Pong!", "I am here.", "Your message came through.", "Hello, you.")
    for n in range(0, 240, 10):
        made[n] = [f"test {n}", replies[n // 10 % 4]]
    sentences_of = [alarm.sentence for alarm in looked(tmp_path, made).alarms]
    assert [one for one in sentences_of if "given again and again" in one], sentences_of


def test_the_survey_looks_for_residues(tmp_path):
    alarms = looked(tmp_path, BAD["say the same eight words"](pairs())).alarms
    # Of templates, a sentence that many say is no other's.
    assert not [alarm for alarm in alarms if "eight words" in alarm.sentence]
    (alarm,) = looked(tmp_path, BAD["stand between tags"](pairs())).alarms
    assert "stand between tags" in alarm.sentence
    assert "e.g. row" in alarm.sentence
