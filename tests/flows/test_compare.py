"""Two runs compared: what differs, by what MLflow keeps of them, on made-up runs in a real store."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from expectations.promotion.contest import contest
from flows.cli import app
from flows.compare import NotComparable, comparisons
from flows.compared import rows as kept_rows
from flows.compared.changed_rows import change_of_rows, changed_rows
from flows.compared.comparison import compare
from flows.compared.evidence import evidence
from flows.compared.lines import charts
from flows.compared.neighbours import near
from flows.compared.page import page
from flows.compared.records import Comparison, Curve
from flows.compared.words import ended, told
from retune import registry
from retune.recipe import Promotion, Recipe
from retune.registry import RegistryError
from retune.tracking import DECISION, client, start_run
from tests.candidates import served
from tests.databases import furnish_mlflow, working_in
from tests.flows.made_runs import SCHEMA, SECRET, Made, asked, recipe, row, run_of
from tests.rendered import Page

RECIPE = {"name": "served", "model": {"base": "a/b"}, "dataset": {"source": "c/d"}}
OLD_ROWS = [(f"What is {n} plus {n}?", f"It is {2 * n}.") for n in range(40)]
# One answer and one question edited, two rows removed, three added: one is like a lost prompt.
LIKE_LOST = ("Does the parcel number 7 weigh as much as a brick? Tell me.", "No, never.")
NEW_ROWS = [
    ("What is 0 plus 0?", "It is nought."),
    ("How much is one and one?", "It is 2."),
    *OLD_ROWS[2:38],
    LIKE_LOST,
    ("Sing a song of sixpence", f"La, la, {SECRET}"),
    ("Write of the sea", "Waves."),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch, working_in(patch, furnish_mlflow(folder)):
        yield folder


@pytest.fixture(scope="module")
def pair(home):
    """An older run, and a newer one that learned worse from other rows."""
    older = run_of(Made(OLD_ROWS), "good one")
    newer = run_of(
        Made(NEW_ROWS, learning_rate=0.01, wrong=20, torch="2.2", loss=1.3, sha256="b" * 64),
        "bad one",
    )
    return older, newer


@pytest.fixture(scope="module")
def comparison(pair) -> Comparison:
    return compare(*pair)


def test_only_what_differs_is_told_of_recipe_and_environment(comparison):
    assert [(one.name, one.older, one.newer) for one in comparison.recipe] == [
        ("training.learning_rate", "0.001", "0.01")
    ]
    assert [(one.name, one.older, one.newer) for one in comparison.environment] == [
        ("torch", "2.1", "2.2")
    ]


def test_rows_are_added_removed_and_edited_by_what_they_say(comparison):
    data = comparison.data
    assert (data.older, data.newer) == (40, 41)
    # A row has another number and another source when a row before it is gone; it is the same row.
    assert (data.added, data.removed, data.edited, data.same) == (3, 2, 2, 36)
    assert sum(one.newer for one in data.sources) == 41
    added = next(one for one in data.spreads if (one.what, one.rows) == ("characters", "added"))
    lengths = sorted(len(question) + len(answer) for question, answer in NEW_ROWS[-3:])
    assert added.p50 == lengths[1]


def test_measures_have_intervals_over_the_same_examples(comparison):
    outcomes = {one.metric: one for one in comparison.differences}
    match = outcomes["held_out/exact_match"]
    assert (match.outcome, match.examples) == ("worse", 60)
    assert match.estimate == pytest.approx(-1 / 3)
    assert match.low < match.estimate < match.high < 0
    assert outcomes["held_out/loss"].outcome == "worse"
    tally = next(one for one in comparison.tallies if one.scorer == "exact_match")
    assert (tally.won, tally.lost, tally.same) == (0, 20, 40)
    loss = next(one for one in comparison.metrics if one.name == "evaluate/loss/tuned")
    assert loss.better == "older"


def test_a_lost_prompt_has_the_new_row_that_is_like_it(comparison, pair):
    lost = {one.prompt: one for one in comparison.lost}
    assert comparison.won == []
    nearest = [one.near[0] for one in lost.values() if one.near]
    assert nearest
    assert {one.row for one in nearest} == {NEW_ROWS.index(LIKE_LOST)}
    assert nearest[0].excerpt.startswith("user: Does the parcel")
    # Compared the other way round, no row is new that the older run had.
    assert compare(*reversed(pair)) == comparison


def test_nothing_that_is_shown_holds_a_secret(comparison):
    assert any(asked(0)[:20] in one.prompt for one in comparison.lost)
    for text in (comparison.model_dump_json(), page(comparison)):
        assert SECRET not in text
        assert "api03-AbCd" not in text


def test_curves_stand_over_tokens_and_files_side_by_side(comparison):
    curves = {(one.name, one.run): one for one in comparison.curves}
    assert curves["train/loss", "newer"].over == "tokens"
    assert curves["train/loss", "newer"].tokens == [100, 200, 300]
    assert curves["train/loss", "newer"].values == pytest.approx([1.3, 0.65, 1.3 / 3])
    (file,) = comparison.files
    assert (file.method, file.older_bytes, file.newer_ships, file.identical) == (
        *("q4_k_m", 1000, True),
        False,
    )


def test_without_the_work_folder_the_rest_is_compared(pair, home, monkeypatch, tmp_path):
    shutil.copy(home / "mlflow.db", tmp_path)
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path))
    client.cache_clear()
    shutil.copytree(home / "mlartifacts", tmp_path / "mlartifacts")
    found = compare(*pair)
    monkeypatch.setenv("RETUNE_HOME", str(home))
    client.cache_clear()
    assert found.data.added == 3
    assert found.lost
    assert not any(one.near for one in found.lost)
    (missing,) = found.missing
    assert "not on this machine" in missing


def test_a_run_that_ended_early_is_compared_by_its_settings(pair, home):
    with (
        pytest.raises(ValueError, match="no such file"),
        start_run(recipe(Made([], learning_rate=0.5)), "broken", {}) as run,
    ):
        raise ValueError("no such file")
    found = compare(pair[0], run.id)
    assert [one.name for one in found.recipe] == ["training.learning_rate"]
    assert found.data is None
    assert found.differences == []
    assert len(found.missing) == 2
    assert "the newer run kept no rows/accepted.parquet" in found.missing[0]
    assert "cannot be told" in page(found)


def test_a_run_of_the_same_differs_in_nothing(pair):
    again = run_of(Made(OLD_ROWS), "same again")
    found = compare(pair[0], again)
    assert found.recipe == found.environment == found.lost == found.won == []
    assert (found.data.added, found.data.removed, found.data.edited) == (0, 0, 0)
    assert {one.estimate for one in found.differences} == {0}
    assert "worse" not in {one.outcome for one in found.differences}
    assert all(one.identical for one in found.files)
    assert "Nothing differs in recipe, data or environment" in page(found)
    assert change_of_rows(pair[0], again) == ""


KEYS = {
    *("version", "older", "newer", "recipe", "data", "environment", "differences", "metrics"),
    *("tallies", "lost", "won", "curves", "files", "missing"),
}


def test_the_command_prints_json_and_leaves_a_page_with_the_newer_run(pair, home, tmp_path):
    older, newer = pair
    out = tmp_path / "pages"
    done = CliRunner().invoke(
        app, ["compare", "bad one", older[:12], "--json", "--out", str(out)], catch_exceptions=False
    )
    (found,) = json.loads(done.stdout)
    assert set(found) == KEYS
    assert (found["older"]["id"], found["newer"]["id"]) == pair
    (file,) = out.iterdir()
    kept = Path(client().download_artifacts(newer, f"compare/{older}.html", str(tmp_path)))
    assert kept.read_text() == file.read_text()
    # Every key is told of where people look.
    documented = (Path(__file__).parents[2] / "docs" / "operate.md").read_text(encoding="utf-8")
    assert all(f"`{key}`" in documented for key in KEYS)


def test_the_terminal_tells_the_answer_first(pair, home):
    done = CliRunner().invoke(app, ["compare", *pair], catch_exceptions=False)
    assert done.exit_code == 0
    first, second = done.stdout.splitlines()[:2]
    assert first.startswith("older  good one")
    assert second.startswith("newer  bad one")
    for words in ("worse at ", "learning_rate 0.001 → 0.01", "3 rows added, 2 removed, 2 edited"):
        assert words in done.stdout


def test_the_page_loads_nothing_and_its_text_is_only_text(pair, home):
    hostile = "<img src=x onerror=alert(1)>"
    rows = [*OLD_ROWS, (hostile, "](javascript:alert(1))")]
    found = compare(pair[0], run_of(Made(rows, wrong=3), f"run {hostile}"))
    seen = Page(page(found))
    names = set(seen.names())
    assert not names & {"a", "img", "script", "iframe", "link"}
    assert hostile in seen.text


def test_the_page_says_what_its_marks_columns_and_colours_mean(comparison):
    said = Page(page(comparison)).text
    for words in (
        "To the right the newer run is better than the older one.",
        "worse: likewise, the other way",
        "only older, only newer: which the other run was not asked",
        "exact match: yes → no",
        "blue if it is the newer, orange the older",
        "Environment: torch differs.",
    ):
        assert words in said, words
    assert "100.0% → 0.0%" not in said


def test_few_examples_have_no_interval():
    few = contest(*(grades(side) for side in ([0.0] * 6, [1.0] * 6)), Promotion(), {})[0]
    assert told(few) == "−100.0 points (no interval: too few examples)"


def grades(values: list[float]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "suite": "held_out",
            "slice": "a",
            "example": [f"{number:016x}" for number in range(len(values))],
            "scorer": "exact_match",
            "value": values,
            "weight": 1.0,
        }
    )


def test_which_run_serves_and_what_few_examples_tell_is_said(comparison):
    serving = comparison.newer.model_copy(update={"serves": True, "outcome": "Promoted"})
    (one, *_) = [one for one in comparison.differences if not one.is_slice]
    few = one.model_copy(update={"outcome": "undecided", "examples": 6, "needed": 8})
    told = page(comparison.model_copy(update={"newer": serving, "differences": [few]}))
    assert "Promoted, serves now" in told
    assert "of fewer than 8 examples nothing is told" in told
    assert "8 examples would decide" not in told
    assert "gain (95% interval)" in told


def test_what_became_of_a_candidate_is_told(home):
    made = run_of(Made(OLD_ROWS), "decided about")
    client().set_tag(made, DECISION, "Undecided: too little\n- of it")
    assert evidence(made).described().outcome == "Undecided"


def test_a_version_that_was_rolled_back_is_told_from_one_that_serves(home):
    served(Recipe.parse(RECIPE), "one", "two")
    registry.rollback("served", None, "ann", "answers in rhyme")
    first, second = registry.versions("served")
    assert ended(evidence(first.run_id).described()).endswith("serves now")
    assert ended(evidence(second.run_id).described()).startswith("served/2: ")
    assert ended(evidence(second.run_id).described()).endswith(", rolled back since")


def test_the_dashed_curve_is_drawn_over_the_other():
    curves = [
        Curve(name="train/loss", run=run, tokens=[1, 2], values=[2.0, 1.0], over="tokens")
        for run in ("older", "newer")
    ]
    drawn = charts(curves)
    assert drawn.index('polyline class="newer"') < drawn.index('polyline class="older"')


def test_several_runs_are_compared_in_the_order_of_time(pair, home):
    third = run_of(Made(OLD_ROWS, learning_rate=0.02), "third")
    found = comparisons([third, "bad one", pair[0], "third"])
    assert [(one.older.id, one.newer.id) for one in found] == [pair, (pair[1], third)]


@pytest.mark.parametrize("named", [["good one"], ["good one", "good one"]])
def test_one_run_is_not_compared(pair, named):
    with pytest.raises(NotComparable, match="name two or more"):
        comparisons(named)


def test_a_run_that_nobody_knows_is_told(pair):
    with pytest.raises(RegistryError, match="nobody"):
        comparisons(["good one", "nobody"])


class TestRows:
    """The digests of rows, without MLflow."""

    @staticmethod
    def lines(pairs: list[tuple[str, str]]) -> pl.DataFrame:
        return pl.DataFrame([row(number, *pair) for number, pair in enumerate(pairs)], SCHEMA)

    def digests(self, pairs: list[tuple[str, str]], tmp_path: Path) -> pl.DataFrame:
        path = tmp_path / "rows.parquet"
        self.lines(pairs).write_parquet(path)
        return kept_rows.kept(pl.concat(list(kept_rows._lines(path))))

    def test_a_row_that_is_there_twice_counts_twice(self, tmp_path):
        once = self.digests(OLD_ROWS, tmp_path)
        twice = self.digests([*OLD_ROWS, OLD_ROWS[3], OLD_ROWS[3]], tmp_path)
        assert changed_rows(once, twice).brief() == "data +2 rows"
        assert changed_rows(twice, once).brief() == "data −2 rows"

    def test_edits_are_counted_in_words(self, tmp_path):
        before = self.digests(OLD_ROWS, tmp_path)
        edited = [(question, f"{answer} Yes.") for question, answer in OLD_ROWS[:3]]
        after = self.digests([*edited, *OLD_ROWS[3:]], tmp_path)
        assert changed_rows(before, after).brief() == "data 3 rows edited"
        more = self.digests([*edited, *OLD_ROWS[3:], ("New?", "Yes.")], tmp_path)
        assert changed_rows(before, more).brief() == "data +1 rows, 3 edited"

    def test_a_greeting_makes_no_edit(self, tmp_path):
        before = self.digests([("Hello", f"answer {n}") for n in range(5)], tmp_path)
        after = self.digests([("Hello", f"reply {n}") for n in range(5)], tmp_path)
        assert changed_rows(before, after).brief() == "data +5 −5 rows"

    def test_of_very_many_rows_the_same_ones_are_kept_by_both(self, tmp_path, monkeypatch):
        monkeypatch.setattr(kept_rows, "MOST_ROWS", 300)
        pairs = [(f"question {n}", f"answer {n}") for n in range(2000)]
        before, after = self.digests(pairs, tmp_path), self.digests(pairs[200:], tmp_path)
        assert before["share"][0] == 0.125
        found = changed_rows(before, after)
        assert len(found.added) == 0
        assert found.share == 0.125
        assert 100 < len(found.removed) / found.share < 300
        assert found.brief().startswith("data about −")

    def test_runs_that_kept_different_shares_are_compared_by_the_smaller(
        self, tmp_path, monkeypatch
    ):
        pairs = [(f"question {n}", f"answer {n}") for n in range(1000)]
        before = self.digests(pairs, tmp_path)
        monkeypatch.setattr(kept_rows, "MOST_ROWS", 300)
        found = changed_rows(before, self.digests(pairs, tmp_path))
        assert (len(found.added), len(found.removed), found.share) == (0, 0, 0.25)

    def test_what_must_not_be_learnt_is_of_the_row(self, tmp_path):
        path = tmp_path / "rows.parquet"
        table = self.lines(OLD_ROWS[:1])
        digests = []
        for learn in (None, False):
            turns = [turn | {"learn": learn} for turn in table["messages"][0]]
            changed = table.with_columns(messages=pl.Series([turns], dtype=SCHEMA["messages"]))
            changed.write_parquet(path)
            digests += [line["digest"][0] for line in kept_rows._lines(path)]
        assert len(set(digests)) == 2

    def test_a_prompt_that_is_like_nothing_has_no_neighbour(self, tmp_path):
        path = tmp_path / "rows.parquet"
        table = self.lines(OLD_ROWS)
        table.write_parquet(path)
        prompts = pl.DataFrame(
            {
                "example": ["strange", "empty", "near"],
                "prompt": [
                    json.dumps([{"role": "user", "content": text}])
                    for text in ("Zebras graze quietly", "", "what is 12 plus 12")
                ],
            }
        )
        found = near(prompts, path, table.select("row", "source"))
        assert found["strange"] == found["empty"] == []
        assert found["near"][0].row == 12
        assert found["near"][0].likeness == pytest.approx(1)
