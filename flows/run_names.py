"""Whether a person named a flow run: then Prefect and MLflow keep that name.

Prefect has a name for every run: where nobody gives one, its server or its pages draw one by lot. The
flow gives those its own, which a person can read.
"""

import re
from datetime import UTC, datetime
from functools import cache
from typing import Any

from prefect import runtime

from retune.escaping import markdown

FLOW = "retune"  # of which all runs are
# What the forms of Prefect's pages draw, old ones (alpha-centauri, beta7-andromedae-b) and new
# (Awesome-Carrot); the lists stand in their scripts alone.
_GREEK = (
    "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|omicron|pi|rho|sigma|"
    "tau|upsilon|phi|chi|psi|omega"
)
_FAKER = (
    "Awesome|Rustic|Small|Gorgeous|Fantastic|Sleek|Intelligent|Unbranded|Refined|Licensed|Generic|"
    "Practical|Ergonomic|Handcrafted|Tasty|Handmade|Incredible"
)
_DRAWN = re.compile(rf"(?:{_GREEK})\d*-[a-z-]+|(?:{_FAKER})-[^\s-]{{1,6}}")
_OURS = re.compile(r".+ \d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?: UTC)?")


def flow_run_name() -> str:
    """Return the name of the flow run that begins: a person's own, else recipe and time."""
    name = runtime.flow_run.name
    if name and not is_drawn(name):
        return name
    return f"{runtime.flow_run.parameters['name']} {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"


def shown_name() -> str:
    """Return the name of the flow run that is under way as text in Markdown. Prefect heads the list of
    all runs' artifacts of a key with the newest one's description, which therefore says whose it is."""
    return markdown(runtime.flow_run.name or "this run")


def is_given(name: str) -> bool:
    """Tell whether a person named the flow run."""
    return not _OURS.fullmatch(name) and not is_drawn(name)


def is_drawn(name: str) -> bool:
    """Tell whether Prefect drew a name by lot: adjective and animal, Greek letter and star, …"""
    first, _, second = name.partition("-")
    adjectives, animals = _slugs()
    return (first in adjectives and second in animals) or bool(_DRAWN.fullmatch(name))


@cache
def _slugs() -> tuple[frozenset[str], frozenset[str]]:
    """Return the first and the second words of the names that Prefect's server gives."""
    from coolname.data import config

    lists: dict[str, Any] = dict(config)  # its types tell of no nesting

    def words(name: str) -> frozenset[str]:
        part = lists[name]
        if part["type"] == "words":
            return frozenset(part["words"])
        return frozenset().union(*map(words, part["lists"]))

    return words("adj_any"), words("subj")
