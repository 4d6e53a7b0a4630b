"""A candidate on the rows that the champion was judged by: made-up losses, the real decision."""

import json

import numpy as np
import polars as pl
import pytest

from expectations.promotion import anchor
from expectations.promotion.decision import Opponent, decide
from expectations.verdicts import Rejected, require
from flows.anchoring import held
from retune.anchors import Measuring
from retune.building import building
from retune.outcomes import write_outcomes
from retune.outputs import Step
from retune.questions import first_question
from retune.recipe import Recipe
from retune.records import Anchored
from tasks.anchor.rows import counted, outcomes
from tests.expectations.made_up import SOURCES, side, written

VALUES = {"name": "sums", "model": {"base": "b"}, "dataset": {"source": "d.jsonl"}}
PROMOTION = {"resamples": 2000, "assumed_noise": 0.01}
BY = Measuring("r", "l", "e")


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path / "home"))


def anchor_rows(
    loss: float, champion: float = 1.2, rows: int = 300, changed: int = 0, slices=None, seed=2
) -> pl.DataFrame:
    """Return anchor rows with losses of models of stated quality; the first `changed` have another answer
    now, and `slices` are losses of the candidate's to be added by source."""
    hard, own = np.random.default_rng(5), np.random.default_rng(seed)
    levels = hard.lognormal(0, 0.5, rows)
    sources = [SOURCES[row % len(SOURCES)] for row in range(rows)]
    added = np.array([(slices or {}).get(source, 0.0) for source in sources])
    said = [
        [
            {"role": "user", "content": f"Question {row}, {source}?"},
            {"role": "assistant", "content": f"answer {row} to ops{row}@example.com"},
        ]
        for row, source in enumerate(sources)
    ]
    return pl.DataFrame(
        {
            "source": sources,
            "messages": said,
            "first": [messages[0]["content"] for messages in said],
            "asked": [messages[0]["content"] for messages in said],
            "answered": [messages[1]["content"] for messages in said],
            "loss": champion * levels,
            "candidate": loss * levels * own.lognormal(0, 0.03, rows) + added,
            "tokens": hard.integers(5, 400, rows),
            "leaked": False,
            "rendering": "r",
            "limits": "l",
            "engine": "e",
            "occurs": True,
            "now": [f"another {row}" if row < changed else None for row in range(rows)],
        }
    )


def anchored(rows: pl.DataFrame, missing: str = "") -> Anchored:
    key = [missing, rows.select("candidate", "loss", "now").write_json()]
    with building(Step(stage="anchor", key={"rows": key})) as build:
        if missing:
            return build.finish(Anchored, missing=missing)
        write_outcomes(build.path / "outcomes.parquet", outcomes(rows))
        rows.write_parquet(build.path / "anchor.parquet")
        return build.finish(Anchored, metrics=counted(rows, BY))


def decided(tmp_path, on_anchor: Anchored | None, promotion=None, loss=1.0, severities=None):
    """Decide on a candidate that looks better than the champion on its own held-out rows."""
    own = written(
        tmp_path / "outcomes.parquet",
        side("base", loss=2.0, match=0.3, battery=0.6, seed=1),
        side("tuned", loss=loss, seed=2),
    )
    other = written(tmp_path / "champion.parquet", side("champion", seed=3))
    recipe = Recipe.parse(
        VALUES
        | {"promotion": PROMOTION | (promotion or {}), "gates": {"severities": severities or {}}}
    )
    opponent = Opponent("champion, version 3", "bb", other)
    return decide(own, "aa", opponent, recipe, anchored=on_anchor)


def named(decision, name):
    return [verdict for verdict in decision.judgement.verdicts if verdict.name == name]


def test_one_that_is_better_on_poisoned_rows_of_its_own_is_rejected_by_name(tmp_path):
    assert decided(tmp_path, None).outcome == "promote"  # what its own rows say
    decision = decided(tmp_path, anchored(anchor_rows(1.5, changed=90)))
    assert decision.outcome == "rejected"
    (win,) = named(decision, "win")
    assert win.passed
    whole, *_ = decision.reasons
    assert (
        "champion, version 3 by loss (anchor), on the rows that the champion was judged by" in whole
    )
    assert "0.3" in whole
    assert "worse by 0.3" in whole  # no sign, which of a loss would read the wrong way
    assert "95% interval −0.3" in whole
    # A waiver is offered, and was not used.
    assert "promotion.anchor_waiver" not in whole
    # What is read first names the reason, and the answers behind it.
    assert (
        "candidate rejected: worse by loss (anchor); of the questions"
        in decision.judgement.headline
    )
    assert "90 of 300 (30.0%) have another answer in the dataset now" in decision.judgement.headline
    assert "300 examples" in whole
    with pytest.raises(Rejected, match=r"`retune promote`.*promotion\.anchor_waiver"):
        require(decision.judgement)
    assert not anchor.passes(decision.judgement.verdicts)
    metrics = [one.metric for one in decision.differences]
    assert metrics.index("anchor/loss") > metrics.index("held_out/loss")
    assert "anchor/loss@mail" in metrics


def test_the_answers_that_changed_are_told_masked(tmp_path):
    (changed,) = named(decided(tmp_path, anchored(anchor_rows(1.1, changed=20))), "anchor_answers")
    assert changed.seen.startswith(
        "20 of 300 (6.7%) have another answer in the dataset now: Question 0, mail?: "
    )
    assert changed.seen.count("→") == 3
    assert "@example.com" not in changed.seen
    assert changed.passed
    none = decided(tmp_path, anchored(anchor_rows(1.1)))
    assert named(none, "anchor_answers")[0].passed


def test_a_secret_in_a_question_is_masked_although_keys_are_in_lower_case(tmp_path):
    rows = anchor_rows(1.1, changed=1)
    said = rows["messages"].to_list()
    said[0][0]["content"] = "Is AKIAIOSFODNN7EXAMPLQ a key?"
    rows = rows.with_columns(messages=pl.Series(said)).with_columns(first=first_question())
    (changed,) = named(decided(tmp_path, anchored(rows)), "anchor_answers")
    assert "Is [secret] a key?: " in changed.seen
    assert "akia" not in changed.seen.lower()


def test_where_many_answers_changed_a_person_is_to_say_why(tmp_path):
    """More than by chance: a third of 30 is no proof of more than a tenth."""
    few = decided(tmp_path, anchored(anchor_rows(1.1, changed=38)))
    assert few.outcome == "promote"
    many = decided(tmp_path, anchored(anchor_rows(1.1, changed=90)))
    assert many.outcome == "undecided"
    assert "90 of 300 (30.0%) have another answer in the dataset now" in " ".join(many.reasons)
    assert "(promotion.max_changed_answers)" in " ".join(many.reasons)
    # Who promotes it by hand accepts the new answers: else every night would ask again.
    assert anchor.passes(few.judgement.verdicts)
    assert not anchor.passes(many.judgement.verdicts)
    warned = decided(
        tmp_path,
        anchored(anchor_rows(1.1, changed=90)),
        severities={"promote.anchor_answers": "warning"},
    )
    assert warned.outcome == "promote"
    assert anchor.passes(warned.judgement.verdicts)  # nobody accepted anything
    allowed = decided(
        tmp_path, anchored(anchor_rows(1.1, changed=90)), {"max_changed_answers": 0.3}
    )
    assert allowed.outcome == "promote"
    meant = decided(
        tmp_path, anchored(anchor_rows(1.1, changed=90)), {"anchor_waiver": "corrected"}
    )
    assert meant.outcome == "promote"


def test_a_good_one_promotes_and_a_retrain_is_equivalent(tmp_path):
    better = decided(tmp_path, anchored(anchor_rows(1.0)))
    assert better.outcome == "promote"
    assert anchor.passes(better.judgement.verdicts)
    same = decided(tmp_path, anchored(anchor_rows(1.2)), loss=1.2)
    assert same.outcome == "equivalent"
    require(same.judgement)
    # It wins by what is new in the data, and is where it was on the rows of before.
    assert decided(tmp_path, anchored(anchor_rows(1.2))).outcome == "promote"
    assert decided(tmp_path, anchored(anchor_rows(1.21))).outcome == "promote"  # within the noise


def test_one_slice_that_was_poisoned_is_named(tmp_path):
    decision = decided(tmp_path, anchored(anchor_rows(1.0, slices={"code": 0.8})))
    assert decision.outcome == "rejected"
    assert "loss (anchor, code) −" in decision.reasons[-1]
    assert "75 examples" in decision.reasons[-1]
    assert decided(
        tmp_path, anchored(anchor_rows(1.0, slices={"code": 0.8})), {"slices": False}
    ).outcome in ("promote", "undecided")


def test_what_too_few_rows_tell_promotes_nothing(tmp_path):
    few = decided(tmp_path, anchored(anchor_rows(1.0, rows=7)))
    assert few.outcome == "undecided"
    require(few.judgement)
    assert "on the rows that the champion was judged by" in few.reasons[0]
    noisy = anchor_rows(1.2, rows=12)
    both = noisy.with_columns(candidate=pl.col("loss") + pl.Series([0.9, -0.9] * 6))
    decision = decided(tmp_path, anchored(both))
    assert decision.outcome == "undecided"
    assert "examples would show that it is no worse" in decision.reasons[0]


def test_without_an_anchor_nothing_is_promoted_and_a_sentence_says_why(tmp_path):
    gone = anchored(anchor_rows(1.0), missing="version 3 was registered without any")
    decision = decided(tmp_path, gone)
    assert decision.outcome == "undecided"
    assert "it could not be measured: version 3 was registered without any" in decision.reasons[0]
    assert not anchor.passes(decision.judgement.verdicts)


@pytest.mark.parametrize("missing", ["", "its rows are gone"])
def test_a_waiver_promotes_and_its_reason_is_kept(tmp_path, missing):
    waived = {"anchor_waiver": "answers on refunds corrected"}
    decision = decided(tmp_path, anchored(anchor_rows(1.5, changed=90), missing), waived)
    assert decision.outcome == "promote"
    require(decision.judgement)
    assert any("waived: answers on refunds corrected" in reason for reason in decision.reasons)
    assert not anchor.passes(decision.judgement.verdicts)  # its own rows are the next anchor
    held = decided(tmp_path, anchored(anchor_rows(1.5), missing), waived | {"mode": "approve"})
    assert held.outcome == "held"
    assert any("waived" in reason for reason in held.reasons)


def test_margin_and_noise_are_those_of_the_held_out_loss(tmp_path):
    slightly = anchored(anchor_rows(1.26))
    assert decided(tmp_path, slightly).outcome != "promote"
    assert decided(tmp_path, slightly, {"margins": {"held_out/loss": 0.1}}).outcome == "promote"
    assert decided(tmp_path, slightly, {"margins": {"anchor/loss": 0.1}}).outcome == "promote"
    noise = {"held_out/loss": 0.05, "held_out/loss@mail": 0.05}
    assert anchor.as_anchor(noise)["anchor/loss@mail"] == 0.05
    lenient = {"promote.anchor": "warning", "promote.anchor_slice": "warning"}
    assert decided(tmp_path, anchored(anchor_rows(1.5)), severities=lenient).outcome == "promote"


def test_the_evidence_shows_it_as_any_suite(tmp_path):
    decision = decided(tmp_path, anchored(anchor_rows(1.5, changed=90)))
    names = decision.judgement.write(tmp_path)
    page = (tmp_path / names[0]).read_text(encoding="utf-8")
    assert "loss (anchor)" in page
    assert "loss (anchor, mail)" in page
    assert "Question" in page
    assert "@example.com" not in page
    numbers = json.loads((tmp_path / names[1]).read_text(encoding="utf-8"))
    assert {"anchor", "anchor_slice", "anchor_answers"} <= {
        one["name"] for one in numbers["verdicts"]
    }
    assert "loss (anchor)" in decision.judgement.markdown


def test_slow_drift_meets_the_best_champion_so_far(tmp_path):
    """Each night is worse than the one before by half a percent, which nobody can tell apart."""
    step, loss, rows, nights = 1.005, 1.2, anchor_rows(1.2, seed=1), []
    for night in range(30):
        loss *= step
        candidate = anchor_rows(loss, seed=night)["candidate"]
        rows = rows.with_columns(candidate=candidate)
        decision = decided(tmp_path, anchored(rows))
        if decision.outcome != "promote":
            break
        nights.append(loss)
        rows = held(rows, BY)
    assert decision.outcome in ("undecided", "rejected")
    assert 1 <= len(nights) <= 10
    assert loss < 1.2 * 1.05


def test_the_loss_to_be_held_is_the_better_one():
    better, worse = anchor_rows(1.0), anchor_rows(1.3)
    assert held(better, BY)["loss"].equals(better["candidate"])
    assert held(worse, BY)["loss"].equals(worse["loss"])
    gone = better.with_columns(occurs=pl.col("source") != "mail")
    assert set(held(gone, BY)["source"]) == set(SOURCES) - {"mail"}
