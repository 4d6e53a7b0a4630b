"""Short answers in another language are found; names, code and words of many languages are not."""

import pytest

from expectations.data.profile.languages import is_foreign
from expectations.data.profile.short_texts import WORDS, is_other

ENGLISH = "How do I look after the wooden floor of my house when it has deep scratches?"


@pytest.mark.parametrize(
    "answer",
    [
        *("Ja, gerne.", "Nein, leider nicht.", "Das weiß ich nicht.", "Vielleicht morgen."),
        *("Oui, bien sûr.", "Je ne sais pas.", "Avec plaisir, merci.", "Ça dépend du temps."),
        *("Sí, claro.", "Quizás mañana.", "No hace falta.", "Depende del tiempo."),
        *(
            "Sì, certo.",
            "Non lo so.",
            "Claro que sim.",
            "Não sei.",
            "Ja, natuurlijk.",
            "Ik weet het niet.",
        ),
    ],
)
def test_a_short_answer_in_another_language_is_found(answer):
    assert is_foreign(f"{ENGLISH}\n{answer}", (ENGLISH, answer), ("en",))


def test_a_short_talk_is_judged_by_all_of_it():
    assert is_foreign("Wie geht das?\nJa.", ("Wie geht das?", "Ja."), ("en",))
    assert not is_foreign(
        "Wie geht das?\nJa, gerne.", ("Wie geht das?", "Ja, gerne."), ("de", "en")
    )
    assert is_foreign(
        "Wie geht das?\nYes, of course.", ("Wie geht das?", "Yes, of course."), ("de",)
    )


@pytest.mark.parametrize(
    "answer",
    [
        *(
            "OK",
            "Berlin",
            "No.",
            "print(x)",
            "La Paz",
            "Los Angeles",
            "42",
            "Maria",
            "x = 1",
            "Yes, sure.",
        ),
        *(
            "Die Hard",
            "Rio de la Plata",
            "Crème de la crème",
            "No, me.",
            "Mercedes-Benz",
            "C'est",
            "A.",
            "",
        ),
        *(
            "Son, come on in.",
            "In the sea.",
            "Las Vegas, NV",
            "SELECT a FROM b",
            "Van Gogh",
            "Not at all.",
        ),
        *(
            "Do as I do.",
            "i, j, k",
            "a b c d e",
            "in, on, over",
            "es-ES, de-DE, fr-FR",
            "So is he.",
        ),
        *(
            "No, no, no!",
            "Mi casa",
            "El Paso",
            "an, in, der",
            "Le Monde",
            "up, on, to, in",
            "Est. 1990",
        ),
    ],
)
def test_names_code_and_english_are_not(answer):
    assert not is_foreign(f"{ENGLISH}\n{answer}", (ENGLISH, answer), ("en",))


def test_a_language_whose_words_are_not_known_is_not_judged_by_words():
    assert not is_other("Sí, claro.", {"ca"})
    assert not is_other("Sí, claro.", {"en", "ca"})


def test_the_words_are_lower_case_and_of_letters():
    assert all(
        word == word.lower() and word.isalpha() for line in WORDS.values() for word in line.split()
    )
