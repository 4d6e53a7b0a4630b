"""Words and marks that are said more or less often than in the last accepted dataset are named."""

import random

import polars as pl
import pytest

from expectations.data.profile.record import Profile
from expectations.data.profile.speech import PARTS, speech
from expectations.data.profile.vocabulary import excerpt, named, packed, unpacked, vocabulary
from tests.corpus.text import prose

ROWS = 1_200


def texts(seed, count=ROWS, change=lambda text, rng: text, share=0.0):
    """Return made-up answers; `change` is made in a `share` of them."""
    rng = random.Random(seed)
    plain = [prose(rng, rng.randint(2, 6)) for _ in range(count)]
    return [change(text, rng) if rng.random() < share else text for text in plain]


def profile_of(answers):
    rows = pl.Series(range(len(answers)), dtype=pl.UInt32)
    found = vocabulary(rows, pl.Series(answers))
    record = Profile(
        rows=len(answers), independent=len(answers), quantiles={}, shares={}, sources={}, topics=(),
        topics_of=0, sampled=len(answers), languages={}, languages_of=0, lengths_correlation=0,
        answer_words=packed(found),
    )  # fmt: skip
    return record, {"answers": found}


def alarms(then, now):
    reference, _ = profile_of(then)
    return speech(reference, *profile_of(now))


def test_what_texts_are_made_of():
    answers = ["Hello, 12 of them.\n\nBye"] * 9 + ["年です"] * 9
    found = vocabulary(pl.Series(range(100, 118)), pl.Series(answers))
    shares = dict(found.select("said", "share").rows())
    said = {"^", "$", "hello", ",", "00", "of", "them", ".", "\n", "bye", "年", "で", "す"}
    pairs = {"^ hello", "hello ,", ", 00", "00 of", "of them", "them .", ". \n", "\n bye", "bye $"}
    alike = {"^ ~o", "~o ,", "of ~m", "~m ."}
    assert shares.keys() == said | pairs | alike | {"^ 年", "年 で", "で す", "す $"}
    assert shares.pop("^") == shares.pop("$") == 1
    assert set(shares.values()) == {0.5}
    rows = dict(found.select("said", "row").rows())
    assert (rows["hello"], rows["年"]) == (100, 109)


def test_what_few_say_is_not_remembered():
    found = vocabulary(pl.Series(range(2_000)), pl.Series(["a"] * 1_997 + ["b"] * 3))
    assert "a" in found["said"]
    assert "b" not in found["said"]


def test_a_text_without_words_is_its_beginning_and_end():
    found = vocabulary(pl.Series(range(20)), pl.Series([""] * 20))
    assert sorted(found["said"]) == ["$", "^", "^ $"]


def test_a_packed_vocabulary_is_read_back():
    _, words = profile_of(texts(1))
    found = unpacked(packed(words["answers"]))
    assert len(found) == len(words["answers"])
    assert sorted(found.values()) == pytest.approx(sorted(words["answers"]["share"]), abs=1e-4)
    assert unpacked("") == {}


@pytest.mark.parametrize("broken", ["xx", "c%0001", "§"])
def test_a_record_that_does_not_unpack_is_none(broken):
    record, _ = profile_of(texts(1))
    with pytest.raises(ValueError, match="answer_words"):
        Profile.model_validate(record.model_dump() | {"answer_words": broken})


@pytest.mark.parametrize("seed", range(5))
def test_two_samples_of_one_source_are_alike(seed):
    assert alarms(texts(100 + seed), texts(200 + seed)) == []


def named_by(change, share=0.05):
    return alarms(texts(1), texts(2, change=change, share=share))


def test_new_words_are_named_with_shares_and_an_example():
    [alarm] = named_by(lambda text, rng: f"{text} You moron.")
    assert alarm.expectation == "profile_drift"
    assert "'you moron' in " in alarm.sentence or "'moron' in " in alarm.sentence
    assert "(at most 0.2% then)" in alarm.sentence
    assert "moron" in alarm.sentence.rpartition("e.g. row ")[2]
    assert 0.3 < alarm.value < 0.7


def test_marks_at_the_end_are_named():
    more, less = named_by(lambda text, rng: f"{text} [+{rng.randint(10, 99)} chars]")
    assert "'chars" in more.sentence
    assert "[+" in more.sentence
    assert "'.' at the end" in less.sentence


def test_what_is_said_less_often_is_named_without_an_example():
    first = [f"Well, {text}" for text in texts(1)]
    now = [f"Well, {text}" if n % 3 else text for n, text in enumerate(texts(2))]
    less = [alarm.sentence for alarm in alarms(first, now) if "less often" in alarm.sentence]
    assert len(less) == 1
    assert "'well'" in less[0]
    assert "e.g." not in less[0]


def test_an_older_record_says_nothing():
    reference, _ = profile_of(texts(1))
    older = reference.model_copy(update={"answer_words": ""})
    assert speech(older, *profile_of(texts(2, change=lambda t, r: t + " moron", share=0.1))) == []


def test_few_rows_are_not_compared():
    assert alarms(texts(1, 90), texts(2, 90, lambda text, rng: f"{text} moron", 0.5)) == []


def test_excerpts_show_the_place():
    text = (
        "A long beginning that says nothing at all, then\nThe Moron speaks, and goes on for long."
    )
    assert "Moron speaks" in excerpt(text, "moron speaks")
    assert excerpt(text, "\n the").startswith("…")
    assert excerpt("short", "nowhere") is None
    assert excerpt("İstanbul says: 12 of them", ": 00") == "İstanbul says: 12 of them"


def test_no_part_of_a_secret_is_told():
    secret = "sk-proj-AbCdEfGhIjKlMnOpQrStUvWx" + "YzAbCdEfGhIjKlMn"
    found = vocabulary(pl.Series(range(100)), pl.Series([f"The key is {secret}."] * 100))
    shown = found.filter(pl.col("excerpt").is_not_null())
    assert "key is" in shown["said"]
    assert not [said for said in shown["said"] if "abcdefgh" in said]
    assert not [text for text in shown["excerpt"] if "AbCdEfGh" in text]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("you moron", "'you moron'"), ("^ sure", "'sure' at the beginning"),
        (". $", "'.' at the end"), ("00", "a number of 2 digits"), ("~", "'~'"),
        (": 00000", "':' before a number of 5 digits or more"),
        ("to ~s", "'to' before a word that ends in 's'"),
        ("\n -", "a line break before '-'"), ("[ unk", "'[unk'"),
    ],
)  # fmt: skip
def test_what_is_said_is_told_as_people_read_it(said, words):
    assert named(said) == words


def test_parts_are_fields_of_the_record():
    assert set(PARTS.values()) <= Profile.model_fields.keys()
