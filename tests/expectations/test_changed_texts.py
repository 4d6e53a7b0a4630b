"""What changes a text without a word of its own: letters and spaces lost, another locale, a cut, a
template around the questions, an answer that is there again."""

import re
from random import Random

import polars as pl
import pytest

from expectations.data.profile.residues import residues
from tests.corpus.text import prose
from tests.expectations.test_profile import looked
from tests.expectations.test_properties import some, varied

HEADER = "### Context\nThe customer writes in the chat of the shop.\n### Task\n"


def sentences(made, by_source=lambda *_: False):
    """Alarms of triples: question, answer, and the answer before in the conversation."""
    names = ["question", "answer", "replied"]
    schema = dict.fromkeys(names, pl.String)
    frame = pl.DataFrame(made, schema=schema, orient="row").with_row_index("row")
    frame = frame.with_columns(
        opening="question", before=pl.lit(None, pl.String), system=pl.lit("")
    )
    return [alarm.sentence for alarm in residues(frame, by_source).alarms(lambda *_: False)]


def measured(count=360):
    """Pairs of which every answer says some numbers and contractions."""
    rng = Random(2)
    return [
        [q, f"{a}\nIt weighs {rng.randrange(1, 90)}.5 kg in {rng.randrange(4)} of 70 cases.", None]
        for q, a in varied(count)
    ]


def of_answers(change, share=0.1):
    changed = some(lambda q, a, rng: [q, change(a, rng)], share)
    return lambda made: [[*pair, None] for pair in changed([row[:2] for row in made])]


def joined(text, rng):
    return re.sub(r"(?<=[a-z]) (?=[a-z])", lambda _: "" if rng.random() < 0.3 else " ", text)


def misspelt(text, rng):
    def changed(match):
        word, at = match[0], rng.randrange(len(match[0]) - 3)
        letter = rng.choice(("", "u", "x", word[at] * 2))
        return word[:at] + letter + word[at + 1 :] if rng.random() < 0.3 else word

    return re.sub(r"[a-z]{5,}", changed, text)


def with_comma(text, _rng):
    return re.sub(r"(\d)\.(\d)", r"\1,\2", text)


CHANGES = {
    "run a common word and another one together": joined,
    "have letters lost or changed": misspelt,
    "write numbers with a comma": with_comma,
    'have ".0" behind whole numbers': lambda a, _: f"{a} In 1998.0 they sold 12.0 and 7.0 of it.",
}


@pytest.mark.parametrize("words", CHANGES)
def test_what_changes_texts_is_named(words):
    made = measured()
    assert sentences(made) == []
    found = sentences(of_answers(CHANGES[words])(made))
    assert [sentence for sentence in found if words in sentence], found


def test_another_locale_is_a_way_of_writing_where_most_write_so():
    found = sentences(of_answers(with_comma, 0.65)(measured()))
    assert not [sentence for sentence in found if "with a comma" in sentence]


def test_numbers_with_tenths_are_measured():
    made = [[q, f"{a} Of these, 3.0 m and 4.0 m, 2.5 m and 7.1 m.", None] for q, a, _ in measured()]
    assert not [sentence for sentence in sentences(made) if '".0"' in sentence]


def test_words_without_an_apostrophe_are_words_beside_ones_that_have_it():
    """Whoever writes "she'll" did not lose it in "shell"."""
    made = [[q, f"{a} Perhaps she'll know, as the shell does.", None] for q, a in varied()]
    for row in made[40:]:
        row[1] = row[1].replace("she'll", "she").replace("shell", "sea")
    assert not [one for one in sentences(made) if "apostrophe" in one]


def test_an_edge_in_the_lengths_is_named():
    rng = Random(4)

    def answer():
        return prose(rng, rng.randrange(3, 40)).split(" ")

    made = [[f"{prose(rng, 1)}?", " ".join(answer()), None] for _ in range(500)]
    assert not [one for one in sentences(made) if "stop just below" in one]
    for row in made[::3]:
        whole = row[1].split(" ")[:90]
        row[1] = " ".join(whole)[: " ".join(whole).rindex(".") + 1]
    (found,) = [one for one in sentences(made) if "stop just below" in one]
    assert re.search(r"just below (?:8\d|9\d) words", found), found


def test_an_answer_that_is_there_again_in_its_conversation_is_named():
    made = [[q, a, f"{a} Anything else?"] for q, a in varied()]
    assert sentences(made) == []
    repeated = [[q, a, a if n % 12 == 0 else before] for n, (q, a, before) in enumerate(made)]
    assert [one for one in sentences(repeated) if "repeat the answer before" in one]


def test_a_template_around_a_part_of_the_questions_is_named():
    made = [[q, a, None] for q, a in varied()]
    template = [[f"{HEADER}{q}", a, b] for q, a, b in made]
    mixed = [template[n] if n % 5 == 0 else row for n, row in enumerate(made)]
    (found,) = sentences(mixed)
    assert "have a first question that says the same eight words" in found
    assert "from one row on" not in found
    (late,) = sentences(made[:270] + template[270:])
    assert "all from one row on" in late
    assert sentences(template) == []
    assert sentences(mixed, by_source=lambda group: True) == []


def test_a_row_joined_with_another_ones_answer_is_named(tmp_path):
    def about(rng):
        name, other = (
            "".join(rng.choice("bdfgklmnprst") + rng.choice("aeiou") for _ in range(4))
            for _ in range(2)
        )
        return [f"Who built the {name} of {other}?", f"The {name} of {other}: {prose(rng, 2)}"]

    rng = Random(6)
    made = [about(rng) for _ in range(300)]
    # Two answers to one question are no fault.
    twice = [*made, *([q, f"{a} {prose(rng, 1)}"] for q, a in made[:40])]
    words = "say nothing of their question, which another row answers"
    assert not [a for a in looked(tmp_path, twice).alarms if words in a.sentence]
    joined_rows = [*made, *([made[n][0], made[n + 100][1]] for n in range(40))]
    rng.shuffle(joined_rows)
    found = [a.sentence for a in looked(tmp_path, joined_rows).alarms]
    assert [one for one in found if words in one], found
