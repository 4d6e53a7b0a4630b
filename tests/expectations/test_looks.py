"""What is put into answers, left below them or lost from them is named; what a company's own data,
letters and tables have in common is not."""

from random import Random

import polars as pl
import pytest

from expectations.data.profile.joined import joined
from expectations.data.profile.names import names
from expectations.data.profile.residues import residues
from expectations.data.profile.talks import talks
from tests.corpus.bad_looks import BACK, LOOKS
from tests.corpus.text import prose, sound
from tests.expectations.test_profile import looked
from tests.expectations.test_residues import of_answers, sentences, varied

NAMED = {
    "some_answers_ask_back": "hardly anything but a few sentences that others say",
    "an_advert_in_answers": "bring up 'Zorblax'",
    "errors_of_a_spreadsheet_for_articles": "'#VALUE!'",
    "objects_printed_into_answers": "'[object Object]' again and again",
    "y_and_z_exchanged": "the letter 'z' in the place of 'y'",
    "articles_lost": "hardly ever say 'the' or 'a'",
    "a_word_put_behind_common_ones": "say 'hardly' behind each of some common words",
    "marks_of_a_rater_left": "end with a mark",
    "signatures_left": "end with short lines that are no sentence",
    "offers_for_answers": "hardly anything but a few sentences that others say",
    "mails_quoted_below": "hold their question word by word",
    "pieces_that_overlap": "say a part of their text twice in a row",
    "words_without_endings": "words that end otherwise",
    "cut_with_a_count_of_the_rest": "same words and marks around a number",
    "announced_and_not_there": "announcing what does not come",
    "numbers_of_a_spreadsheet": "numbers as a spreadsheet writes them",
    "code_not_indented": "blocks are not indented",
    "notes_of_a_wiki_behind_sentences": "refer to notes",
}


def last_pairs(rows):
    return [[turn["value"] for turn in row["conversations"][-2:]] for row in rows]


@pytest.mark.parametrize("name", LOOKS)
def test_a_look_is_named(name, tmp_path):
    alarms = looked(tmp_path, last_pairs(LOOKS[name](Random(name)))).alarms
    found = [alarm.sentence for alarm in alarms]
    assert [sentence for sentence in found if NAMED[name] in sentence], found


def test_sound_rows_have_no_look(tmp_path):
    assert looked(tmp_path, last_pairs(sound(Random(1)))).alarms == []


def test_a_company_is_named_in_its_own_data_in_many_words():
    rng = Random(5)
    made = of_answers(lambda a: a.replace(" the ", " Zorblax ", rng.randint(1, 3)))(varied(400))
    assert not [sentence for sentence in sentences(made) if "bring up" in sentence]


def test_who_is_told_to_speak_for_a_product_does(tmp_path):
    rows = LOOKS["an_advert_in_answers"](Random(1))
    prompt = "You sell Zorblax and bring it up."
    alarms = looked(tmp_path, last_pairs(rows), prompt).alarms
    assert not [alarm for alarm in alarms if "bring up" in alarm.sentence]


def test_where_all_comes_from_templates_a_few_sentences_are_the_way(tmp_path):
    rng = Random(2)
    made = [[q, rng.choice(BACK).format(q.split()[-2])] for q, _ in varied(300)]
    found = [alarm.sentence for alarm in looked(tmp_path, made).alarms]
    assert not [sentence for sentence in found if "hardly anything but" in sentence]


def test_names_in_brackets_are_left_for_who_sends_a_letter():
    made = of_answers(lambda a: f"Dear [Your Name], {a}\nI am [Your Name] of [Your Company]")
    found = sentences(made(varied()))
    assert not [sentence for sentence in found if "again and again" in sentence]


def about(rng, subject):
    words = [subject + ending for ending in ("ade", "ier", "oon", "ist", "ule", "ork")]
    return f"{' '.join(rng.sample(words, 4))} {' '.join(prose(rng, 3).split()[:16])}"


def led(share):
    """Conversations of three questions, of which a share is about something else in the end."""
    rng, rows = Random(7), []
    for row in range(400):
        first, other = ("".join(rng.choices("bdfgklmnprstvz", k=4)) for _ in range(2))
        end = other if rng.random() < share else first
        names = {"opening": first, "earlier": first, "before": first, "replied": first}
        texts = {name: about(rng, subject) for name, subject in names.items()}
        ends = {"question": about(rng, end), "answer": about(rng, end)}
        rows.append({"row": row, **texts, **ends})
    return pl.DataFrame(rows)


def test_conversations_that_are_two_are_named():
    assert joined(talks(led(0.02))) == []
    (alarm,) = joined(talks(led(0.15)))
    assert "end about something else" in alarm.sentence
    assert alarm.value == pytest.approx(0.1, abs=0.05)
    assert joined(talks(led(0.15).head(40))) == []


def test_among_those_with_code_the_question_does_not_tell_which_is_flat():
    frame = pl.DataFrame(
        last_pairs(LOOKS["code_not_indented"](Random(3))), ["question", "answer"], orient="row"
    )
    none = pl.lit(None, pl.String)
    frame = frame.with_row_index("row").with_columns(
        before=none, replied=none, system=none, opening="question"
    )
    asked = []

    def told(group, among=None):
        asked.append(among)
        return among is None

    found = [alarm.sentence for alarm in residues(frame).alarms(told)]
    assert [sentence for sentence in found if "not indented" in sentence], found
    assert any(among is not None and among.sum() == 120 for among in asked)


def test_in_german_a_capital_is_no_name():
    """A farewell in an eighth of the answers."""
    said = (
        "Die Lieferung der Ware dauert etwa drei Tage, und die Rechnung liegt dem Paket bei.",
        "Für den Antrag brauchen Sie einen Ausweis, eine Meldung und das Formular aus dem Amt.",
        "Der Zug nach Bremen fährt am Abend, die Karte kaufen Sie am Schalter oder im Netz.",
    )
    farewell = " Bei weiteren Fragen stehe ich gerne zur Verfügung."
    prose = [f"{said[n % 3]} Nummer {n}.{farewell if n % 8 == 0 else ''}" for n in range(400)]
    questions = [f"Wie geht das {n}?" for n in range(400)]
    columns = {"system": [""] * 400, "question": questions, "prose": prose}
    words, *_ = names(pl.DataFrame(columns))
    assert words == ""
