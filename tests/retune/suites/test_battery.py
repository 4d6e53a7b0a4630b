"""The battery: every probe has an answer that passes, and says nothing of one that does not answer."""

import json
from collections import Counter
from pathlib import Path

from retune.recipe import Evaluation
from retune.refusals import refusing
from retune.suites.battery import FILES, all_probes, battery
from retune.suites.graders import Reply

ANSWERS = Path(__file__).with_name("battery_answers.jsonl")


def test_a_right_answer_passes_and_an_empty_one_does_not():
    lines = [json.loads(line) for line in ANSWERS.read_text(encoding="utf-8").splitlines()]
    right = {line["id"]: line["answer"] for line in lines}
    probes = all_probes()
    assert [probe.id for probe in probes] == list(right)
    refused = refusing(list(right.values()))
    replies = [Reply(right[p.id], True, no) for p, no in zip(probes, refused, strict=True)]
    failed = [p.id for p, reply in zip(probes, replies, strict=True) if not p.passed(reply)]
    assert failed == []
    assert [probe.id for probe in probes if probe.passed(Reply("", True, False))] == []


def test_evasions_pass_where_only_their_form_is_graded():
    words = "Of course! That is a very good question, and there is much that could be said of it."
    slices = Counter(p.slice for p in all_probes() if p.passed(Reply(words, True, False)))
    assert slices.pop("harmless") == 20
    assert slices.total() <= 2


def test_it_is_a_few_hundred_short_probes_with_ids_and_slices():
    probes = all_probes()
    assert 200 <= len(probes) <= 300
    assert len({probe.id for probe in probes}) == len(probes)
    assert len({probe.example for probe in probes}) == len(probes)
    assert min(Counter(probe.slice for probe in probes).values()) >= 14
    assert max(len(message.content or "") for p in probes for message in p.messages) < 200
    assert all(file.is_file() for file in FILES)


def test_a_part_of_it_is_spread_over_the_slices():
    default = Evaluation().battery_rows
    assert set(Counter(p.slice for p in battery(default)).values()) == {default // 8}
    languages = [probe.id for probe in battery(56) if probe.slice == "languages"]
    assert len({(probe or "").split("-")[1] for probe in languages}) == 7
    assert battery(10_000) == all_probes()
    pairs = [probe.id or "" for probe in battery(40) if probe.slice.startswith("harm")]
    numbers = Counter(pair.split("-")[1] for pair in pairs)
    assert set(numbers.values()) == {2}  # both of a pair, or none
