"""The rows of `smollm2`: the same for a seed, each answer to be read off its mail, no flaw."""

import json
import re

import polars as pl
import pytest

from demo import support_mail
from expectations.data.features import reasons, with_disposition, with_scores
from expectations.data.messages import Rules
from flows import recipes
from retune.recipe.flaws import FLAWS
from tasks.fetch.batches import to_rows
from tasks.fetch.reading import read
from tasks.fetch.writing import write_rows
from tasks.validate.gate import gate
from tests.expectations.test_features import table_of

ROWS = support_mail.make()
RECIPE = recipes.load("smollm2", [])
RULES = Rules(RECIPE.validation)
# What each request is known by; a mail has the words of one of them.
WORDS = {
    "refund": r"money|paid back|refund|return what",
    "replacement": r"new one|swap|exchange|another one|replace|right one",
    "delivery": r"\bwhere|when will|on its way|happened to it|when can i expect",
    "invoice": r"invoice|bill|receipt",
    "cancel": r"cancel|do not send|stop the order|call it off|do not ship",
}


def mail(row) -> str:
    return row["messages"][1]["content"]


def answer(row) -> str:
    return row["messages"][2]["content"]


def read_off(text: str) -> str:
    """Answer a mail by reading it, independently of the code that wrote it."""
    (request,) = (name for name, words in WORDS.items() if re.search(words, text.lower()))
    (product,) = (thing for thing in products() if re.search(rf"\b{thing}\b", text))
    (order,) = re.findall(r"\b\d{5}\b", text)
    (amount,) = re.findall(r"\d+\.\d\d", text)
    # As text, not by a library: the answer is this and nothing else.
    return f'{{"request":"{request}","product":"{product}","order":"{order}","amount":{amount}}}'


def products() -> list[str]:
    return [f"{kind} {thing}" for kind in support_mail.KINDS for thing in support_mail.THINGS]


def shingles(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[n : n + 5]) for n in range(len(words) - 4)}


def test_the_rows_are_the_same_for_a_seed_and_others_for_another():
    assert len(ROWS) == 600
    assert json.dumps(support_mail.make()) == json.dumps(ROWS)
    assert json.dumps(support_mail.make(seed=1)) != json.dumps(ROWS)
    counts = dict.fromkeys(support_mail.REQUESTS, 0)
    for row in ROWS:
        counts[json.loads(answer(row))["request"]] += 1
    assert set(counts.values()) == {120}


def test_every_answer_can_be_read_off_its_mail():
    for row in ROWS:
        assert answer(row) == read_off(mail(row)), mail(row)


def test_every_wording_tells_one_request():
    for request, wordings in support_mail.REQUESTS.items():
        for wording in wordings:
            told = [name for name, words in WORDS.items() if re.search(words, wording.lower())]
            assert told == [request], wording
    for facts in support_mail.FACTS:
        assert not [name for name, words in WORDS.items() if re.search(words, facts.lower())], facts


def test_no_held_out_mail_is_known_from_training():
    """Whichever rows are held out: no two share an order, and no two are nearly the same mail."""
    orders = [json.loads(answer(row))["order"] for row in ROWS]
    assert len(set(orders)) == len(ROWS)
    known = [shingles(mail(row)) for row in ROWS]
    closest = max(
        len(one & other) / len(one | other) for n, one in enumerate(known) for other in known[:n]
    )
    assert closest < 0.5  # the gate itself allows 0.85


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """The rows as the gate sees them, through the file and the fetch stage."""
    folder = tmp_path_factory.mktemp("support-mail")
    support_mail.write(ROWS, folder / "rows.jsonl")
    source = RECIPE.dataset.model_copy(update={"source": str(folder / "rows.jsonl")})
    write_rows(to_rows(read(source, None, folder / "cache"), "mail"), folder / "rows.parquet")
    return folder


def test_no_row_has_any_flaw(judged):
    table = with_scores(table_of(judged / "rows.parquet", RULES), RULES.config)
    assert with_disposition(table, RULES.config)["disposition"].unique().to_list() == ["accepted"]
    assert table.with_columns(reasons(table))["reasons"].list.len().sum() == 0
    flaws = [name for name in FLAWS if name in table.columns]
    assert len(flaws) > 20
    assert not table.select(pl.any_horizontal(pl.col(flaws).any())).item()


def test_the_gate_passes_them_with_its_own_tolerances(judged, tmp_path):
    assert RECIPE.validation.keep == ()
    assert RECIPE.validation.severities == {}
    assert RECIPE.validation.tolerances == type(RECIPE.validation.tolerances)()
    assert gate(judged / "rows.parquet", RULES, tmp_path).failed == []


@pytest.mark.parametrize("name", ["smollm2", "llama31-8b-finetome", "llama31-8b-finetome-10k"])
def test_the_articles_question_stands_in_the_sample_table(name):
    assert recipes.load(name, []).evaluation.prompts == ("Is 9.11 larger than 9.9?",)
