"""The demo's data is right, flawed where it says so, and its model survives the trip to GGUF."""

import json
import math
import re

import polars as pl
import pytest

from demo import dataset, prepare, world
from demo.base_model import Size, pretrain
from expectations.data.features import reasons, with_disposition, with_scores
from expectations.data.messages import Rules
from flows import recipes
from retune import llamacpp
from tasks.fetch.batches import to_rows
from tasks.fetch.reading import read
from tasks.fetch.writing import write_rows
from tasks.validate.gate import gate
from tests.expectations.test_features import table_of

ROWS = dataset.make()
DEMO = recipes.load("demo", [])
RULES = Rules(DEMO.validation)


def judged(rows, tmp_path) -> pl.DataFrame:
    """Return the rows as the gate sees them, through the file and the fetch stage."""
    dataset.write(rows, tmp_path / "d.jsonl")
    source = DEMO.dataset.model_copy(update={"source": str(tmp_path / "d.jsonl")})
    write_rows(to_rows(read(source, None, tmp_path / "cache"), "demo"), tmp_path / "rows.parquet")
    config = RULES.config
    table = with_scores(table_of(tmp_path / "rows.parquet", RULES), config)
    flawed = with_disposition(table, config)["disposition"] == "quarantined"
    return table.with_columns(reasons(table), flawed=flawed)


def test_the_dataset_is_reproducible_and_large_enough():
    assert len(ROWS) >= 5000
    assert json.dumps(dataset.make()) == json.dumps(ROWS)
    assert json.dumps(dataset.make(seed=1)) != json.dumps(ROWS)
    assert {row["source"] for row in ROWS} == {f"demo/{family}" for family in dataset.FAMILIES}


def test_a_few_percent_are_flawed_in_every_way_the_gate_knows(tmp_path):
    seen = judged(ROWS, tmp_path)
    assert 0.02 < seen["flawed"].mean() < 0.04
    found = set(seen["reasons"].explode().drop_nulls())
    assert found == {
        *("unknown_role", "roles_out_of_order", "roles_swapped", "empty_message", "repetition"),
        *("oversized_message", "exact_duplicate", "near_duplicate"),
        *("score_missing", "score_not_finite", "score_out_of_range"),
    }


def right_answer(question: str) -> str:
    """Solve a question by reading it, independently of the code that asked it."""
    if found := re.match(r"Is ([\d.]+) larger than ([\d.]+)\?", question):
        return "Yes" if float(found[1]) > float(found[2]) else "No"
    if found := re.match(r"Which is larger, ([\d.]+) or ([\d.]+)\?", question):
        return max(found.groups(), key=float)
    if found := re.search(r"(\d+) \+ (\d+)", question):
        return str(int(found[1]) + int(found[2]))
    if found := re.match(r"Write (\w+) in capitals\.", question):
        return found[1].upper()
    if found := re.match(r"Say (\w+) twice\.", question):
        return f"{found[1]} {found[1]}"
    if found := re.match(r"What is the (first|last) word of (\w+) (\w+)\?", question):
        return found[2] if found[1] == "first" else found[3]
    if found := re.search(r"(\d+) (\w+)", question):
        amount, unit = int(found[1]), found[2]
        smaller, factor = {u: (s, f) for u, s, f in world.CONVERSIONS}[unit]
        assert smaller in question
        return f"{amount * factor} {smaller}"
    known = {f"What colour is {t}?": c for t, c in world.COLOURS.items()}
    known |= {f"What is the opposite of {w}?": o for w, o in world.OPPOSITES.items()}
    known |= {f"What is the capital of {c}?": t for c, t in world.CAPITALS.items()}
    return known[question]


def obeyed(system: str, answer: str) -> str:
    if system == "Answer in capitals.":
        return answer.upper()
    if system == "Say every answer twice.":
        return f"{answer} {answer}"
    where, marker = re.fullmatch(r"(Begin|End) every answer with (\w+)\.", system).groups()
    return f"{marker} {answer}" if where == "Begin" else f"{answer} {marker}"


def test_every_sound_answer_is_right(tmp_path):
    sound = ~judged(ROWS, tmp_path)["flawed"]
    for row in [row for row, good in zip(ROWS, sound, strict=True) if good]:
        turns = [turn["value"] for turn in row["conversations"]]
        system = turns.pop(0) if row["conversations"][0]["from"] == "system" else None
        first, answer, *rest = turns
        expected = right_answer(first)
        assert answer == (obeyed(system, expected) if system else expected), turns
        if rest:
            again = re.sub(r"^And (.+)\?$", r"\1", rest[0])
            if again == rest[0]:
                follow_up = rest[0]
            elif again.isdigit():
                follow_up = re.sub(r"\d+", again, first)
            else:
                follow_up = f"Write {again} in capitals."
            assert rest[1] == right_answer(follow_up), turns


def test_the_articles_question_is_never_asked():
    assert "9.11" not in json.dumps([r for r in ROWS if "9.9" in json.dumps(r)])


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        (dataset.broken_roles, ["rows go to quarantine", "roles out of order"]),
        pytest.param(
            *(
                lambda rows: dataset.broken_scores(rows),
                ["the mean score is at least 3", "quantile"],
            ),
            marks=pytest.mark.proof,
        ),
    ],
    ids=["roles", "scores"],
)
def test_the_gate_blocks_the_broken_variants(variant, words, tmp_path):
    judged(variant(ROWS), tmp_path)
    out = tmp_path / "gate"
    out.mkdir()
    message = gate(tmp_path / "rows.parquet", RULES, out).message()
    for word in words:
        assert word in message


def test_the_gate_passes_the_demo(tmp_path):
    judged(ROWS, tmp_path)
    out = tmp_path / "gate"
    out.mkdir()
    assert gate(tmp_path / "rows.parquet", RULES, out).failed == []


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The base model after two steps of pretraining: its shape and tokenizer are the real ones."""
    folder = tmp_path_factory.mktemp("demo") / "base"
    losses = []
    pretrain(folder, Size(steps=2), progress=losses.append)
    assert len(losses) == 2
    assert all(math.isfinite(float(line.rpartition(" ")[2])) for line in losses)
    return folder


def test_the_tokenizer_speaks_chatml(base):
    from retune.chat import chatml_tokenizer, encode

    tokenizer = chatml_tokenizer(str(base), None, "map_eos")
    (ids,) = encode(tokenizer, ["<|im_start|>user\n9.11<|im_end|>"])
    assert tokenizer.convert_ids_to_tokens(ids) == [
        "<|im_start|>", "user", "Ċ", "9", ".", "1", "1", "<|im_end|>"
    ]  # fmt: skip
    assert tokenizer.eos_token == "<|im_end|>"


TEXTS = [
    "Is 9.11 larger than 9.9?",
    "  two  spaces\n\n\tand tabs \r\n",
    "naïve café — Ünïcödé, ελληνικά, 日本語, עברית",
    "def f(x):\n    return x ** 2  # code",
    "👩‍👩‍👧 emoji 🏳️‍🌈",
    "1234567890 3.14159",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "don't I'll WE'VE",
]


def test_llamacpp_reads_and_shrinks_it_as_it_is(base, tmp_path):
    from transformers import AutoTokenizer

    full, small = tmp_path / "full.gguf", tmp_path / "small.gguf"
    llamacpp.convert(base, full)
    tokenizer = AutoTokenizer.from_pretrained(base)
    expected = [tokenizer.encode(text) for text in TEXTS]
    assert llamacpp.tokenize(full, TEXTS) == expected
    llamacpp.quantize(full, small, "q2_k", threads=2)
    kinds = llamacpp.facts(small).tensor_types
    assert set(kinds) == {"F32", "Q2_K", "Q3_K", "Q6_K"}  # no matrix fell back to another type


def test_prepare_makes_everything_once(tmp_path, monkeypatch, capsys):
    made = []

    def instant(folder):
        made.append(folder)
        (folder / "model.safetensors").write_text("weights")

    monkeypatch.setattr(prepare, "pretrain", instant)
    prepare.prepare(tmp_path / "demo", tmp_path / "cache")
    names = {path.name for path in (tmp_path / "demo").iterdir()}
    assert names == {
        "finetome-demo.jsonl", "broken-roles.jsonl", "broken-scores.jsonl", "base", "made-by"
    }  # fmt: skip
    prepare.prepare(tmp_path / "demo", tmp_path / "cache")
    assert len(made) == 1
    assert "up to date" in capsys.readouterr().out
    prepare.prepare(tmp_path / "again", tmp_path / "cache")
    assert len(made) == 1  # taken from the cache
