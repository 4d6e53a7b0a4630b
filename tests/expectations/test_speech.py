"""Words and marks that are said more or less often than in the last accepted dataset are named."""

import base64
import random
import zlib

import numpy as np
import polars as pl
import pytest

from expectations.data.messages import Rules
from expectations.data.profile.drift import drift
from expectations.data.profile.looks import ALARMS, PROFILE, looks
from expectations.data.profile.record import Profile
from expectations.data.profile.speech import PARTS, speech
from expectations.data.profile.vocabulary import excerpt, key, named, packed, unpacked, vocabulary
from retune.recipe import Validation
from tasks.validate.screening import screen
from tests.corpus.text import prose
from tests.expectations import test_features as some

ROWS = 1_200
LETTERS = str.maketrans("0123456789", "abcdefghij")


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
    said = {"^b", "$e", "hello", ",", "00", "of", "them", ".", "\n", "bye", "年", "で", "す"}
    pairs = {
        "^b hello",
        "hello ,",
        ", 00",
        "00 of",
        "of them",
        "them .",
        ". \n",
        "\n bye",
        "bye $e",
    }
    alike = {"^b ~o", "~o ,", "of ~m", "~m ."}
    assert shares.keys() == said | pairs | alike | {"^b 年", "年 で", "で す", "す $e"}
    assert shares.pop("^b") == shares.pop("$e") == 1
    assert set(shares.values()) == {0.5}
    rows = dict(found.select("said", "row").rows())
    assert (rows["hello"], rows["年"]) == (100, 109)


def test_what_few_say_is_not_remembered():
    found = vocabulary(pl.Series(range(2_000)), pl.Series(["a"] * 1_997 + ["b"] * 3))
    assert key("a") in found["key"]
    assert key("b") not in found["key"]


def test_a_text_without_words_is_its_beginning_and_end():
    found = vocabulary(pl.Series(range(20)), pl.Series([""] * 20))
    assert sorted(found["said"]) == ["$e", "^b", "^b $e"]


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


@pytest.mark.parametrize("before", [0, 3_970])
@pytest.mark.parametrize(
    "secret",
    ["sk-proj-AbCdEfGhIjKlMnOpQrStUvWx" + "YzAbCdEfGhIjKlMn", "maximilian.muster@beispiel.de"],
)
def test_no_part_of_a_secret_is_told(before, secret):
    text = "a" * before + f" The key is {secret}."
    found = vocabulary(pl.Series(range(100)), pl.Series([text] * 100))
    assert found["excerpt"].null_count() == found["said"].null_count() > 0
    assert "key is" in found["said"]
    told = " ".join([*found["said"].drop_nulls(), *found["excerpt"].drop_nulls()]).lower()
    assert not [part for part in ("abcdefgh", "maximilian", "muster", "beispiel") if part in told]


@pytest.mark.parametrize(
    "long", ["\n" * 3_900, "_" * 3_900, "s" * 3_900, " \n" * 1_900, "1" * 3_900]
)
@pytest.mark.timeout(120)  # a pattern that looks at a run again from each place of it takes longer
def test_a_long_run_takes_no_longer(long):
    lists = [f"{long} - one\n- two\n\nwords of lists, 12 of them"] * 60
    found = vocabulary(pl.Series(range(60)), pl.Series(lists))
    assert len(found) > 2


def test_an_example_is_no_piece_of_a_word():
    assert excerpt("Others say that he comes", "he") == "Others say that he comes"
    assert excerpt("The others", "he") is None
    assert excerpt("about it", "a b") is None


def test_marks_that_texts_have_are_no_ends():
    found = vocabulary(pl.Series(range(9)), pl.Series(["It costs $ 5, x ^ 2"] * 9))
    assert {"$", "^", "costs $", "$ 0", "x ^"} <= set(found["said"])


def test_what_nobody_says_any_more_is_counted():
    first = [f"{text} Thank you kindly." for text in texts(1)]
    less = [alarm for alarm in alarms(first, texts(2)) if "less often" in alarm.sentence]
    assert len(less) == 1
    assert "other words or marks less often" in less[0].sentence
    assert less[0].value == 1.0


def test_of_few_texts_less_is_known():
    first = [f"{text} moron" if n < 3 else text for n, text in enumerate(texts(1, 300))]
    now = [f"{text} moron" if n < 15 else text for n, text in enumerate(texts(2, 300))]
    assert alarms(first, now) == []
    more = [f"{text} moron" if n < 60 else text for n, text in enumerate(texts(2, 300))]
    assert "(at most 1.0% then)" in alarms(first, more)[0].sentence


def test_a_record_of_no_share_and_one_that_unpacks_to_more_than_any():
    reference, words = profile_of(texts(1))
    zero = packed(words["answers"].with_columns(share=pl.lit(0.0)))
    assert speech(reference.model_copy(update={"answer_words": zero}), reference, words)
    bomb = base64.b85encode(zlib.compress(b"0" * 10_000_000)).decode()
    with pytest.raises(ValueError, match="more than any vocabulary"):
        unpacked(bomb)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("you moron", "'you moron'"), ("^b sure", "'sure' at the beginning"),
        (". $e", "'.' at the end"), ("00", "a number of 2 digits"), ("~", "'~'"),
        (": 00000", "':' before a number of 5 digits or more"),
        ("to ~s", "'to' before a word that ends in 's'"),
        ("\n -", "a line break before '-'"), ("[ unk", "'[unk'"),
    ],
)  # fmt: skip
def test_what_is_said_is_told_as_people_read_it(said, words):
    assert named(said) == words


def test_parts_are_fields_of_the_record():
    assert set(PARTS.values()) <= Profile.model_fields.keys()


def lengths(seed, count, far=0.0):
    """Return the record of normal numbers, of which a share `far` is far above."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=count) + 6.0 * (rng.random(count) < far)
    steps = tuple(
        float(one) for one in np.quantile(values, np.linspace(0, 1, 101), method="higher")
    )
    record, _ = profile_of(texts(1, 200))
    numbers = {"quantiles": {"answer_symbols": steps}, "rows": count, "independent": float(count)}
    return record.model_copy(update=numbers | {"answer_words": ""})


@pytest.mark.parametrize("count", [2_000, 20_000, 100_000])
def test_tails_of_one_source_are_alike(count):
    found = [drift(lengths(seed, count), lengths(50 + seed, count)) for seed in range(5)]
    assert not any(found)


def test_a_small_group_that_is_far_out_is_named():
    [alarm] = drift(lengths(1, 4_000), lengths(2, 4_000, far=0.05))
    assert "of the rows are above" in alarm.sentence
    assert "share of symbols in the answer" in alarm.sentence
    assert alarm.value > 0.1


def test_a_folder_of_an_older_version_has_no_words(tmp_path):
    record, _ = profile_of(texts(1))
    (tmp_path / PROFILE).write_text(record.model_dump_json())
    (tmp_path / ALARMS).write_text("[]")
    found = looks(tmp_path)
    assert found is not None
    assert found.against(record).alarms == []


def test_topics_that_stand_together_are_no_drift(tmp_path):
    rng = random.Random(3)
    topics = [[str(rng.randrange(10**6)).translate(LETTERS) for _ in range(30)] for _ in range(90)]

    def told(name: str, kept: float):
        rows = [
            [("user", f"What of {word}?"), ("assistant", " ".join(rng.choices(topic, k=20)))]
            for topic in topics
            for word in rng.choices(topic, k=120)
            if rng.random() < kept
        ]
        folder = tmp_path / name
        folder.mkdir()
        rules = Rules(Validation(near_duplicate_similarity=None))
        screen(some.write(folder, *rows), rules, folder)
        return looks(folder)

    whole, part = told("whole", 1.0), told("part", 0.97)
    assert "answers have" not in part.against(whole.profile).seen("profile_drift", 0.0)
