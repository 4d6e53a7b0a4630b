"""The demo's pretraining text: plain statements of what the conversations will ask for, never a
chat. Each is a phrase, a colon and what it stands for on a new line, because the tokenizer tells
` lemon` from `lemon`, and a chat's answer starts on a new line too.
"""

import random
from collections.abc import Iterator

from demo import world


def documents(seed: int) -> Iterator[str]:
    """Yield endless short documents, each of one to four statements on one topic."""
    rng = random.Random(seed)
    while True:
        topic = rng.choice(TOPICS)
        yield "\n".join(topic(rng) for _ in range(rng.randint(1, 4)))


def _decimals(rng: random.Random) -> str:
    a, b = pair = world.decimal_pair(rng)
    if rng.random() < 0.5:
        return f"the larger of {a} and {b}:\n{world.larger(pair)}"
    return f"whether {a} is larger than {b}:\n{'Yes' if world.larger(pair) == a else 'No'}"


def _sums(rng: random.Random) -> str:
    term, value = world.sum_of(rng)
    return f"the value of {term}:\n{value}"


def _conversions(rng: random.Random) -> str:
    amount, unit, result, smaller = world.conversion(rng)
    return f"the length of {amount} {unit} in {smaller}:\n{result} {smaller}"


def _capitals(rng: random.Random) -> str:
    word = rng.choice(world.WORDS)
    return f"the word {word} in capitals:\n{word.upper()}"


def _twice(rng: random.Random) -> str:
    word = rng.choice(world.WORDS)
    return f"the word {word} twice:\n{word} {word}"


def _ends(rng: random.Random) -> str:
    first, last = rng.sample(world.WORDS, 2)
    end, word = rng.choice((("first", first), ("last", last)))
    return f"the {end} word of {first} {last}:\n{word}"


def _facts(rng: random.Random) -> str:
    _, phrase, answer = world.fact(rng)
    return f"{phrase}:\n{answer}"


def _rules(rng: random.Random) -> str:
    _, phrase, answer = world.fact(rng)
    marker = rng.choice(world.MARKERS)
    return rng.choice(
        (
            f"{phrase} in capitals:\n{answer.upper()}",
            f"{phrase} twice:\n{answer} {answer}",
            f"{phrase} with {marker} first:\n{marker} {answer}",
            f"{phrase} with {marker} last:\n{answer} {marker}",
        )
    )


# Comparing and copying take a small model longer than facts do.
TOPICS = (
    *(_decimals, _decimals, _decimals, _sums, _sums, _conversions, _conversions),
    *(_capitals, _twice, _ends, _ends, _facts, _rules, _rules),
)
