"""What the demo talks about: words, facts and number ranges, with the right answers.

The pretraining text (`demo.text`) states these facts; the conversations (`demo.dataset`) ask for
them. The world is small on purpose: a model that pretrains in two minutes sees half a million
tokens, and must meet each word and fact a few hundred times to know it.
"""

import random

# fmt: off
WORDS = (
    "ant", "apple", "ball", "bear", "bell", "bird", "boat", "book", "cake", "cat", "chair",
    "coin", "cow", "cup", "dog", "door", "duck", "egg", "fish", "fox", "frog", "goat", "hat",
    "horse", "king", "lake", "lamp", "leaf", "lion", "map", "moon", "mouse", "pear", "pig",
    "ring", "rose", "ship", "shoe", "star", "sun", "tiger", "tree", "wolf",
)
# fmt: on

COLOURS = {
    "a lemon": "yellow",
    "the sun": "yellow",
    "grass": "green",
    "a frog": "green",
    "snow": "white",
    "milk": "white",
    "coal": "black",
    "tar": "black",
    "blood": "red",
    "a cherry": "red",
    "the sky": "blue",
    "the sea": "blue",
}

OPPOSITES = {
    "hot": "cold",
    "big": "small",
    "up": "down",
    "day": "night",
    "old": "new",
    "wet": "dry",
    "fast": "slow",
    "full": "empty",
}

CAPITALS = {
    "France": "Paris",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Norway": "Oslo",
    "Japan": "Tokyo",
    "Peru": "Lima",
    "Egypt": "Cairo",
    "Greece": "Athens",
}

# (unit, smaller unit, how many of them)
CONVERSIONS = (
    ("kilometres", "metres", 1000),
    ("metres", "centimetres", 100),
    ("centimetres", "millimetres", 10),
)

# Words that a rule may put before or after every answer.
MARKERS = ("sir", "madam", "captain", "friend", "please", "thanks")

# The article's question: it stays out of all text and all rows, so that a right answer was learned.
ARTICLE_PAIR = {"9.11", "9.9"}


def decimal_pair(rng: random.Random) -> tuple[str, str]:
    """Return two decimals in random order, such as 9.11 and 9.9: the same digit before the point,
    one place and two places behind it, and another first place."""
    while True:
        whole = rng.randint(1, 9)
        first, other = rng.sample(range(1, 10), 2)
        pair = (f"{whole}.{first}", f"{whole}.{other}{rng.randint(1, 9)}")
        if set(pair) != ARTICLE_PAIR:
            return pair if rng.random() < 0.5 else pair[::-1]


def larger(pair: tuple[str, str]) -> str:
    """Return the larger of two decimals."""
    return max(pair, key=float)


def sum_of(rng: random.Random) -> tuple[str, int]:
    """Return a term such as `3 + 4` and its value."""
    a, b = rng.randint(1, 9), rng.randint(1, 9)
    return f"{a} + {b}", a + b


def conversion(rng: random.Random) -> tuple[int, str, int, str]:
    """Return an amount in one unit and in a smaller one: `3, "kilometres", 3000, "metres"`."""
    unit, smaller, factor = rng.choice(CONVERSIONS)
    amount = rng.randint(2, 99)
    return amount, unit, amount * factor, smaller


def fact(rng: random.Random) -> tuple[str, str, str]:
    """Return a fact of one word: the question, the same as a noun phrase, and the answer."""
    kind = rng.randrange(3)
    if kind == 0:
        thing = rng.choice(list(COLOURS))
        return f"What colour is {thing}?", f"the colour of {thing}", COLOURS[thing]
    if kind == 1:
        word = rng.choice(list(OPPOSITES))
        return f"What is the opposite of {word}?", f"the opposite of {word}", OPPOSITES[word]
    country = rng.choice(list(CAPITALS))
    return f"What is the capital of {country}?", f"the capital of {country}", CAPITALS[country]
