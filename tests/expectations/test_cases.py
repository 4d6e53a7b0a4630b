"""Rows near what the recipe's suites ask are named; how a task is put is no leak."""

from functools import partial

import pytest

from expectations.data import cases
from expectations.data.batches import batches
from expectations.data.messages import Rules
from retune.recipe import Validation
from retune.suites.cases import SuiteCase
from tests.expectations.test_features import A, judged, prose

INSTRUCTION = (
    "Say in one word whether the customer who wrote the following letter is pleased or not, and "
    "nothing else:"
)


def near(folder, rows, *asked: SuiteCase) -> list[str | None]:
    rules = Rules(Validation(near_duplicate_similarity=None), (), (), asked)
    table = judged(folder, *([("user", text), A] for text in rows), rules=rules)
    assert table["contaminated"].to_list() == table["near_case"].is_not_null().to_list()
    return table["near_case"].to_list()


def test_a_near_copy_names_its_case(tmp_path):
    long, short = prose(5, 40), "May I return a mattress after sixty days?"
    middle = " ".join(long.split()[10:30]).upper()
    rows = [
        f"{prose(6, 9)}. {middle}!",
        f"Hello! {short.lower()} Thanks",
        "May I return a bed after sixty days?",
        " ".join(long.split()[:12]),
    ]
    asked = (SuiteCase("incidents/a", (short,)), SuiteCase("mine/0", (long, "too short")))
    assert near(tmp_path, rows, *asked) == ["mine/0", "incidents/a", None, None]
    assert near(tmp_path, rows) == [None] * 4


@pytest.mark.parametrize("size", [7, 1000])
def test_the_instruction_that_all_rows_begin_with_is_no_leak(tmp_path, monkeypatch, size):
    monkeypatch.setattr("expectations.data.looking.batches", partial(batches, size=size))
    letters = [prose(number, 20) for number in range(40)]
    rows = [f"{INSTRUCTION} {letter}" for letter in letters]
    asked = [SuiteCase(f"mine/{n}", (f"{INSTRUCTION} {prose(900 + n, 20)}",)) for n in range(3)]
    assert near(tmp_path, rows, *asked) == [None] * 40
    leak = SuiteCase("mine/3", (rows[7],))
    assert near(tmp_path, rows, *asked, leak) == [None] * 7 + ["mine/3"] + [None] * 32
    assert len(rows) > cases.COMMON_ROWS
    assert near(tmp_path, rows[:3], *asked) == ["mine/0"] * 3  # of three, nobody can tell
