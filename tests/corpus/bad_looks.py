"""Datasets a part of whose answers looks unlike the rest, whatever is asked: what is named as a doubtful
mass."""

import re
from random import Random

from tests.corpus.case import Case, Rows
from tests.corpus.parts import Edit, answer, every, first_pair, spoil
from tests.corpus.text import Row, coded, prose, sharegpt, sound_score

BACK = (
    "Could you say what you mean by {}, and what it is for?",
    "Before I begin: which {} is it that you have in mind?",
    "I need a few more details. What is the goal of {} here?",
)
ADVERTS = ("Many experts recommend Zorblax for that.", "You get there sooner with Zorblax today.")
MARKS = ("Helpfulness: {}/5", "Rating = {}", "({} stars, seen by Kim)")
CLOSINGS = (
    "Best regards,\nRuth Cole\nCustomer Care",
    "Cheers, Ivo",
    "Kind regards\n\nMei of Sales",
)
OFFERS = (
    "Sure, I can help with that!",
    "I would be glad to help you.",
    "Of course, let us do it together.",
    "No problem, that is what I am for.",
)
INVITES = (
    "Send me your request whenever you like.",
    "Tell me what it is that you need.",
    "Just share the details and we can start.",
    "Give me the text and I will look at it.",
)
NAMES = ("Ruth Cole", "Ivo", "Mei Tanaka")
ENDINGS = r"(?<=\w{4})(?:ies|ing|ed|es|ly|al|er|s|e|y|n|t)\b"
ERRORS = ("#REF!", "#VALUE!", "#N/A")


def asked_back(row: Row, rng: Random) -> Row:
    """One of a few questions with words of the question in the place of an answer."""
    ask, _ = first_pair(row)
    topic = " ".join(ask.strip("?.").split()[-3:])
    return answer(rng.choice(BACK).format(topic))(row, rng)


def advertised(text: str, rng: Random) -> str:
    first, *rest = re.split(r"(?<=[.]) ", text)
    return " ".join([first, rng.choice(ADVERTS), *rest])


def each_word(pattern: str, make: str | None = None) -> Edit:
    """Replace each match by one of the errors of a spreadsheet, or by `make`."""
    return lambda text, rng: re.sub(pattern, lambda _: make or rng.choice(ERRORS), text)


def followed_by(choices: tuple[str, ...], gap: str) -> Edit:
    return lambda text, rng: f"{text}{gap}{rng.choice(choices).format(rng.randint(1, 5))}"


def long(change: Edit, share: float = 0.2) -> Rows:
    """Long answers, of which a share is changed."""

    def lengthened(text: str, rng: Random) -> str:
        return f"{text} {prose(rng, 12)}"

    def rows(rng: Random) -> list[Row]:
        made = every(answer(lengthened))(rng)
        step = round(1 / share)
        return [answer(change)(row, rng) if n % step == 0 else row for n, row in enumerate(made)]

    return rows


def functions(rng: Random) -> list[Row]:
    """Half of the answers with a function of two blocks, a fifth of these flat."""
    rows = []
    for number in range(240):
        ask, tell = coded(rng)
        tell = tell.replace("    return", "    if True:\n        pass\n    return")
        if number % 5 == 0:
            tell = re.sub(r"(?m)^ +", "", tell)
        turn = [("human", ask), ("gpt", tell)]
        # Some ask for something else than code.
        if number % 2:
            turn = [("human", prose(rng, 1)), ("gpt", prose(rng, 4))]
        rows.append(sharegpt(*turn, source="code", score=sound_score(rng)))
    return rows


def offered(row: Row, rng: Random) -> Row:
    """Few offers to help, each of which several rows have."""
    return answer(f"{rng.choice(OFFERS)} {rng.choice(INVITES)}")(row, rng)


def quoted_below(row: Row, rng: Random) -> Row:
    ask, _ = first_pair(row)
    return answer(lambda text, _: f"{text}\n\nOn Tue, {rng.choice(NAMES)} wrote:\n> {ask}")(
        row, rng
    )


def overlapping(text: str, rng: Random) -> str:
    """The last fifteen words of a piece begin the next."""
    words = text.split(" ")
    at = rng.randint(20, len(words) - 2)
    return " ".join(words[:at] + words[at - 15 :])


LOOKS: dict[str, Rows] = {
    "some_answers_ask_back": spoil(asked_back, 0.1),
    "an_advert_in_answers": spoil(answer(advertised), 0.1),
    "errors_of_a_spreadsheet_for_articles": spoil(answer(each_word(r"\b[Tt]he\b")), 0.1),
    "objects_printed_into_answers": spoil(
        answer(each_word(r"\b[Aa]n?\b", "[object Object]")), 0.125
    ),
    "y_and_z_exchanged": long(lambda text, _: text.translate(str.maketrans("yzYZ", "zyZY"))),
    "articles_lost": long(lambda text, _: re.sub(r"\b(?:[Tt]he|[Aa]n?) ", "", text)),
    "a_word_put_behind_common_ones": long(
        lambda text, _: re.sub(r"\b(the|and)\b", r"\1 hardly", text)
    ),
    "marks_of_a_rater_left": spoil(answer(followed_by(MARKS, "\n\n")), 0.1),
    "signatures_left": spoil(answer(followed_by(CLOSINGS, "\n\n")), 0.2),
    "offers_for_answers": spoil(offered, 0.1),
    "mails_quoted_below": spoil(quoted_below, 0.1),
    "pieces_that_overlap": spoil(answer(overlapping), 0.125),
    "words_without_endings": long(lambda text, _: re.sub(ENDINGS, "", text), 0.1),
    "cut_with_a_count_of_the_rest": spoil(
        answer(lambda text, _: f"{text[:99]}… [+{len(text)} chars]"), 0.1
    ),
    "announced_and_not_there": spoil(answer(lambda text, _: f"{text} These are the steps:"), 0.1),
    "numbers_of_a_spreadsheet": spoil(
        answer(lambda text, _: f"{text} From 1.20E+03 to {len(text):.2E} of them."), 0.1
    ),
    "code_not_indented": functions,
    "notes_of_a_wiki_behind_sentences": long(
        lambda text, _: re.sub(r"[.] (\w)", r".[12] \1", text)
    ),
}
BAD_LOOKS = tuple(
    Case(name, "doubtful_masses", rows, rejected=False) for name, rows in LOOKS.items()
)
