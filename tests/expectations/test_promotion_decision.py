"""What becomes of a candidate, on made-up outcomes of models of stated quality."""

import json
import re
from datetime import UTC, datetime

import polars as pl
import pytest

from expectations.promotion.contest import NotCalibrated, PairedDifference, contest
from expectations.promotion.decision import NOTHING_MORE, Opponent, decide
from expectations.promotion.demands import amount, told
from expectations.promotion.evidence import Exhibit
from expectations.promotion.examples import best, worst
from expectations.promotion.findings import more_examples
from expectations.promotion.forest import NOISE, forest
from expectations.promotion.forest import STYLE as FOREST
from expectations.promotion.legend import legend
from expectations.promotion.subject import AboutCandidate
from expectations.verdicts import Rejected, require
from retune.recipe import Promotion, Recipe
from tests.expectations.made_up import side, written
from tests.rendered import Page

VALUES = {"name": "sums", "model": {"base": "b"}, "dataset": {"source": "d.jsonl"}}
RULE = Promotion(resamples=2000)
LOSSES = {"base": 2.0, "champion": 1.2, "tuned": 1.0}


def decided(
    tmp_path,
    promotion=None,
    noise=None,
    champion=None,
    first=False,
    severities=None,
    judge=None,
    exhibit=NOTHING_MORE,
    **made,
):
    """Decide on a candidate that is as good as the champion but for what is `made` of it."""
    outcomes = written(
        tmp_path / "outcomes.parquet",
        side("base", loss=2.0, match=0.3, battery=0.6, seed=1, incidents=3),
        side("tuned", seed=2, incidents=3, **made),
    )
    other = written(tmp_path / "champion.parquet", side("champion", seed=3, **(champion or {})))
    recipe = Recipe.parse(
        VALUES
        | {"promotion": {"resamples": 2000, "assumed_noise": 0.01} | (promotion or {})}
        | {"gates": {"severities": severities or {}}, "evaluation": {"judge": judge or {}}}
    )
    opponent = None if first else Opponent("champion, version 3", "bb", other)
    return decide(outcomes, "aa", opponent, recipe, noise or {}, exhibit=exhibit)


def named(decision, name):
    return [verdict for verdict in decision.judgement.verdicts if verdict.name == name]


def test_a_better_one_promotes(tmp_path):
    decision = decided(tmp_path, loss=1.15)
    assert decision.outcome == "promote"
    assert not decision.judgement.failed
    (win,) = named(decision, "win")
    assert win.passed
    assert decision.reasons == (str(win),)
    assert decision.differences[0].metric == "held_out/loss"
    assert decision.differences[0].estimate > 0


def test_the_first_is_judged_against_the_base(tmp_path):
    decision = decided(tmp_path, first=True)
    assert decision.outcome == "promote"
    assert "better than the base" in decision.reasons[0]
    assert decided(tmp_path, first=True, loss=2.0).outcome == "undecided"
    assert decided(tmp_path, first=True, loss=2.1).outcome == "rejected"


@pytest.mark.parametrize("mode", ["approve", "never"])
def test_a_better_one_is_held_where_somebody_else_decides(tmp_path, mode):
    decision = decided(tmp_path, {"mode": mode}, loss=1.15)
    assert decision.outcome == "held"
    assert f"promotion.mode={mode}" in decision.reasons[0]


def test_the_same_weights_are_equivalent(tmp_path):
    path = written(tmp_path / "o.parquet", side("base"), side("tuned"))
    champion = Opponent("champion, version 3", "aa", None)
    decision = decide(path, "aa", champion, Recipe.parse(VALUES))
    assert decision.outcome == "equivalent"
    assert "the same model" in decision.reasons[0]
    require(decision.judgement)


def test_one_that_nobody_can_tell_apart_is_equivalent_and_no_fault(tmp_path):
    decision = decided(tmp_path, {"margins": {"loss": 0.05}})
    assert decision.outcome == "equivalent"
    require(decision.judgement)
    (win,) = named(decision, "win")
    assert win.judged
    assert not win.passed


def test_undecided_says_how_many_examples_would_decide(tmp_path):
    decision = decided(tmp_path, champion={"rows": 40}, loss=1.185, rows=40)
    assert decision.outcome == "undecided"
    require(decision.judgement)
    needed = decision.differences[0].needed
    assert needed > 40
    assert f"about {needed:,} examples" in decision.reasons[0]


def test_a_margin_is_proven_only_where_the_recipe_asks_for_it(tmp_path):
    """Five points of a hundred questions cannot be shown; what seems worse by more is not passed over."""
    few = {"rows": 100, "champion": {"rows": 100}, "loss": 1.1}
    small = decided(tmp_path, match=0.595, **few)
    assert small.outcome == "promote"
    seen = next(v.seen for v in named(small, "no_worse") if "exact match" in v.expected)
    assert "worse" in seen.partition("(")[0]
    asked = {"margins": {"exact_match": 0.05}}
    assert decided(tmp_path, asked, match=0.595, **few).outcome == "undecided"
    assert decided(tmp_path, match=0.585, **few).outcome == "undecided"
    assert decided(tmp_path, match=0.3, **few).outcome == "rejected"


def test_the_battery_has_its_budget(tmp_path):
    """What of it a model forgets counts by item; a share of 120 probes need not be proven as well."""
    assert decided(tmp_path, loss=1.1, forgotten=9).outcome == "promote"


def test_worse_is_rejected_by_name(tmp_path):
    decision = decided(
        tmp_path, {"floors": {"battery/passed": 0.9}}, loss=1.3, match=0.4, failing=(2,)
    )
    assert decision.outcome == "rejected"
    assert {verdict.name for verdict in decision.judgement.failed} >= {
        *("win", "no_worse", "floor", "incidents")
    }
    with pytest.raises(Rejected, match="exact match"):
        require(decision.judgement)
    (incidents,) = named(decision, "incidents")
    assert "1 of 3 do: languages: Probe 2 of incidents" in incidents.seen


def test_one_that_wins_but_forgot_is_rejected(tmp_path):
    decision = decided(tmp_path, {"margins": {"passed": 0.5}}, loss=1.1, forgotten=24)
    assert decision.outcome == "rejected"
    by_base, by_champion = named(decision, "budget")
    assert "base" in by_base.expected
    assert "champion" in by_champion.expected
    assert "Probe " in by_champion.seen
    kept = decided(tmp_path, {"margins": {"passed": 0.5}, "budget": 0.4}, loss=1.1, forgotten=24)
    assert kept.outcome != "rejected" or named(kept, "no_worse_slice")[0].failed


def test_one_that_wins_but_loses_a_slice_is_rejected(tmp_path):
    made = {"loss": 1.05, "slices": {"code": 0.3}}
    decision = decided(tmp_path, **made)
    assert decision.outcome == "rejected"
    assert "loss (held_out, code)" in decision.reasons[0]
    assert decided(tmp_path, {"slices": False}, **made).outcome == "promote"


def test_what_another_seed_could_have_done_to_a_slice_rejects_nobody(tmp_path):
    """A slice is one skill, which one seed learns better than the next; how much, calibration tells."""
    made = {"loss": 1.08, "slices": {"code": 0.18}}
    assert decided(tmp_path, **made).outcome == "promote"
    quiet = {"held_out/loss": 0.004, "held_out/loss@code": 0.006, "held_out/loss@mail": 0.008}
    assert decided(tmp_path, noise=quiet, **made).outcome == "rejected"
    # Of few replicas one slice may look quiet: it is taken for as loud as all of them together.
    loud = quiet | {"held_out/loss@mail": 0.06}
    assert decided(tmp_path, noise=loud, **made).outcome == "promote"


def test_replicas_are_equivalent_beside_the_noise_that_is_assumed(tmp_path):
    decision = decided(tmp_path, loss=1.189)
    assert decision.outcome == "equivalent"
    assert "standard deviation of 0.01" in decision.reasons[0]
    assert "assumed; `retune calibrate` measures it" in decision.reasons[0]
    told_apart = decided(tmp_path, {"assumed_noise": 0}, loss=1.18)
    assert told_apart.outcome == "promote"
    measured = decided(tmp_path, noise={"held_out/loss": 0.002}, loss=1.18)
    assert measured.outcome == "promote"
    assert "assumed" not in measured.reasons[0]


def test_the_base_is_no_replica(tmp_path):
    """The first candidate is compared with what it was made from: a percent of its loss is a gain."""
    assert decided(tmp_path, first=True, loss=1.97).outcome == "promote"


@pytest.mark.parametrize(("forgotten", "outcome"), [(1, "promote"), (2, "rejected")])
def test_one_item_of_a_handful_is_no_proof_that_a_tenth_is_forgotten(tmp_path, forgotten, outcome):
    def small(name, passed):
        battery = [one for one in side(name, loss=1.1) if one.suite == "battery"][:20]
        rest = [one for one in side(name, loss=LOSSES[name]) if one.suite != "battery"]
        graded = [
            one._replace(grades={"passed": float(number < passed)})
            for number, one in enumerate(battery)
        ]
        return [*rest, *graded]

    few = 3
    path = written(tmp_path / "o.parquet", small("base", few), small("tuned", few - forgotten))
    other = written(tmp_path / "c.parquet", small("champion", few))
    champion = Opponent("champion, version 3", "bb", other)
    decision = decide(path, "aa", champion, Recipe.parse(VALUES))
    assert decision.outcome == outcome
    if outcome == "promote":
        seen = {verdict.seen for verdict in named(decision, "budget")}
        assert all("of so few items that is no proof of more than 10%" in text for text in seen)


def test_a_warning_does_not_block(tmp_path):
    made = {"loss": 1.05, "slices": {"code": 0.3}}
    lenient = {"promote.no_worse_slice": "warning"}
    assert decided(tmp_path, severities=lenient, **made).outcome == "promote"
    # Who wants no win, gets whatever is no worse.
    assert decided(tmp_path, severities={"promote.win": "info"}).outcome == "promote"


def test_a_champion_that_could_not_be_measured_decides_nothing(tmp_path):
    path = written(tmp_path / "o.parquet", side("base", loss=2.0), side("tuned"))
    champion = Opponent("champion, version 3", "bb", None, "its adapter is not there any more")
    decision = decide(path, "aa", champion, Recipe.parse(VALUES))
    assert decision.outcome == "undecided"
    assert "its adapter is not there any more" in decision.reasons[0]


def test_a_demand_on_what_nobody_measured_promotes_nothing(tmp_path):
    absent = decided(tmp_path, {"wins": ["held_out/loss", "held_out/repetitive"]}, loss=1.15)
    assert absent.outcome == "undecided"
    assert "no example was graded by held_out/repetitive" in absent.reasons[0]
    assert (
        decided(tmp_path, {"floors": {"battery/repetitive": 0.1}}, loss=1.15).outcome == "undecided"
    )


def test_grades_of_a_judge_that_do_not_count_are_told_from_those_that_nobody_asked_for(tmp_path):
    judge = {"url": "http://127.0.0.1:1/v1", "model": "m", "compare": ["held_out"]}
    absent = decided(tmp_path, {"wins": ["held_out/preferred"]}, judge=judge, loss=1.15)
    assert absent.outcome == "undecided"
    assert "the verdicts judge.agreement and judge.no_votes say why" in absent.reasons[0]


def test_a_margin_of_the_noise_needs_a_calibration(tmp_path):
    with pytest.raises(NotCalibrated, match="retune calibrate RECIPE"):
        decided(tmp_path, {"margins": {"held_out/loss": "2σ"}}, loss=1.15)
    noise = {"held_out/loss": 0.004}
    decision = decided(tmp_path, {"margins": {"held_out/loss": "2σ"}}, noise, loss=1.15)
    assert decision.differences[0].margin == pytest.approx(0.008)
    assert decision.outcome == "promote"
    loud = decided(tmp_path, noise={"held_out/loss": 0.05}, loss=1.15)
    assert loud.outcome == "equivalent"  # two replicas would be that far apart
    assert "standard deviation of 0.0500 nats per token" in loud.reasons[0]
    assert "assumed" not in loud.reasons[0]


def test_the_page_masks_and_says_the_verdict(tmp_path):
    decision = decided(tmp_path, loss=1.3, match=0.4)
    folder = tmp_path / "report"
    folder.mkdir()
    assert set(decision.judgement.write(folder)) == {"evidence.html", "decision.json"}
    page = (folder / "evidence.html").read_text()
    assert "is rejected: it does not take the place of the champion, version 3" in page
    assert "[e-mail]" in page
    assert "@example.com" not in page
    assert page.count('class="lost"') == 20
    numbers = json.loads((folder / "decision.json").read_text())
    assert numbers["outcome"] == "rejected"
    assert len(numbers["differences"]) == len(decision.differences)
    assert "loss" in decision.judgement.markdown


SUBJECT = AboutCandidate(
    "sums", 4, "tuesday <b>", "0" * 32, "sums/3 serves since 2026-11-24 09:00 UTC", False
)
TO_DO = {  # by outcome and mode: what a person is told to do
    "promote": ({}, {"loss": 1.15}, "`retune rollback sums` lets the version before serve again"),
    "held": ({"mode": "approve"}, {"loss": 1.15}, "Decide: `retune approve sums/4` or"),
    "kept": ({"mode": "never"}, {"loss": 1.15}, "unless it shall serve: `retune promote sums 4`"),
    "equivalent": (
        {"margins": {"loss": 0.05}},
        {},
        "there is nothing to gain by it, and sums/3 serves since",
    ),
    "undecided": (
        {},
        {"champion": {"rows": 40}, "loss": 1.185, "rows": 40},
        "By loss (held_out), at this difference about",
    ),
    "rejected": ({}, {"loss": 1.3}, "`retune compare sums@champion sums/4` tells what differs"),
}


@pytest.mark.parametrize("case", TO_DO)
def test_the_page_says_whom_it_is_about_who_serves_and_what_to_do(tmp_path, case):
    rule, made, words = TO_DO[case]
    decision = decided(tmp_path, rule, exhibit=Exhibit(subject=SUBJECT), **made)
    assert decision.outcome == {"kept": "held"}.get(case, case)
    decision.judgement.write(tmp_path)
    page = Page((tmp_path / "evidence.html").read_text())
    about = (
        "sums/4, made by the run “tuesday <b>”; sums/3 serves since 2026-11-24 09:00 UTC. As of 2"
    )
    assert about in page.text
    assert words.replace("`", "") in page.text
    assert "b" not in page.names()[: page.names().index("ul")]  # a name is text
    said = decision.judgement.markdown
    # It is named, since "the candidate" is one of several that a person sees in a week.
    assert page.text.count("sums/4 is ") == 2  # title and headline
    # Who is asked has the question above it.
    assert (words in said) == (decision.outcome != "held")


def test_who_is_asked_sees_the_run_that_waits_until_when_and_what_it_is_like(tmp_path):
    page = "http://127.0.0.1:4200/runs/flow-run/1"
    subject = SUBJECT._replace(
        trained_by="monday",
        alike="It was found to be equivalent to version 2, which was rolled back: rhymes.",
        until=datetime(2026, 12, 1, 0, 20, tzinfo=UTC),
        page=page,
    )
    decision = decided(tmp_path, {"mode": "approve"}, exhibit=Exhibit(subject=subject), loss=1.15)
    decision.judgement.write(tmp_path)
    html = (tmp_path / "evidence.html").read_text()
    said = Page(html).text
    assert "sums/4, trained by the run “monday”, judged by the run “tuesday <b>”" in said
    assert "equivalent to version 2, which was rolled back: rhymes." in said
    assert f'<a href="{page}">this run&#x27;s page in Prefect</a>' in html
    resume = f"Resume in the menu (⋮) of [this run's page in Prefect]({page})"
    assert f"Decide until 2026-12-01 00:20 UTC: {resume}" in decision.next_step
    assert "rolled back: rhymes" in decision.judgement.markdown
    # How much better it is, of how many examples: also where a person is asked.
    assert "| measure | difference | 95% interval | examples | |" in decision.judgement.markdown
    assert "better by loss (held_out)" in decision.compared
    assert "95% interval" in decision.compared
    assert any("better than the champion" in reason for reason in decision.reasons)
    none = subject._replace(page=None).next_step("held", "approve")
    assert "Resume" not in none


def test_the_band_is_the_margin_and_the_frame_is_the_noise():
    one = PairedDifference(
        metric="held_out/loss",
        examples=82,
        candidate=0.4,
        opponent=0.39,
        estimate=-0.01,
        low=-0.02,
        high=0.0,
        margin=0.01,
        noise=0.01,
        holds=False,
        outcome="undecided",
    )
    drawn = forest([one])
    edges = {
        kind: float(re.search(rf'class="{kind}" x="([\d.]+)"', drawn)[1])
        for kind in ("within", "noise")
    }
    assert edges["noise"] < edges["within"] < 100
    assert ".forest .noise { fill: none;" in FOREST  # no shade that is taken for the band's
    how = legend([one], "candidate", "champion", 0.05)
    assert "(grey band, from −1 to +1) the margin" in how
    assert "(dotted frame) the noise of training" in how
    assert f"differ by: {amount(one, NOISE * one.noise)} (loss), measured." in how
    assumed = one.model_copy(update={"assumed": True})
    assert "(loss), assumed; retune calibrate measures it." in legend([assumed], "a", "b", 0.05)
    assert "a dashed line is that of a difference that is undecided" in how
    assert "further out logarithmic" in how


def test_passed_does_not_stand_beside_undecided(tmp_path):
    made = {"champion": {"rows": 40, "match": 0.8}, "loss": 1.15, "rows": 40, "match": 0.8}
    passed = [one for one in named(decided(tmp_path, **made), "no_worse") if one.passed]
    assert passed
    assert not [one.seen for one in passed if one.seen.startswith("undecided")]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.02, "examples would show that it is better"),
        (-0.02, "examples would show that it is worse"),
        (0.001, "examples would show that it is equivalent"),
    ],
)
def test_more_examples_are_said_to_show_what_they_would(value, words):
    shifts = [value + 0.1 * sign for sign in (1, -1)] * 15
    mine, other = (
        pl.DataFrame(
            [("held_out", "loss", str(n), "a", grade, 1.0) for n, grade in enumerate(grades)],
            schema=["suite", "scorer", "example", "slice", "value", "weight"],
            orient="row",
        )
        for grades in ([1 - shift for shift in shifts], [1.0] * 30)
    )
    (one,) = contest(mine, other, Promotion(assumed_noise=0, slices=False), {})
    assert one.outcome == "undecided"
    assert words in told(one)
    assert ("That would not promote it" in more_examples([one])) == (one.would_be != "better")
    assert ("`formatting.held_out_share`" in more_examples([one])) == (one.would_be == "better")
    # "undecided … better" would be read as two findings.
    assert f", leaning {'better' if value > 0 else 'worse'} by 0.0" in told(one)


def test_the_page_says_what_its_marks_and_columns_mean(tmp_path):
    decision = decided(tmp_path, loss=1.3, match=0.4)
    decision.judgement.write(tmp_path)
    said = Page((tmp_path / "evidence.html").read_text()).text
    for words in (
        "the true difference is in there in 95% of such comparisons",
        "The axis counts margins: one is 0.0100 nats per token (loss)",
        "5.0 points (",
        "worse: likewise, the other way",
        "held_out: rows of the dataset that were kept out of the training",
        "p: how often chance alone makes so large a difference",
    ):
        assert words in said, words
    assert "anchor: rows that" not in said  # there is none here


def test_a_loss_is_shown_with_what_was_asked_and_a_row_of_two_suites_once(tmp_path):
    turns = [("user", "Which way to the sea?"), ("assistant", "North, by the old road.")]
    prompt = json.dumps([{"role": role, "content": text} for role, text in turns])
    (first, *_), (other, *_) = side("tuned", loss=3.0), side("champion", loss=1.0)
    tables = []
    for one in (first, other):
        lines = [one._replace(suite=suite, prompt=prompt) for suite in ("held_out", "anchor")]
        path = written(tmp_path / f"{one.side}.parquet", lines)
        tables.append(pl.read_parquet(path))
    (lost,) = worst(*tables, {"held_out/loss": 0.01, "anchor/loss": 0.01}, 20).to_dicts()
    assert lost["metric"] == "anchor/loss"
    assert [lost["prompt"], lost["expected"]] == [text for _, text in turns]


def test_what_differs_by_less_than_the_margin_is_not_lost_and_answers_come_first(tmp_path):
    lost = worst(*_sides(tmp_path, {"loss": 1.005}, {"loss": 1.0}), {"held_out/loss": 0.5}, 20)
    assert lost.is_empty()
    margins = {"held_out/loss": 0.0, "held_out/exact_match": 0.05}
    both = worst(*_sides(tmp_path, {"loss": 1.3, "match": 0.4}, {"loss": 1.0}), margins, 20)
    answered = both["candidate"].is_not_null().to_list()
    assert answered == sorted(answered, reverse=True)
    assert {True, False} == set(answered)
    won = best(*_sides(tmp_path, {"loss": 1.0}, {"loss": 1.3}), margins, 20)
    assert (won["candidate_grade"] < won["opponent_grade"]).all()


def _sides(folder, tuned, champion):
    lines = [side("tuned", seed=3, **tuned), side("champion", seed=3, **champion)]
    return [
        pl.read_parquet(written(folder / f"{number}.parquet", one))
        for number, one in enumerate(lines)
    ]


def test_the_grade_of_one_example_is_no_share(tmp_path):
    decided(tmp_path, loss=1.3, match=0.4).judgement.write(tmp_path)
    page = Page((tmp_path / "evidence.html").read_text()).text
    assert "exact match (held_out): no against yes" in page
    assert "0.0% against 100.0%" not in page.partition("it lost most by")[2].partition("Files")[0]


def test_a_page_without_files_or_losses_is_made(tmp_path):
    path = written(tmp_path / "o.parquet", side("base"), side("tuned"))
    decision = decide(path, "aa", None, Recipe.parse(VALUES), exhibit=Exhibit(facts={"cost": "3"}))
    decision.judgement.write(tmp_path)
    assert "cost" in (tmp_path / "evidence.html").read_text()


# Tables that are not as they should be.


def grades(values, scorer="loss", suite="held_out", slices=None, weight=1.0):
    count = len(values)
    return pl.DataFrame(
        {
            "suite": suite,
            "slice": slices or ["a"] * count,
            "example": [f"{number:016x}" for number in range(count)],
            "scorer": scorer,
            "value": [float(value) for value in values],
            "weight": weight,
        }
    )


def outcome_of(candidate, opponent, rule=RULE, **more):
    return contest(grades(candidate, **more), grades(opponent, **more), rule, {})[0]


def test_few_examples_decide_nothing():
    one = outcome_of([0.1] * 7, [9.0] * 7)
    assert (one.outcome, one.needed) == ("undecided", 8)
    assert outcome_of([0.1] * 12, [9.0] * 12).outcome == "better"
    assert outcome_of([1] * 4, [0] * 4, scorer="exact_match").outcome == "undecided"


def test_no_variance_is_no_certainty():
    assert outcome_of([1.0] * 30, [1.0] * 30).outcome == "equivalent"
    assert outcome_of([1.1] * 30, [1.0] * 30).outcome == "worse"
    # Twenty grades that are all alike do not show that none ever differs by a twentieth.
    alike = outcome_of([1] * 20, [1] * 20, scorer="exact_match")
    assert alike.outcome == "undecided"
    assert alike.needed > 20
    assert alike.holds  # but of so few it is all that can be asked
    assert not outcome_of([0] + [1] * 19, [1] * 20, scorer="exact_match").holds


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_grade_that_is_no_number_is_never_better(bad):
    assert outcome_of([bad] + [0.1] * 30, [1.0] * 31).outcome == "worse"
    one = outcome_of([0.1] * 31, [bad] + [1.0] * 30)
    assert (one.outcome, one.examples, one.left_out) == ("better", 30, 1)
    assert outcome_of([bad] * 20, [bad] * 20).outcome == "undecided"


def test_examples_of_one_side_are_counted_and_duplicates_averaged():
    candidate, opponent = grades([0.5] * 20), grades([1.0] * 25)
    one = contest(pl.concat([candidate] * 3), opponent, RULE, {})[0]
    assert (one.examples, one.left_out) == (20, 5)
    assert contest(grades([]), grades([]), RULE, {}) == ()


def test_a_loss_counts_by_its_tokens():
    candidate, opponent = [1.0] * 20 + [2.0] * 20, [1.5] * 20 + [1.6] * 20
    weights = pl.Series([9.0] * 20 + [1.0] * 20)
    tables = [grades(values).with_columns(weight=weights) for values in (candidate, opponent)]
    one = contest(*tables, RULE, {})[0]
    assert one.estimate == pytest.approx(0.9 * 0.5 - 0.1 * 0.4)
    assert one.candidate == pytest.approx(1.1)


def test_less_is_better_where_the_measure_says_so():
    assert outcome_of([0] * 60, [1] * 60, scorer="repetitive").outcome == "better"
    assert outcome_of([0] * 60, [1] * 60, scorer="exact_match").outcome == "worse"
    assert contest(
        grades([1] * 60, scorer="relative_length"), grades([2] * 60, scorer="relative_length"),
        RULE, {},
    ) == ()  # fmt: skip


def test_a_slices_name_is_masked():
    slices = ["jane.doe@example.com"] * 20 + ["b"] * 20
    table = grades([1.0] * 40, slices=slices)
    assert "held_out/loss@[e-mail]" in {one.metric for one in contest(table, table, RULE, {})}


def test_the_order_of_rows_changes_nothing():
    candidate = read_order = grades([0.1 * number for number in range(40)])
    opponent = grades([0.1 * number + 0.02 * (number % 3) for number in range(40)])
    again = contest(
        read_order.reverse(), opponent.sample(fraction=1, shuffle=True, seed=3), RULE, {}
    )
    assert contest(candidate, opponent, RULE, {}) == again
