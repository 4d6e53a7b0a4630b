"""The small parts that datasets are put together from: whole datasets, changes of a row, edits of
a message."""

from collections.abc import Callable
from random import Random
from typing import Any

from tests.corpus.case import Case, Rows
from tests.corpus.text import COUNT, Row, Turn, foreign, sharegpt, sound

Change = Callable[[Row, Random], Row]  # of one row
Edit = Callable[[str, Random], str]  # of one message

FEW, SOME = 0.03, 0.08  # shares of rows that exceed the tolerances 0.01 and 0.05, and no other


def family(trips: str, share: float, changes: dict[str, Change], **case: Any) -> tuple[Case, ...]:
    """Return one case per change: mostly sound rows, of which this share is changed."""
    return tuple(Case(name, trips, spoil(by, share), **case) for name, by in changes.items())


# Datasets


def spoil(change: Change, share: float, count: int = COUNT) -> Rows:
    """Sound rows of which every k-th is changed."""
    return in_turn(*[same] * (round(1 / share) - 1), change, count=count)


def every(change: Change, count: int = COUNT) -> Rows:
    return spoil(change, 1, count)


def made(make: Callable[[Random], Row], count: int = COUNT) -> Rows:
    return lambda rng: [make(rng) for _ in range(count)]


def in_turn(*changes: Change, count: int = COUNT) -> Rows:
    """Sound rows, each changed by one of these, in turn."""
    return lambda rng: [
        changes[number % len(changes)](row, rng) for number, row in enumerate(sound(rng, count))
    ]


def copied(change: Change, share: float, rows: Rows = sound) -> Rows:
    """Rows of which every k-th is a changed copy of the one before it."""
    step = round(1 / share)

    def with_copies(rng: Random) -> list[Row]:
        found = rows(rng)
        for number in range(step - 1, len(found), step):
            found[number] = change(found[number - 1], rng)
        return found

    return with_copies


# Changes of a row


def same(row: Row, _rng: Random) -> Row:
    return row


def turns(edit: Callable[[list[Turn]], list[tuple]]) -> Change:
    """Change the list of (role, text)."""

    def change(row: Row, _rng: Random) -> Row:
        found = [(turn["from"], turn["value"]) for turn in row["conversations"]]
        return {**row, **sharegpt(*edit(found))}

    return change


def said(role: str, edit: Edit | str | None) -> Change:
    """Change what `role` says last; if it says nothing, it gets the first word."""

    def change(row: Row, rng: Random) -> Row:
        talk = [dict(turn) for turn in row["conversations"]]
        if all(turn["from"] != role for turn in talk):
            talk.insert(0, {"from": role, "value": "You are a helpful assistant."})
        turn = next(turn for turn in reversed(talk) if turn["from"] == role)
        turn["value"] = edit(turn["value"], rng) if callable(edit) else edit
        return {**row, "conversations": talk}

    return change


def question(edit: Edit | str | None) -> Change:
    return said("human", edit)


def answer(edit: Edit | str | None) -> Change:
    return said("gpt", edit)


def system(edit: Edit | str | None) -> Change:
    return said("system", edit)


def column(name: str, make: Callable[[Random], Any]) -> Change:
    return lambda row, rng: {**row, name: make(rng)}


def instead(make: Callable[[Row, Random], Row]) -> Change:
    """Replace the conversation, under whatever names; source and score stay."""
    return lambda row, rng: {
        **{name: row[name] for name in ("source", "score")},
        **make(row, rng),
    }


def spoken(language: str, sentences: int = 3) -> Change:
    """Replace the conversation by one in another language."""
    return lambda row, rng: {
        **row,
        **sharegpt(
            ("human", foreign(language, rng, 1, asks=True)),
            ("gpt", foreign(language, rng, sentences)),
        ),
    }


def openai(row: Row, _rng: Random) -> Row:
    """The same row in OpenAI's shape."""
    roles = {"human": "user", "gpt": "assistant"}
    talk = [
        {"role": roles.get(turn["from"], turn["from"]), "content": turn["value"]}
        for turn in row["conversations"]
    ]
    return {"messages": talk, "source": row["source"], "score": row["score"]}


def first_pair(row: Row) -> tuple[str, str]:
    """Return the first question and its answer."""
    texts = [turn["value"] for turn in row["conversations"] if turn["from"] != "system"]
    return texts[0], texts[1]


# Edits of a message


def put(make: Callable[[Random], str] | str) -> Edit:
    """Put words between two words of a message."""

    def edit(text: str, rng: Random) -> str:
        words = text.split(" ")
        words.insert(rng.randrange(len(words)), make(rng) if callable(make) else make)
        return " ".join(words)

    return edit


def wrapped(before: str, after: str = "") -> Edit:
    return lambda text, _: before + text + after


def replaced(old: str, new: str, count: int = -1) -> Edit:
    return lambda text, _: text.replace(old, new, count)


def followed(words: str, make: Callable[[Random], str]) -> Edit:
    """Let a paragraph follow, with something made in the place of {}."""
    return lambda text, rng: f"{text}\n\n{words.format(make(rng))}"
