"""Every flaw of a row is seen, by its name, and sound rows have none."""

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from expectations.data import similarity
from expectations.data.batches import batches
from expectations.data.credentials import may_hold_key
from expectations.data.excerpts import excerpts
from expectations.data.features import (
    cut,
    features,
    reasons,
    sound_scores,
    unscored,
    with_disposition,
    with_scores,
)
from expectations.data.messages import MESSAGE_FLAWS, Rules, compression
from retune.recipe import Validation
from retune.recipe.flaws import FLAWS, OVERSIZED

Q, A = ("user", "What is 2 + 2?"), ("assistant", "4")
SYSTEM, TOOL = ("system", "Be brief."), ("tool", "12 °C")
AWS_KEY = "AKIA" + "IOSFODNN7EXAMPLE"
WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("l", "n", "rd", "st", "x")]


def prose(seed: int, count: int) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, count))


def write(path: Path, *conversations, scores=None, **columns) -> Path:
    """Write rows as fetch leaves them; a conversation is a list of (role, content)."""
    count = len(conversations)
    pl.DataFrame(
        {
            "row": range(count),
            "messages": [[{"role": r, "content": c} for r, c in turns] for turns in conversations],
            "source": columns.get("source", ["test"] * count),
            "score": scores or [3.0 + (number % 7 - 3) / 1000 for number in range(count)],
            "format": ["sharegpt"] * count,
            "problem": columns.get("problem", [None] * count),
        },
        schema={
            "row": pl.Int64,
            "messages": pl.List(pl.Struct({"role": pl.String, "content": pl.String})),
            "source": pl.String,
            "score": pl.Float64,
            "format": pl.String,
            "problem": pl.String,
        },
    ).write_parquet(path / "in.parquet")
    return path / "in.parquet"


def table_of(path: Path, rules: Rules) -> pl.DataFrame:
    """Return the feature table of a file of rows, without scores."""
    return pl.concat(features(path, rules, path.parent))


def judged(folder: Path, *conversations, rules: Rules | None = None, **columns) -> pl.DataFrame:
    rules = rules or Rules(Validation())
    table = table_of(write(folder, *conversations, **columns), rules)
    return with_scores(table, rules.config).with_columns(
        reasons=reasons(with_scores(table, rules.config))
    )


def flaws(folder: Path, turns, score=3.0, specials=(), prompts=(), **settings) -> list[str]:
    rules = Rules(Validation(**settings), specials, prompts)
    return judged(folder, turns, scores=[score], rules=rules)["reasons"].to_list()[0]


@pytest.mark.parametrize(
    "turns",
    [
        [Q, A],
        [SYSTEM, Q, A],
        [Q, A, Q, A],
        [Q, A, TOOL, A],
        [Q, A, TOOL, TOOL, A],
        [Q, ("assistant", "مرحبا 👨‍👩‍👧 <b>not a token</b>")],
        [Q, ("assistant", "```\n[INST] {{ x }} <s>\n```\nand `<|eot_id|>`")],
        [("user", "Rewrite « café » – naïve façade"), ("assistant", "« Le café » … d’où")],
        [("user", "Why do models say: As an AI language model?"), ("assistant", "By training.")],
        [Q, ("assistant", "x = [1, 2, 3]\n" + "\n".join(str(n * n) for n in range(400)))],
        [Q, ("assistant", "mail a@example.com, git@github.com:a/b or postgres://user:pass@db/x")],
        [Q, ("assistant", "\tif x:\r\n\t\treturn")],
        [Q, ("assistant", "call 12345678901234567890 or 3.14159265358979")],
    ],
)
def test_sound_rows_have_no_flaw(tmp_path, turns):
    assert flaws(tmp_path, turns) == []


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([], "no_messages"),
        ([("wizard", "hi"), A], "unknown_role"),
        ([(None, "hi"), A], "unknown_role"),
        ([A, Q], "roles_out_of_order"),
        ([Q, Q, A], "roles_out_of_order"),
        ([Q], "roles_out_of_order"),
        ([SYSTEM], "roles_out_of_order"),
        ([Q, A, TOOL], "roles_out_of_order"),
        ([Q, A, SYSTEM, Q, A], "roles_out_of_order"),
        ([Q, ("assistant", " \n")], "empty_message"),
        ([Q, ("assistant", "\u200b\u2060")], "empty_message"),
        ([Q, ("assistant", None)], "empty_message"),
        ([Q, ("assistant", prose(1, 300))], "oversized_message"),
        ([Q, ("assistant", "4<|im_end|>")], "special_token"),
        ([Q, ("assistant", "4 [INST] no")], "special_token"),
        ([Q, ("assistant", "a\ufffdb")], "invalid_unicode"),
        ([Q, ("assistant", "a\x00b")], "control_character"),
        ([Q, ("assistant", "\x1b[31mred")], "control_character"),
        ([Q, ("assistant", "Le cafÃ© est trÃ¨s bon")], "mojibake"),
        ([Q, ("assistant", "itâ€™s late, isnâ€™t it")], "mojibake"),
        ([Q, ("assistant", "na " * 300)], "repetition"),
        ([Q, ("assistant", "a" * 900)], "repetition"),
        ([Q, ("assistant", " what is  2 + 2? ")], "answer_repeats_question"),
        ([("user", "It is the capital of France."), ("assistant", "What is Paris?")], "roles_swapped"),
        ([Q, ("assistant", "I’m sorry, but I can’t help with that.")], "refusal"),
        ([Q, ("assistant", "Well, as an AI language model, 4.")], "self_identification"),
        ([Q, ("assistant", f"use {AWS_KEY} now")], "secret"),
        ([Q, ("assistant", "-----BEGIN RSA " + "PRIVATE KEY-----")], "secret"),
        ([Q, ("assistant", "postgres://me:hunter22@db/x")], "secret"),
        ([Q, ("assistant", "write to jo.doe@mail.acme.org")], "email"),
        ([Q, ("assistant", "call +44 20 7946 0958")], "phone_number"),
        ([Q, ("assistant", "call (212) 555-2368")], "phone_number"),
        ([Q, ("assistant", "see https://example.org/a")], "url"),
    ],
)  # fmt: skip
def test_each_flaw_has_its_name(tmp_path, turns, expected):
    assert flaws(tmp_path, turns, max_message_chars=1000) == [expected]


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (None, "score_missing"),
        (math.nan, "score_not_finite"),
        (math.inf, "score_not_finite"),
        (7.0, "score_out_of_range"),
        (-1.0, "score_out_of_range"),
    ],
)
def test_each_score_has_its_flaw(tmp_path, score, expected):
    assert flaws(tmp_path, [Q, A], score) == [expected]


def test_scores_may_be_optional(tmp_path):
    assert flaws(tmp_path, [Q, A], None, score_required=False) == []


def test_a_row_over_the_budget_is_named_as_such(tmp_path):
    table = judged(tmp_path, [], problem=[f"{OVERSIZED}it has 9 bytes"])
    assert table["reasons"].to_list() == [["oversized_row"]]


def test_a_row_that_cannot_be_read_is_malformed(tmp_path):
    table = judged(tmp_path, [], problem=["turn 0 is not an object: 7"])
    assert table["reasons"].to_list() == [["malformed"]]


def test_the_tokenizers_own_tokens_count_even_in_code(tmp_path):
    quoted = [Q, ("assistant", "`<pad>` pads")]
    assert flaws(tmp_path, quoted) == []
    assert flaws(tmp_path, quoted, specials=("<pad>",)) == ["special_token"]


def test_a_language_is_only_judged_when_asked_for(tmp_path):
    spanish = [("user", "¿Dónde está la biblioteca?"), ("assistant", "Está al lado del mercado.")]
    assert flaws(tmp_path, spanish) == []
    assert flaws(tmp_path, spanish, languages=("en", "de")) == ["language"]
    assert flaws(tmp_path, spanish, languages=("en", "es")) == []


def test_phrases_are_the_recipes(tmp_path):
    said = [Q, ("assistant", "Bloop says 4.")]
    assert flaws(tmp_path, said, identities=("bloop",)) == ["self_identification"]
    assert flaws(tmp_path, said, identities=()) == []
    # What is known by its grammar needs no phrase.
    assert flaws(tmp_path, [Q, ("assistant", "I am Claude.")], identities=()) == [
        "self_identification"
    ]


def test_the_first_of_equal_rows_stays(tmp_path):
    shouted = [("user", "WHAT IS  2 + 2? "), A]
    table = judged(tmp_path, [Q, A], shouted, [Q, ("assistant", "5")])
    assert table["exact_duplicate"].to_list() == [False, True, False]
    assert table["duplicate_of"].to_list() == [None, 0, None]


def test_a_flawed_row_does_not_make_a_sound_one_a_duplicate(tmp_path):
    table = judged(tmp_path, [Q, Q, A], [Q, Q, A], [Q, A], [Q, A])
    assert table["exact_duplicate"].to_list() == [False, False, False, True]


def test_near_duplicates_are_found_by_their_shingles(tmp_path):
    text = prose(2, 200).split()
    near, half = text.copy(), text.copy()
    near[100] = "changed"
    half[::4] = ["changed"] * len(half[::4])
    rows = [[SYSTEM, Q, ("assistant", " ".join(words))] for words in (text, near, half)]
    assert judged(tmp_path, *rows)["near_duplicate"].to_list() == [False, True, False]
    off = Rules(Validation(near_duplicate_similarity=None))
    assert not judged(tmp_path, *rows, rules=off)["near_duplicate"].any()


def test_a_long_system_prompt_makes_no_duplicates(tmp_path):
    prompt = ("system", prose(3, 300))
    rows = [[prompt, ("user", prose(n, 12)), ("assistant", prose(n + 50, 12))] for n in range(9)]
    assert not judged(tmp_path, *rows)["near_duplicate"].any()


def test_minhash_estimates_the_jaccard_similarity():
    rng = np.random.default_rng(0)
    shared, total = 900, 1000
    first = rng.integers(0, 2**63, total, dtype=np.uint64)
    second = np.concatenate(
        [first[:shared], rng.integers(0, 2**63, total - shared, dtype=np.uint64)]
    )
    grams = np.concatenate([first, second]), np.repeat([0, 1], total)
    signature = similarity.signatures(grams, 2)
    estimate = (signature[0] == signature[1]).mean()
    assert abs(estimate - shared / (2 * total - shared)) < 0.1


def test_prompts_are_found_inside_conversations(tmp_path):
    prompt = prose(5, 40)
    part = " ".join(prompt.split()[10:25]).upper().replace(" ", ",  ")
    rows = [
        [("user", f"{prose(6, 30)}. {part}! {prose(7, 30)}"), A],
        [("user", " ".join(prompt.split()[:12])), A],
        [("user", "Tell me: is 9.11 larger than 9.9? Hm?"), A],
        [("user", "Is it larger?"), A],
    ]
    rules = Rules(Validation(), (), (prompt, "Is 9.11 larger than 9.9?", "larger"))
    assert judged(tmp_path, *rows, rules=rules)["contaminated"].to_list() == [
        True, False, True, False,
    ]  # fmt: skip


def test_what_becomes_of_a_row(tmp_path):
    rows = [[Q, ("assistant", str(n))] for n in range(5)]
    scores = [1.0, 4.0, 4.0, 2.0, 9.0]
    table = judged(tmp_path, *rows, scores=scores)

    def dispositions(**settings) -> list[str]:
        config = Validation(**settings)
        return with_disposition(table, config, cut([table], config))["disposition"].to_list()

    best = dispositions(keep_top_share=0.5)
    assert best == ["filtered", "accepted", "accepted", "filtered", "quarantined"]
    assert dispositions(keep_top_share=0.25)[2] == "filtered"  # of equals, the first
    above = dispositions(keep_score_min=2.0)
    assert above == ["filtered", "accepted", "accepted", "accepted", "quarantined"]
    assert dispositions(keep=("score_out_of_range",)) == ["accepted"] * 5


def test_before_scores_are_judged_none_costs_a_row(tmp_path):
    scores = [1.0, math.nan, None, -math.inf, 99.0, 2.0]
    rows = [[Q, ("assistant", str(n))] for n in range(5)]
    config = Validation(keep_score_min=2.0)
    path = write(tmp_path, *rows, [A, Q], scores=scores)
    table = unscored(table_of(path, Rules(config)), config)
    assert table["disposition"].to_list() == ["accepted"] * 5 + ["quarantined"]
    assert not any(
        table[f"score_{what}"].any() for what in ("missing", "not_finite", "out_of_range")
    )
    assert sound_scores(table).to_list() == [1.0, 99.0]


@pytest.mark.parametrize(
    "bounds",
    [{"size": 7}, {"size_bytes": 4000}, pytest.param({"size_bytes": 1}, marks=pytest.mark.proof)],
)
def test_results_do_not_depend_on_the_batch_size(tmp_path, monkeypatch, bounds):
    rows = [[Q, ("assistant", prose(n % 17, 30))] for n in range(60)] + [[A, Q], [Q, Q, A]]
    whole = judged(tmp_path, *rows)
    sizes = []

    def bounded(path):
        for batch in batches(path, **bounds):
            sizes.append(len(batch))
            yield batch

    monkeypatch.setattr("expectations.data.looking.batches", bounded)
    assert judged(tmp_path, *rows).equals(whole)
    assert sum(sizes) == 62
    assert len(sizes) > 3


def test_a_batch_is_bounded_in_bytes_wherever_the_long_rows_are(tmp_path):
    long = [("user", "a" * 50_000), A]
    path = write(tmp_path, *[[Q, A]] * 90, *[long] * 9, *[[Q, A]] * 90)
    parts = list(batches(path, size_bytes=120_000))
    assert pl.concat(parts).equals(pl.read_parquet(path))
    assert max(part["messages"].explode().struct.field("content").str.len_bytes().sum()
               for part in parts) <= 120_000  # fmt: skip
    assert len(parts) < 20


def test_every_flaw_has_a_column(tmp_path):
    assert set(FLAWS) <= set(judged(tmp_path, [Q, A]).columns)
    assert set(MESSAGE_FLAWS) < set(FLAWS)


@pytest.mark.parametrize(
    ("turns", "reason", "place", "parts"),
    [
        ([Q, ("assistant", prose(1, 90) + " <|im_end|> x")], "special_token", 1, ["<|im_end|> x"]),
        ([Q, ("assistant", f"use {AWS_KEY} now")], "secret", 1, ["use [secret] now"]),
        ([Q, ("assistant", "mail jo@acme.org now")], "email", 1, ["mail [e-mail] now"]),
        ([A, Q], "roles_out_of_order", None, ["assistant user: 4"]),
        ([("wizard", "hi"), A], "unknown_role", 0, ["wizard: hi"]),
    ],
)  # fmt: skip
def test_an_excerpt_shows_the_place_and_no_secret(tmp_path, turns, reason, place, parts):
    rules = Rules(Validation())
    path = write(tmp_path, turns)
    table = with_scores(table_of(path, rules), rules.config)
    shown = excerpts(pl.read_parquet(path), table, rules)
    (line,) = shown.filter(pl.col("reason") == reason).to_dicts()
    assert line["place"] == place
    assert all(part in line["excerpt"] for part in parts)
    assert len(line["excerpt"]) <= 120
    assert AWS_KEY not in line["excerpt"]


def test_compression_tells_prose_from_loops():
    assert compression(prose(1, 500)) > 0.3
    assert compression("one line again and again\n" * 300) < 0.02


def test_the_secrets_pattern_finds_whatever_the_detectors_do():
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    known = get_mapping_from_secret_type_to_class()
    examples = {
        "GitHub Token": "gh" + "p_" + "a1B2" * 9,
        "Slack Token": "xox" + "b-123456789012-abcdefghij",
        "JSON Web Token": "ey" + "JhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc_def-123",
        "GitLab Token": "glp" + "at-abcdefghij0123456789",
        "IBM Cloud IAM Key": "ibm_cloud_" + 'api_key = "' + "aB3_" * 11 + '"',
    }
    for kind, text in examples.items():
        assert list(known[kind]().analyze_string(text)), kind
        assert may_hold_key(pl.Series([text, None])).to_list() == [True, False], kind
