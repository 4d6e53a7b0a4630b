"""Every incident is asked of every model, and a verdict names those that happen again."""

import pytest

from expectations.promotion.decision import decide
from retune.outcomes import write_outcomes
from retune.recipe import Recipe
from retune.suites.incidents import Demand, incident
from retune.suites.probes import IncidentNote
from tasks.evaluate.asking import Questionnaire
from tasks.evaluate.examples import outcomes
from tasks.evaluate.probing import suite_measures
from tests.expectations.made_up import side

VALUES = {"name": "r", "model": {"base": "b"}, "dataset": {"source": "d.jsonl"}}


def case(asked: str, reason: str = ""):
    messages = [{"role": "user", "content": asked}]
    return incident(messages, [], Demand(must=["30 days"]), IncidentNote(reason=reason))


CASES = (case("Beds?", "the policy is 30 days"), case("Mail bo@example.com?"), case("Too long"))


def reply(text: str | None):
    return text and {"text": text, "stopped": True, "tokens": 2, "seconds": 0.1}


@pytest.mark.parametrize(
    ("answers", "seen"),
    [
        (("30 days", "30 days.", "Up to 30 days"), "3 cases, all passed"),
        (
            ("for ever", "30 days", "30 days"),
            f"1 of 3 do: {CASES[0].id} (the policy is 30 days): Beds?",
        ),
        (("30 days", "never", "30 days"), f"1 of 3 do: {CASES[1].id}: Mail [e-mail]?"),
        (("30 days", "30 days", None), f"1 of 3 do: not asked: {CASES[2].id}: Too long"),
    ],
)
def test_the_verdict_names_the_case_and_its_reason(tmp_path, answers, seen):
    asked = Questionnaire([], (), {"incidents": CASES})
    replies = {"tuned": list(map(reply, answers)), "base": [None] * 3}
    graded = list(outcomes(asked, [], {}, replies))
    measures = suite_measures(asked, graded)
    assert measures["passed/incidents/tuned"] == pytest.approx(
        sum("30 days" in text for text in answers if text) / sum(map(bool, answers))
    )
    assert measures.get("unasked/incidents/tuned") == (None if answers[-1] else 1)
    file = tmp_path / "outcomes.parquet"
    write_outcomes(file, [*graded, *side("base", loss=2.0), *side("tuned", seed=2)])
    recipe = Recipe.parse({**VALUES, "promotion": {"resamples": 2000}})
    decision = decide(file, "aa", None, recipe, {})
    (verdict,) = [one for one in decision.judgement.verdicts if one.name == "incidents"]
    assert verdict.seen == seen
    assert verdict.passed == ("all passed" in seen)
    assert (decision.outcome == "rejected") == (not verdict.passed)
