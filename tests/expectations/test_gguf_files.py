"""The judges of the GGUF files, over records alone: no llama.cpp is needed."""

import json
import math
from datetime import UTC, datetime
from pathlib import Path

import pytest

from expectations import gguf_files as judge
from expectations.verdicts import Rejected, require
from retune.outputs import Step
from retune.recipe import Recipe
from retune.recipe.gates import EXPECTATIONS
from retune.records import Gguf, Scores
from tests.expectations.test_masking import CANARIES, parts

GOOD = {"perplexity_ratio": 1.0, "kl_divergence": 0.0, "same_top_token": 1.0}
GOOD |= {"exact_match": 0.5, "stopped": 1.0}
EOS = "3 (<|im_end|>)"


def recipe(severities=None, **quantization) -> Recipe:
    return Recipe.parse(
        {
            "name": "r",
            "model": {"base": "b"},
            "dataset": {"source": "s"},
            "quantization": quantization,
            "gates": {"severities": severities or {}},
        }
    )


def record(
    metrics: dict[str, float], method: str = "q4_k_m", answers: list[dict] | None = None, **fields
) -> Gguf:
    output = Gguf(
        step=Step(stage="quantize", key={"method": method}),
        started=datetime.now(UTC),
        seconds=0,
        method=method,
        file=f"r-{method.upper()}.gguf",
        bytes=1,
        sha256="0",
        metrics=metrics,
        **fields,
    )
    return written(output, asked(*(ALL if answers is None else answers)))


@pytest.fixture(autouse=True)
def at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path))


def answer(row: int, text: str = "red", stopped: bool = True) -> dict:
    return {"row": row, "text": text, "stopped": stopped}


def endless(count: int, first: int = 0) -> list[dict]:
    return [answer(first + row, stopped=False) for row in range(count)]


def wrong(count: int, first: int = 0) -> list[dict]:
    return [answer(first + row, "blue") for row in range(count)]


ALL = [answer(row) for row in range(100)]
TEN = [answer(row) for row in range(10)]


def quant_verdicts(
    metrics: dict[str, float],
    method: str = "q4_k_m",
    answers: list[dict] | None = None,
    before: list[dict] | None = None,
    **quantization,
) -> list:
    """Judge a quant, by its measures and its `answers`, against a source that gave those `before`."""
    source = record(GOOD, "bf16", before)
    return judge.quant(record(metrics, method, answers), source, recipe(**quantization)).verdicts


def quant_failures(*given, **options) -> list:
    return [verdict for verdict in quant_verdicts(*given, **options) if verdict.blocks]


def test_free_text_has_no_exact_match_to_lose():
    source, quant = (
        record({name: value for name, value in GOOD.items() if name != "exact_match"}, method)
        for method in ("bf16", "q4_k_m")
    )
    judged = judge.quant(quant, source, recipe())
    assert not judged.failed
    assert "exact_match" not in {verdict.name for verdict in judged.verdicts}
    assert "stopped" in {verdict.name for verdict in judged.verdicts}


@pytest.mark.parametrize(
    ("measure", "value", "seen", "setting"),
    [
        ("perplexity_ratio", 1.16, "1.16", "max_perplexity_ratio"),
        ("perplexity_ratio", math.nan, "nan", "max_perplexity_ratio"),
        ("perplexity_ratio", 1.150001, "1.15 (1.150001)", "max_perplexity_ratio"),
        ("kl_divergence", 0.16, "0.16 nats per token", "max_kl_divergence"),
        ("kl_divergence", math.nan, "nan nats per token", "max_kl_divergence"),
        ("same_top_token", 0.84, "84.0%", "min_same_top_token"),
        ("same_top_token", math.nan, "nan%", "min_same_top_token"),
    ],
)
def test_each_measure_has_its_limit(measure, value, seen, setting):
    (verdict,) = quant_failures(GOOD | {measure: value})
    assert (verdict.name, verdict.seen) == (measure, seen)
    assert verdict.setting == f"quantization.gates.q4_k_m.{setting}"
    assert verdict.limit == getattr(recipe().quantization.gate("q4_k_m"), setting)
    percent = measure == "same_top_token"
    limit = f"{100 * verdict.limit:g}%" if percent else f"{verdict.limit:g}"
    assert limit in verdict.expected


def test_a_quant_at_its_limits_ships():
    assert not quant_failures(GOOD)
    limits = {"perplexity_ratio": 1.15, "kl_divergence": 0.15, "same_top_token": 0.85}
    assert not quant_failures(GOOD | limits)
    assert not quant_failures(GOOD, answers=[*endless(5), *ALL[5:]])  # 1 - 0.95 is more than 0.05
    assert not quant_failures(GOOD, answers=[*wrong(15), *ALL[15:]])


# Regressions that are there: of few answers what is broken, of many what is a little worse as well.
@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("stopped", [*endless(4)]),
        ("stopped", [*endless(8), *(ALL[8:45])]),
        ("stopped", [*endless(12), *ALL[12:]]),
        ("exact_match", wrong(3)),
        ("exact_match", [*wrong(14), *(ALL[14:45])]),
        ("exact_match", [*wrong(25), *ALL[25:]]),
    ],
)
def test_a_quant_that_answers_worse_does_not_ship(name, answers):
    (verdict,) = quant_failures(GOOD, answers=answers)
    setting = {"stopped": "max_stopped_drop", "exact_match": "max_exact_match_drop"}[name]
    assert (verdict.name, verdict.setting) == (name, f"quantization.gates.q4_k_m.{setting}")
    assert f"at most {100 * verdict.limit:g}%, but for chance" in verdict.expected
    assert f" of {len(answers)} lost, 0 gained; more than chance (p = " in verdict.seen


def test_what_chance_does_to_few_answers_keeps_no_quant_back():
    verdicts = quant_verdicts(GOOD, "q6_k", [*endless(3), *ALL[3:45]])
    stopped = next(verdict for verdict in verdicts if verdict.name == "stopped")
    assert stopped.passed
    assert stopped.seen.startswith("6.7% (3 of 45 lost, 0 gained; chance explains this in so few")
    assert not quant_failures(GOOD, "q6_k", [*wrong(1), *ALL[1:4]])


def test_answers_that_only_change_places_are_no_loss():
    before = [*wrong(18), *ALL[18:]]
    after = [*ALL[:18], *wrong(24, first=18), *ALL[42:]]
    assert not quant_failures(
        GOOD, "q6_k", after, before, gates={"q6_k": {"max_exact_match_drop": 0}}
    )
    # The same loss of six, of answers that are right otherwise; and of one.
    for lost in (6, 1):
        answers, strict = [*wrong(lost), *ALL[lost:]], {"q6_k": {"max_exact_match_drop": 0}}
        plain = quant_failures(GOOD, "q6_k", answers, gates=strict)
        assert [verdict.name for verdict in plain] == ["exact_match"]


def test_the_limits_hang_on_the_method_and_are_the_recipes():
    rough = GOOD | {"kl_divergence": 0.16}
    assert not quant_failures(rough, "q2_k")
    assert quant_failures(rough, "q8_0")
    assert not quant_failures(rough, gates={"q4_k_m": {"max_kl_divergence": 0.2}})


def test_a_file_that_does_not_load_is_judged_by_nothing_else():
    broken = record({"bytes": 1}, failure="it does not load: bad magic")
    source = record(GOOD, "bf16")
    (verdict,) = judge.quant(broken, source, recipe()).verdicts
    assert verdict.blocks
    assert (verdict.name, verdict.seen) == ("loads", "it does not load: bad magic")
    with pytest.raises(Rejected, match=r"r-Q4_K_M\.gguf rejected.*\n.*bad magic"):
        require(judge.quant(broken, source, recipe()))


def test_a_severity_of_the_recipe_counts():
    source, lenient = record(GOOD, "bf16"), recipe({"quantize.kl_divergence": "info"})
    judged = judge.quant(record(GOOD | {"kl_divergence": 9.0}), source, lenient)
    require(judged)
    (verdict,) = [verdict for verdict in judged.verdicts if not verdict.passed]
    assert (verdict.name, verdict.severity) == ("kl_divergence", "info")
    silent = record(GOOD | {"stopped": 0.0}, answers=endless(100))
    assert judge.quant(silent, source, lenient).failed


def scores_of(*answers: dict) -> Scores:
    scores = Scores(
        step=Step(stage="evaluate", key={}), started=datetime.now(UTC), seconds=0, metrics={}
    )
    return written(scores, list(answers))


def source_of(*answers: dict, same_prompts=1.0, prompts="", eos=EOS) -> Gguf:
    params = {"eos": eos, "eos_learned": EOS, "prompts": prompts}
    return record({"same_prompts": same_prompts}, "bf16", list(answers), params=params)


def asked(*answers: dict) -> list[dict]:
    return [{"prompt": "say red", "expected": "red", "rendered": ""} | one for one in answers]


def written(output, answers: list[dict]):
    output.folder.mkdir(parents=True, exist_ok=True)
    output.answers.write_text(json.dumps(answers))
    return output


def test_a_gguf_that_answers_as_evaluated_passes(tmp_path):
    judged = judge.source(source_of(*TEN), scores_of(*TEN), recipe())
    require(judged)
    assert tuple(verdict.name for verdict in judged.verdicts) == EXPECTATIONS[judge.CONVERT]
    assert judged.metrics == {"same_answers": 1}
    assert differences(judged, tmp_path) == []


def differences(judged, folder: Path) -> list[dict]:
    (name,) = judged.write(folder)
    return json.loads((folder / name).read_text())


def test_what_is_kept_of_differing_answers_is_masked(tmp_path):
    """It goes to MLflow; what a row holds, the answers to it may hold as well."""
    secrets = "\n".join(text for text, _ in CANARIES.values())
    hidden = parts("\n".join(secret for _, secret in CANARIES.values()))
    asked_for = {"prompt": secrets, "expected": secrets, "rendered": secrets}
    source = source_of(answer(0, f"It is {secrets}") | asked_for)
    judged = judge.source(source, scores_of(answer(0, f"No: {secrets}") | asked_for), recipe())
    (row,) = differences(judged, tmp_path)
    assert set(row) == {"prompt", "expected", "evaluated", "gguf"}
    for text in row.values():
        assert "[secret]" in text
        assert not [part for part in hidden if len(part) == 8 and part in text]


@pytest.mark.parametrize(
    ("given", "name", "message"),
    [
        (
            answer(0, "red and on and on", stopped=False),
            "stopped",
            r"evaluated, 10 of 10, but for a share of 0\.05 and chance; seen: 0 of 10 \(10 of 10 lost, 0 "
            r"gained; more than chance \(p = .*max_stopped_drop\)",
        ),
        (
            answer(0, "blue"),
            "exact_match",
            r"10 of 10, but for a share of 0\.1 and chance; seen: 0 of 10 \(.*\), e\.g\. row 0: 'blue' "
            r"instead of 'red' \(quantization\.gates\.bf16\.max_exact_match_drop\)",
        ),
    ],
)
def test_worse_answers_than_evaluated_are_named(tmp_path, given, name, message):
    source = source_of(*(given | {"row": row} for row in range(10)))
    judged = judge.source(source, scores_of(*TEN), recipe())
    assert name in [verdict.name for verdict in judged.failed]
    with pytest.raises(Rejected, match=message):
        require(judged)
    assert judged.metrics == {"same_answers": 0}
    assert differences(judged, tmp_path)[0] == {
        "prompt": "say red", "expected": "red", "evaluated": "red", "gguf": given["text"],
    }  # fmt: skip


def test_a_few_worse_answers_are_within_the_limits():
    source, scores = source_of(*wrong(15), *ALL[15:]), scores_of(*ALL)
    require(judge.source(source, scores, recipe()))  # 15 % of 100 may be 10 %
    strict = recipe(gates={"bf16": {"max_exact_match_drop": 0.05}})
    (verdict,) = judge.source(source, scores, strict).failed
    assert verdict.name == "exact_match"


def test_right_is_also_what_the_template_writes():
    """Qwen3's puts an empty block of reasoning before each answer."""
    thought = "<think>\n\n</think>\n\nred"
    tuned = [answer(row, thought) for row in range(10)]
    broken = [
        answer(row, "blue") | {"prompt": "say red", "expected": "red", "rendered": thought}
        for row in range(10)
    ]
    (verdict,) = judge.source(source_of(*broken), scores_of(*tuned), recipe()).failed
    assert verdict.name == "exact_match"
    as_before = [one | {"text": thought} for one in broken]
    require(judge.source(source_of(*as_before), scores_of(*tuned), recipe()))


def test_white_space_around_an_answer_is_no_difference():
    spaced = [answer(row, " red\n") for row in range(10)]
    judged = judge.source(source_of(*spaced), scores_of(*TEN), recipe())
    require(judged)
    assert judged.metrics == {"same_answers": 1}


def test_answers_that_were_wrong_before_cannot_be_lost():
    wrong = [answer(row, "green", stopped=False) for row in range(10)]
    blue = [answer(row, "blue", stopped=False) for row in range(10)]
    require(judge.source(source_of(*blue), scores_of(*wrong), recipe()))


def test_only_rows_that_both_were_asked_are_compared():
    more = [*TEN[:2], *(answer(row, "blue", stopped=False) for row in range(20, 30))]
    judged = judge.source(source_of(*more), scores_of(*TEN), recipe())
    require(judged)
    assert judged.metrics == {"same_answers": 1}


def test_without_a_row_in_common_there_is_nothing_to_compare(tmp_path):
    judged = judge.source(source_of(answer(99)), scores_of(*TEN), recipe())
    assert [verdict.name for verdict in judged.verdicts] == ["eos", "prompts"]
    assert judged.metrics == {}
    assert differences(judged, tmp_path) == []


@pytest.mark.parametrize("eos", ["1 (<|pad|>)", "none"])
def test_another_eos_is_refused(eos):
    judged = judge.source(source_of(*TEN, eos=eos), scores_of(*TEN), recipe())
    assert [verdict.name for verdict in judged.failed] == ["eos"]
    with pytest.raises(Rejected) as caught:
        require(judged)
    assert f"learned to end a turn with, {EOS}; seen: {eos}" in str(caught.value)
    assert "programs would not stop where a turn ends" in str(caught.value)


def test_prompts_may_differ_for_less_than_half():
    fault = "double BOS: 6 of 10 prompts"
    few = source_of(*TEN, same_prompts=0.5, prompts=fault)
    require(judge.source(few, scores_of(*TEN), recipe()))


def test_prompts_that_differ_for_more_than_half_are_refused():
    fault = "double BOS: 6 of 10 prompts"
    many = source_of(*TEN, same_prompts=0.4, prompts=fault)
    with pytest.raises(Rejected, match=f"seen: {fault}"):
        require(judge.source(many, scores_of(*TEN), recipe()))
