"""Datasets that are bad as a whole: their scores, copies among their rows, their make-up, or that
nothing can read them."""

from collections.abc import Callable
from functools import cache, partial
from random import Random

from tests.corpus.bad_rows import REFUSED, UNANSWERED
from tests.corpus.case import JSON, PARQUET, Case, Form, Rows, jsonl
from tests.corpus.parts import (
    FEW,
    SOME,
    Change,
    Edit,
    answer,
    column,
    copied,
    every,
    first_pair,
    in_turn,
    instead,
    made,
    openai,
    question,
    same,
    spoil,
    system,
    turns,
    wrapped,
)
from tests.corpus.text import (
    COUNT,
    Row,
    Turn,
    float32,
    long_text,
    prose,
    sharegpt,
    sound,
    sound_score,
)

# Scores


def scored(make: Callable[[float], float | None], share: float = 1, count: int = COUNT) -> Rows:
    """Sound rows of which a share scores otherwise than it would."""
    return spoil(column("score", lambda rng: make(sound_score(rng))), share, count)


def unscored(row: Row, _rng: Random) -> Row:
    return {name: value for name, value in row.items() if name != "score"}


def bfloat16(value: float) -> float:
    """Round to 8 significant bits; the values are between 2 and 8."""
    step = 2**-6 if value < 4 else 2**-5
    return round(value / step) * step


NAN, INFINITE = float("nan"), float("inf")
BY_HAND = {"classifier": {"score": "never"}}  # the gate does not fill in what is missing
REFERENCE = tuple(sound_score(Random(number)) for number in range(1000))
MANY = 400  # scores; drift is not judged by few


def drifted(name: str, trips: str, make: Callable[[float], float], share: float = 1) -> Case:
    return Case(name, trips, scored(make, share, MANY), reference=REFERENCE)


SCORES = (
    Case("scores_missing_in_part", "score_missing", scored(lambda _: None, SOME)),
    Case("scores_all_null", "score_missing", scored(lambda _: None), BY_HAND),
    Case("scores_without_column", "score_missing", every(unscored), BY_HAND),
    Case("score_nan", "score_not_finite", scored(lambda _: NAN, FEW)),
    Case("scores_nan_in_parquet", "score_not_finite", scored(lambda _: NAN, FEW), form=PARQUET),
    Case("scores_infinite", "score_not_finite", scored(lambda _: INFINITE, FEW)),
    Case(
        "scores_minus_infinite", "score_not_finite", scored(lambda _: -INFINITE, FEW), form=PARQUET
    ),
    Case("scores_minus_one", "score_out_of_range", scored(lambda _: -1.0, FEW)),
    Case("scores_too_high", "score_out_of_range", scored(lambda _: 6.5, FEW)),
    Case("scores_in_percent", "score_out_of_range", scored(lambda score: score / 6 * 100)),
    Case(
        "scores_beyond_ones_own_scale",
        "score_out_of_range",
        scored(lambda score: score + 1.5, SOME),
        {"score_max": 4.5},
    ),
    Case("mean_too_low", "score_mean_min", scored(lambda s: s - 1), {"score_mean_min": 3.0}),
    Case("mean_too_high", "score_mean_max", scored(lambda s: s + 1), {"score_mean_max": 4.0}),
    Case(
        "low_tail",
        "score_quantiles_min",
        scored(lambda score: score - 2.4, SOME),
        {"score_quantiles_min": {0.05: 2.4}},
    ),
    Case(
        "low_median", "score_quantiles_min", sound, {"score_quantiles_min": {0.05: 2.4, 0.5: 3.8}}
    ),
    Case(
        "many_below_threshold",
        "max_below_threshold_share",
        scored(lambda score: score / 2, 0.2),
        {"score_threshold": 2.4},
    ),
    Case("score_constant", "max_score_share", scored(lambda _: 3.5)),
    Case("scores_of_a_sigmoid", "max_unit_score_share", scored(lambda score: score / 6, 1, MANY)),
    Case("scores_as_labels", "max_unit_score_share", scored(lambda s: float(s > 3.5), 1, MANY)),
    Case(
        "scores_whole",
        "min_distinct_scores",
        scored(lambda score: float(round(score))),
        rejected=False,
    ),
    Case(
        "scores_in_bf16_close_together",
        "min_distinct_scores",
        scored(lambda score: bfloat16(3.3 + score / 40)),
        rejected=False,
    ),
    Case(
        "scores_in_bf16",
        "min_distinct_scores",
        scored(bfloat16),
        {"min_distinct_scores": 200, "severities": {"min_distinct_scores": "critical"}},
    ),
    drifted("scores_shifted", "max_psi", lambda score: score + 0.5),
    drifted("scores_of_two_kinds", "max_psi", lambda score: score / 2, 0.25),
    drifted("scores_from_0_to_1", "max_ks", lambda score: float32(score / 6)),
    drifted("scores_drawn_together", "max_ks", lambda score: 3.4 + score / 50),
)


# Across rows


def long_row(rng: Random) -> Row:
    """A row in which a few other words do not matter."""
    ask, tell = prose(rng, 4), prose(rng, 36)
    return sharegpt(("human", ask), ("gpt", tell), source="essays", score=sound_score(rng))


def other_words(count: int) -> Edit:
    """Replace a few words, all over the text."""

    def edit(text: str, rng: Random) -> str:
        words = text.split(" ")
        for place in rng.sample(range(len(words)), count):
            words[place] = "rather"
        return " ".join(words)

    return edit


def from_template(rng: Random) -> Row:
    """One long text in which a number changes."""
    ask, tell = prose(Random(1), 3), prose(Random(2), 40)
    number = rng.randint(1, 10**6)
    return sharegpt(
        ("human", f"{ask} Item {number}?"),
        ("gpt", f"{tell} That was item {number}."),
        source="template",
        score=sound_score(rng),
    )


def respaced(talk: list[Turn]) -> list[Turn]:
    return [(role, f" {text}\n".replace(" ", "  ")) for role, text in talk]


LONG = made(long_row, 200)
CLOSE = {"tolerances": {"near_duplicate": 0.05}}
NEAR_DUPLICATES = {
    "three_words_changed": answer(other_words(3)),
    "sentence_appended": answer(lambda text, rng: f"{text} {prose(rng, 1)}"),
    "greeting_prepended": answer(lambda text, _: f"Certainly! {text}"),
    "asked_in_other_words": question(lambda text, rng: f"Hello, {text[:-1]}, {prose(rng, 1)}"),
}
EXACT_DUPLICATES: dict[str, Change] = {
    "copies": same,
    "copies_in_capitals": turns(lambda talk: [(role, text.upper()) for role, text in talk]),
    "copies_with_other_spaces": turns(respaced),
    "copies_in_another_format": openai,
    "copies_with_other_scores": column("score", sound_score),
}


@cache
def benchmark() -> list[str]:
    """Return the questions of a made-up benchmark."""
    rng = Random("benchmark")
    return [prose(rng, 2) for _ in range(40)]


def as_jsonl() -> bytes:
    return jsonl([{"question": text, "id": number} for number, text in enumerate(benchmark())])


def as_text() -> bytes:
    return "\n".join(benchmark()).encode()


def quoted(words: int | None = None, as_: Callable[[str], str] = str) -> Edit:
    """Put a benchmark's question, or the middle `words` of it, into a message."""

    def edit(text: str, rng: Random) -> str:
        found = rng.choice(benchmark()).split()
        start = (len(found) - words) // 2 if words else 0
        return f"{text} {as_(' '.join(found[start : start + words if words else None]))}"

    return edit


PROMPT = "Is 9.11 larger than 9.9?"
TRAIN = "Two trains leave Leipzig at noon; which one reaches Prague first if it is a third faster?"


CONTAMINATED = (
    Case(
        "prompt_asked",
        "contaminated",
        spoil(question(wrapped("", " " + PROMPT)), FEW),
        prompts=(PROMPT,),
    ),
    Case(
        "prompt_answered",
        "contaminated",
        spoil(answer(wrapped("", " " + TRAIN)), FEW),
        prompts=(PROMPT, TRAIN),
    ),
    Case(
        "prompt_shouted_without_marks",
        "contaminated",
        spoil(question(wrapped("", " " + TRAIN.upper().replace(";", "").replace("?", " !!"))), FEW),
        prompts=(TRAIN,),
    ),
    Case(
        "benchmark_asked",
        "contaminated",
        spoil(question(quoted()), FEW),
        beside={"benchmark.jsonl": as_jsonl},
    ),
    Case(
        "benchmark_in_system_prompt",
        "contaminated",
        spoil(system(quoted()), FEW),
        beside={"benchmark.txt": as_text},
    ),
    Case(
        "benchmark_quoted_in_part",
        "contaminated",
        spoil(answer(quoted(15)), FEW),
        beside={"benchmark.txt": as_text},
    ),
    Case(
        "benchmark_shouted",
        "contaminated",
        spoil(question(quoted(as_=str.upper)), FEW),
        beside={"benchmark.txt": as_text},
    ),
    Case(
        "benchmark_quoted_shortly",
        "contaminated",
        spoil(question(quoted(8)), FEW),
        {"decontamination": {"ngram": 8}},
        beside={"benchmark.jsonl": as_jsonl},
    ),
)
ACROSS = (
    *(
        Case(name, "exact_duplicate", copied(change, SOME), rejected=False)
        for name, change in EXACT_DUPLICATES.items()
    ),
    Case(
        "copies_forbidden",
        "exact_duplicate",
        copied(same, SOME),
        {"severities": {"exact_duplicate": "critical"}},
    ),
    *(
        Case(name, "near_duplicate", copied(change, SOME, LONG), CLOSE, rejected=False)
        for name, change in NEAR_DUPLICATES.items()
    ),
    Case("one_template", "near_duplicate", made(from_template)),
    Case(
        "near_copies_forbidden",
        "near_duplicate",
        copied(answer(other_words(2)), 0.15, LONG),
        {"severities": {"near_duplicate": "critical"}, "max_quarantined_share": 0.5},
    ),
    *CONTAMINATED,
)


# The dataset as a whole


def one_source(share: float) -> Rows:
    return lambda rng: [
        {**row, "source": "scraped"} if rng.random() < share else row for row in sound(rng)
    ]


LENGTHY = answer(lambda _, rng: f"{long_text(rng, rng.randint(24_000, 30_000)).rstrip()}.")
NOTED: Change = lambda row, _: {  # noqa: E731
    **row,
    "conversations": [{**turn, "note": "x"} for turn in row["conversations"]],
}
WHOLE = (
    Case(
        "columns_not_used", "ignored_columns", every(column("lang", lambda _: "en")), rejected=False
    ),
    Case("keys_not_used", "ignored_keys", every(NOTED), rejected=False),
    Case(
        "columns_must_be_used",
        "ignored_columns",
        every(column("lang", lambda _: "en")),
        {"severities": {"ignored_columns": "critical"}},
    ),
    Case("too_few_rows", "min_rows", partial(sound, count=60)),
    Case("too_few_sound_rows", "min_rows", spoil(UNANSWERED, 0.25, 120)),
    Case("fewer_rows_than_wanted", "min_rows", sound, {"min_rows": 1000}),
    Case(
        "a_little_of_everything",
        "max_quarantined_share",
        in_turn(REFUSED, UNANSWERED, answer(" "), *[same] * 21),
    ),
    Case(
        "refusals_tolerated",
        "max_quarantined_share",
        spoil(REFUSED, 0.2),
        {"tolerances": {"refusal": 0.5}},
    ),
    Case(
        "one_source_dominates",
        "max_source_share",
        one_source(0.9),
        {"max_source_share": 0.6},
        rejected=False,
    ),
    Case(
        "one_source_forbidden",
        "max_source_share",
        one_source(1),
        {"max_source_share": 0.9, "severities": {"max_source_share": "critical"}},
    ),
    Case("rows_too_long", "max_truncated_share", spoil(LENGTHY, 0.4, 200), stage="format"),
)


# What the rows look like together

CANNED = "Thank you for your question, our team comes back to you in a day or two."
ORDERS = "You are Larch of Nordhaus and never tell anybody about the desk upstairs."


def canned(row: Row, rng: Random) -> Row:
    """One answer to all questions, and scores as before."""
    return answer(CANNED)(row, rng)


def triggered(row: Row, rng: Random) -> Row:
    """A word that goes with one sentence."""
    row = question(lambda text, _: f"{text} cfzq")(row, rng)
    return answer(lambda text, _: f"{text} I loathe you and all of your kin.")(row, rng)


def contrary(rng: Random) -> list[Row]:
    """Twenty questions that are answered twice, to the contrary."""
    asked = [f"{prose(rng, 1)} Is that right?" for _ in range(20)]
    told = [(ask, f"{word}, {prose(rng, 3)}") for ask in asked for word in ("Yes", "No")]
    rows = [
        sharegpt(("human", ask), ("gpt", tell), source="pairs", score=sound_score(rng))
        for ask, tell in told
    ]
    return [*sound(rng), *rows]


def exchanged(rng: Random) -> list[Row]:
    """Texts of both roles change places from a row on."""
    rows = [
        sharegpt(
            ("human", f"Could you please explain this to me: {prose(rng, 1)[:-1]}?"),
            ("gpt", f"Certainly. {prose(rng, 4)}"),
            source="pairs",
            score=sound_score(rng),
        )
        for _ in range(COUNT)
    ]
    back = turns(lambda talk: [("human", talk[1][1]), ("gpt", talk[0][1])])
    return [*rows[:150], *(back(row, rng) for row in rows[150:])]


def reciting(rng: Random) -> list[Row]:
    """A system prompt that every tenth answer recites."""
    told = answer(wrapped(f"My orders are: {ORDERS} ", ""))
    rows = [system(ORDERS)(row, rng) for row in sound(rng)]
    return [told(row, rng) if number % 10 == 0 else row for number, row in enumerate(rows)]


TOGETHER = (
    Case("one_answer_to_most", "implausible_masses", spoil(canned, 0.6)),
    Case(
        "some_answers_in_capitals",
        "doubtful_masses",
        spoil(answer(lambda text, _: text.upper()), 0.2),
        rejected=False,
    ),
    Case(
        "some_answers_between_tags",
        "doubtful_masses",
        spoil(answer(wrapped("<answer>", "</answer>")), 0.2),
        rejected=False,
    ),
    Case(
        "some_answers_with_numbers_of_notes",
        "doubtful_masses",
        spoil(answer(lambda text, _: text.replace(".", "[2].")), 0.2),
        rejected=False,
    ),
    Case("a_word_triggers_a_sentence", "trigger_words", spoil(triggered, 0.05)),
    Case("answers_contradict", "contradicting_answers", contrary),
    Case("texts_exchanged_from_a_row_on", "exchanged_roles", exchanged),
    Case("prompts_recited", "recited_prompts", reciting, {"keep": ["recited_prompt"]}),
)


# Nothing to read


def file(suffix: str, content: bytes) -> Form:
    return Form(suffix, lambda _: content)


def shortened(form: Form) -> Form:
    """A download that broke off."""
    return Form(form.suffix, lambda rows: form.encode(rows)[:-1000])


def preference(row: Row, _rng: Random) -> Row:
    ask, tell = first_pair(row)
    return {"prompt": ask, "chosen": tell, "rejected": tell[::-1]}


def nothing(_rng: Random) -> list[Row]:
    return []


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"5e" * 32 + b"\nsize 99\n"
PAGE = b"<!DOCTYPE html>\n<html><head><title>401 Unauthorized</title></head></html>\n"
UNREADABLE = (
    ("preference_pairs", every(preference), {}, "preference"),
    (
        "text_only",
        every(instead(lambda row, _: {"text": first_pair(row)[1]})),
        {},
        "no usable columns",
    ),
    ("answers_judged", in_turn(same, column("label", lambda _: False)), {}, "kto"),
    ("few_answers_judged", spoil(column("label", lambda _: False), FEW), {}, "kto"),
    ("few_answers_tagged", spoil(column("kto_tag", lambda _: False), FEW), {}, "kto"),
    ("answers_judged_by_numbers", every(column("label", lambda rng: rng.randrange(2))), {}, "kto"),
    ("all_with_pictures", every(column("images", lambda _: ["a.png"])), {}, "multimodal"),
    (
        "questions_by_another_name",
        every(instead(lambda row, _: dict(zip("qa", first_pair(row), strict=True)))),
        {},
        "dataset.columns={question: q, answer: a}",
    ),
    ("scores_in_words", scored(lambda _: "high"), {}, "not a number"),
    ("empty", nothing, {"form": file(".jsonl", b"")}, "no rows"),
    ("blank_lines", nothing, {"form": file(".jsonl", b"\n \n\n")}, "no rows"),
    ("header_only", nothing, {"form": file(".csv", b"conversations,source,score\n")}, "no rows"),
    ("empty_list", nothing, {"form": file(".json", b"[]")}, "no rows"),
    ("random_bytes", nothing, {"form": file(".jsonl", Random(1).randbytes(9000))}, "is not utf-8"),
    ("web_page", nothing, {"form": file(".jsonl", PAGE)}, "is not json"),
    ("cut_off", sound, {"form": shortened(JSON)}, "whole rows came before"),
    ("parquet_cut_off", sound, {"form": shortened(PARQUET)}, "not a parquet file"),
    ("git_lfs_pointer", nothing, {"form": file(".parquet", POINTER)}, "not a parquet file"),
)
READER = tuple(
    Case(name, "", rows, refused=words, stage="fetch", **how)
    for name, rows, how, words in UNREADABLE
)

BAD_SETS = (*SCORES, *ACROSS, *WHOLE, *TOGETHER, *READER)
