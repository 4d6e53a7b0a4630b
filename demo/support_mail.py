"""Rows that teach one useful job: support mail in, JSON of a fixed schema out.

    python -m demo.support_mail out.jsonl

Every answer can be read off its mail, so that an exact match is a fair measure: the product, the
order's number and the amount stand in it word for word, and what is asked for follows from the
wording. Names and dates stand there as well, to be left out. No two rows share an order.
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

Row = dict[str, Any]

ROWS = 600
SYSTEM = "Reply in JSON: request, product, order, amount."

# What is asked for, each in words of its own; a mail has one of them.
REQUESTS = {
    "refund": (
        "It does not work. Please send me my money back.",
        "I have returned it and would like to be paid back.",
        "It is not what I expected, so I want a refund.",
        "I am not happy with it. When do I get my money?",
        "It went back to you last week; please return what I paid.",
        "Please refund me, I no longer want it.",
    ),
    "replacement": (
        "It arrived broken. Please send a new one.",
        "It is the wrong size. Can I swap it?",
        "One part is missing, so please exchange it.",
        "It stopped working. I would like another one instead.",
        "There is a crack in it. Could you replace it?",
        "You sent me the wrong colour; please send the right one.",
    ),
    "delivery": (
        "It has not arrived yet. Where is it?",
        "When will it be here?",
        "The parcel is late. Can you tell me where it is?",
        "I am still waiting for it. Is it on its way?",
        "Tracking has shown nothing for days. What happened to it?",
        "Nobody has delivered it so far. When can I expect it?",
    ),
    "invoice": (
        "I need the invoice for my taxes.",
        "There was no bill in the box. Please send it.",
        "Could you mail me a receipt?",
        "Please send the invoice to my company.",
        "My accountant asks for the bill.",
        "I have lost the receipt. May I have a copy?",
    ),
    "cancel": (
        "Please cancel it before you ship it.",
        "I have changed my mind. Do not send it.",
        "I ordered it by mistake, please stop the order.",
        "Can I still cancel?",
        "I found it elsewhere, so please call it off.",
        "Please do not ship it, I no longer need it.",
    ),
}
# What it is about. A date is in some of them, an amount and an order in all.
FACTS = (
    "I bought the {product} on {date}, order {order}, for {amount}.",
    "Order {order}: {product}, {amount}.",
    "On {date} I paid {amount} for the {product} (order {order}).",
    "This is about order {order}, the {product} for {amount}.",
    "My order number is {order} and I paid {amount} for your {product}.",
    "You charged {amount} on {date} for order {order}, the {product}.",
    "I am writing about the {product} from order {order}. It cost {amount}.",
    "The {product} was {amount}, the number is {order}.",
    "{amount} for the {product}, number {order}, ordered on {date}.",
    "Regarding no. {order} of {date}: I chose the {product} at {amount}.",
)
GREETINGS = ("", "Hello. ", "Hi! ", "Hi there. ", "Good morning. ", "To the support team: ")
CLOSINGS = ("{name}", "Thanks, {name}", "Best, {name}", "Regards, {name}", "Yours, {name}", "")

KINDS = (
    *("black", "blue", "green", "grey", "large", "red", "small", "steel", "white", "wooden"),
    *("yellow", "folding"),
)
THINGS = (
    *("armchair", "backpack", "bookshelf", "camera bag", "clock", "coffee maker", "desk lamp"),
    *("door mat", "garden hose", "headphones", "kettle", "keyboard", "mirror", "office chair"),
    *("rain coat", "sofa table", "speaker", "suitcase", "tea pot", "tent", "toaster", "towel set"),
    *("umbrella", "wall shelf", "water bottle"),
)
FIRST_NAMES = (
    *("Anna", "Ben", "Carla", "David", "Elena", "Frank", "Grace", "Hugo", "Ines", "James"),
    *("Karin", "Leo", "Maria", "Nora", "Omar", "Paula", "Ravi", "Sara", "Tom", "Yuki"),
)
LAST_NAMES = (
    *("Adams", "Berg", "Costa", "Diaz", "Evans", "Fischer", "Green", "Hill", "Ito", "Jones"),
    *("King", "Lopez", "Miller", "Novak", "Olsen", "Patel", "Rossi", "Smith", "Turner", "Wood"),
)
MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August", "September"),
    *("October", "November", "December"),
)


def make(seed: int = 0, rows: int = ROWS) -> list[Row]:
    """Return `rows` rows, a fifth of them for each request."""
    rng = random.Random(seed)
    orders = rng.sample(range(10_000, 100_000), rows)
    requests = [list(REQUESTS)[index % len(REQUESTS)] for index in range(rows)]
    rng.shuffle(requests)
    return [_row(rng, *pair) for pair in zip(requests, orders, strict=True)]


def answer(request: str, product: str, order: int, amount: str) -> str:
    """Return the JSON of an answer, without spaces: the keys always in this order."""
    fields = {"request": request, "product": product, "order": str(order), "amount": float(amount)}
    return json.dumps(fields, separators=(",", ":"))


def write(rows: list[Row], path: Path) -> None:
    """Write JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _row(rng: random.Random, request: str, order: int) -> Row:
    product = f"{rng.choice(KINDS)} {rng.choice(THINGS)}"
    # Never a last digit of 0, which a number in JSON would lose.
    amount = f"{rng.randint(5, 499)}.{rng.randint(0, 9)}{rng.randint(1, 9)}"
    turns = (
        ("system", SYSTEM),
        ("user", _mail(rng, request, product, order, amount)),
        ("assistant", answer(request, product, order, amount)),
    )
    return {
        "messages": [{"role": role, "content": content} for role, content in turns],
        "source": f"support-mail/{request}",
    }


def _mail(rng: random.Random, request: str, product: str, order: int, amount: str) -> str:
    price = rng.choice(("${}", "${}", "USD {}", "{} dollars")).format(amount)
    day, month = rng.randint(1, 28), rng.choice(MONTHS)
    date = rng.choice((f"{day} {month}", f"{month} {day}"))
    facts = rng.choice(FACTS).format(product=product, order=order, amount=price, date=date)
    parts = [facts, rng.choice(REQUESTS[request])]
    if rng.random() < 0.3:
        parts.reverse()
    name = f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}"
    closing = rng.choice(CLOSINGS).format(name=name)
    return f"{rng.choice(GREETINGS)}{' '.join(parts)} {closing}".strip()


if __name__ == "__main__":
    write(make(), Path(sys.argv[1]))
