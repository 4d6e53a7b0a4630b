"""The gate blocks bad datasets, with a message; of good ones it keeps the flawed rows back."""

import json
import math
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expectations.data import judgement as judge
from expectations.data.evidence import Reference
from expectations.data.messages import Rules
from expectations.data.scores import distribution
from expectations.data.suite import fingerprint
from expectations.verdicts import Rejected, require
from retune.outputs import Step, read_output
from retune.recipe import Recipe, Validation
from retune.recipe.flaws import DATASET_EXPECTATIONS, FLAWS
from retune.records import Pins, Rows, Screened
from retune.sources import SourceError, pin, pin_file
from tasks.validate import key, quarantine, scoring, screening
from tasks.validate.gate import FILES, gate
from tasks.validate.prompts import evaluation_prompts
from tasks.validate.prompts_child import texts
from tasks.validate.task import screen, validate
from tests.expectations.test_features import AWS_KEY, A, Q, prose, write
from tests.tasks.conftest import make_tokenizer
from tests.tasks.test_scoring import make_classifier, run_here


@pytest.fixture(autouse=True)
def quick(request):
    if "pages" not in request.fixturenames:
        request.getfixturevalue("no_pages")


@pytest.fixture
def pages() -> None:
    """Let the gate write its pages and charts."""


def sound(count: int) -> list:
    return [[("user", prose(n, 9) + "?"), ("assistant", prose(n + 9000, 15))] for n in range(count)]


def run_gate(
    folder, *conversations, scores=None, reference=None, specials=(), rows=None, **settings
):
    config = Validation(**{"min_rows": 10, **settings})
    path = write(folder, *conversations, scores=scores, **(rows or {}))
    return gate(path, Rules(config, specials), folder, Reference(reference))


def test_a_good_dataset_passes_and_loses_only_its_flawed_rows(pages, tmp_path):
    report = run_gate(tmp_path, *sound(40), [Q, Q, A])
    assert report.failed == []
    assert (report.rows, report.accepted, report.quarantined) == (41, 40, 1)
    assert len(pl.read_parquet(tmp_path / "rows.parquet")) == 40
    (line,) = pl.read_parquet(tmp_path / "quarantine.parquet").to_dicts()
    assert line["row"] == 40
    assert line["reasons"] == ["roles_out_of_order"]
    assert line["excerpt"].startswith("user user assistant: What is 2 + 2?")
    assert "roles out of order" in (tmp_path / "report.json").read_text()
    for file in FILES:
        assert (tmp_path / file).exists(), file
    pages = [page.read_text() for page in (tmp_path / "data_docs").rglob("*.html")]
    assert any("roles_out_of_order" in page for page in pages)
    described = json.loads((tmp_path / "expectations.json").read_text())
    assert sum(len(of_table["results"]) for of_table in described) == len(report.verdicts)


@pytest.mark.parametrize(
    ("data", "settings", "parts"),
    [
        (
            {"conversations": [*sound(20), *[[A, Q]] * 20]},
            {},
            ["50.0% (20 of 40 rows)", "roles out of order", "row 20", "max_quarantined_share",
             "tolerances.roles_out_of_order", "assistant user: 4"],
        ),
        ({"conversations": sound(5)}, {}, ["at least 10 rows", "5 rows", "validation.min_rows"]),
        (
            {"scores": [0.6] * 20},
            {"score_mean_min": 2.5},
            ["mean score is at least 2.5", "0.600", "lowest 0.6 in row 0", "score_mean_min"],
        ),
        ({"scores": [5.9] * 20}, {"score_mean_max": 5.0}, ["mean score is at most 5", "5.900"]),
        (
            {"scores": [1.0] * 3 + [4.0] * 17},
            {"score_quantiles_min": {0.1: 2.0}},
            ["10% quantile of the scores is at least 2", "3 of 20 scores below it"],
        ),
        (
            {"scores": [1.0] * 3 + [4.0] * 17},
            {"score_threshold": 2.0},
            ["at most 10% of the scores are below 2", "seen: 15.0%"],
        ),
        (
            {"scores": [None] * 20},
            {"classifier": {"score": "never"}},
            ["at most 5% of the rows have no score", "100.0% (20 of 20 rows)"],
        ),
        (
            {"scores": [None] * 20},
            {"score_required": False, "score_mean_min": 1.0, "score_quantiles_min": {0.5: 1.0}},
            ["mean score is at least 1; seen: there are no scores", "50% quantile"],
        ),
        (
            {"rows": {"source": ["a"] * 19 + ["b"]}},
            {"max_source_share": 0.5, "severities": {"max_source_share": "critical"}},
            ["at most 50% of the rows come from one source", "95.0% from a"],
        ),
    ],
)  # fmt: skip
def test_a_bad_dataset_is_rejected_in_words(tmp_path, data, settings, parts):
    data = {"conversations": sound(20), **data}
    report = run_gate(tmp_path, *data.pop("conversations"), **data, **settings)
    assert report.failed
    assert report.message().startswith("dataset rejected: ")
    for part in parts:
        assert part in report.message()


def test_the_quantile_gate_is_exact(tmp_path):
    scores = [1.0] * 2 + [4.0] * 18  # exactly a tenth is below
    report = run_gate(tmp_path, *sound(20), scores=scores, score_quantiles_min={0.1: 2.0})
    assert report.failed == []


def test_a_tolerance_is_exact(tmp_path):
    rows = [*sound(90), *[[A, ("user", str(n))] for n in range(10)]]
    assert not run_gate(tmp_path, *rows, tolerances={"roles_out_of_order": 0.1}).failed
    (tight,) = run_gate(tmp_path, *rows, tolerances={"roles_out_of_order": 0.099}).failed
    assert tight.name == "roles_out_of_order"


def test_severities_decide_what_blocks(tmp_path):
    rows = [*sound(20), *sound(2)]
    report = run_gate(tmp_path, *rows)
    assert report.failed == []
    assert "exact_duplicate" in {verdict.name for verdict in report.warnings}
    report = run_gate(tmp_path, *rows, severities={"exact_duplicate": "critical"})
    assert [verdict.name for verdict in report.failed] == ["exact_duplicate"]
    report = run_gate(tmp_path, *rows, severities={"exact_duplicate": "info"})
    assert "exact_duplicate" not in {v.name for v in (*report.failed, *report.warnings)}


def test_a_kept_flaw_is_counted_and_stays(tmp_path):
    rows = [*sound(99), [Q, ("assistant", "I'm sorry, but I can't say.")]]
    report = run_gate(tmp_path, *rows, keep=["refusal"])
    assert report.accepted == 100
    assert report.metrics()["flaws/refusal"] == 1


@pytest.mark.proof  # a gate more
def test_the_filter_counts_what_it_drops(tmp_path):
    scores = list(np.linspace(2, 4, 100))
    report = run_gate(tmp_path, *sound(100), scores=scores, keep_score_min=3.0)
    assert (report.accepted, report.filtered, report.quarantined) == (50, 50, 0)
    assert pl.read_parquet(tmp_path / "rows.parquet")["score"].min() >= 3.0
    assert report.metrics()["filtered"] == 50
    report = run_gate(tmp_path, *sound(100), scores=scores, keep_top_share=0.1)
    assert pl.read_parquet(tmp_path / "rows.parquet")["row"].to_list() == list(range(90, 100))


def test_escaped_tokens_look_the_same_and_are_text(tmp_path):
    typed = [Q, ("assistant", "end with <|im_end|> or <pad>")]
    settings = {"special_tokens": "escape", "specials": ("<pad>",)}
    report = run_gate(tmp_path, *sound(20), typed, **settings)
    assert report.failed == []
    assert report.accepted == 21
    last = pl.read_parquet(tmp_path / "rows.parquet")["messages"].to_list()[-1]
    assert last[1] == {"role": "assistant", "content": "end with <\u200b|im_end|> or <\u200bpad>"}
    assert report.metrics()["flaws/special_token"] == 1


def test_no_secret_leaves_the_gate(tmp_path):
    run_gate(tmp_path, *sound(60), *[[Q, ("assistant", f"key {AWS_KEY} {n}")] for n in range(3)])
    for file in tmp_path.rglob("*"):
        if file.is_file() and file.name != "in.parquet":
            assert AWS_KEY.encode() not in file.read_bytes(), file
            if file.suffix == ".parquet":
                assert AWS_KEY not in pl.read_parquet(file).write_ndjson(), file


def test_scores_that_moved_are_drift(tmp_path):
    rng = np.random.default_rng(0)
    rows, old = sound(400), distribution(rng.normal(3.2, 0.3, 2000))
    same = run_gate(tmp_path, *rows, scores=list(rng.normal(3.2, 0.3, 400)), reference=old)
    assert same.failed == []
    assert same.metrics()["score_psi"] < 0.1
    moved = run_gate(tmp_path, *rows, scores=list(rng.normal(3.5, 0.3, 400)), reference=old)
    assert {verdict.name for verdict in moved.failed} == {"max_psi", "max_ks"}
    assert "last accepted run" in moved.message()


@pytest.mark.proof  # a gate more
def test_too_few_scores_are_not_judged_for_drift(tmp_path):
    old = distribution(np.full(2000, 1.0))
    report = run_gate(tmp_path, *sound(40), reference=old)
    seen = {verdict.name: verdict.seen for verdict in report.verdicts}
    assert "too few scores" in seen["max_psi"]


def test_every_expectation_is_in_the_report_and_every_flaw_in_the_metrics(tmp_path):
    every = {
        "languages": ["en"], "score_quantiles_min": {0.5: 1.0}, "score_threshold": 1.0,
        "score_mean_min": 1.0, "score_mean_max": 5.0, "max_source_share": 1.0,
        "tolerances": {"language": 1.0}, "keep": ["language"],
    }  # fmt: skip
    report = run_gate(tmp_path, *sound(20), **every)
    of_a_mix = {"max_part_quarantined_share"}
    every_name = {*FLAWS, *DATASET_EXPECTATIONS} - of_a_mix
    assert {verdict.name for verdict in report.verdicts} == every_name
    metrics = report.metrics()
    assert {f"flaws/{name}" for name in FLAWS} <= set(metrics)
    assert all(math.isfinite(value) for value in metrics.values())


def test_a_suites_fingerprint_is_its_expectations():
    assert fingerprint(Validation()) == fingerprint(Validation())
    assert fingerprint(Validation()) == fingerprint(Validation(keep_top_share=0.5))
    for change in ({"tolerances": {"url": 0.1}}, {"severities": {"url": "critical"}},
                   {"min_rows": 99}, {"languages": ["en"]}, {"drift": {"max_psi": 0.1}}):  # fmt: skip
        assert fingerprint(Validation(**change)) != fingerprint(Validation()), change


def test_benchmark_files_of_every_kind_are_read(tmp_path):
    frame = pl.DataFrame({"question": ["Why so?"], "n": [1], "choices": [["one", "two"]]})
    frame.write_ndjson(tmp_path / "b.jsonl")
    frame.write_json(tmp_path / "b.json")
    frame.write_parquet(tmp_path / "b.parquet")
    frame.write_ipc_stream(tmp_path / "b.arrow")
    frame.select("question", "n").write_csv(tmp_path / "b.csv")
    (tmp_path / "b.txt").write_text("Why so?\n\n")
    for name in ("b.jsonl", "b.json", "b.parquet", "b.arrow"):
        assert texts(tmp_path / name) == ["Why so?", "one", "two"]
    for name in ("b.csv", "b.txt"):
        assert texts(tmp_path / name) == ["Why so?"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "nothing is at"),
        ("b.docx", "x", "cannot read 'b.docx'; use one of"),
        ("b.txt", "\n", "has no texts"),
        ("b.parquet", "x", "cannot read"),
    ],
)
def test_a_wrong_benchmark_file_is_one_clear_error(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(SourceError, match=message):
        texts(tmp_path / name)


def with_benchmark(path) -> Recipe:
    return Recipe.parse(
        {
            "name": "r",
            "model": {"base": "m"},
            "dataset": {"source": "d.jsonl", "memory_share": 1e-9},
            "validation": {"decontamination": {"files": [str(path)]}},
        },
        "r",
    )


@pytest.mark.slow  # all of the gate, twice
def test_a_benchmark_file_is_read_as_pinned_and_within_limits(tmp_path):
    path = tmp_path / "b.txt"
    path.write_text("Why so?")
    recipe = with_benchmark(path)
    pinned = (pin_file(str(path), "s"),)
    assert evaluation_prompts(recipe, pinned)[-1] == "Why so?"
    path.write_text("Why not?")
    assert evaluation_prompts(recipe)[-1] == "Why not?"
    with pytest.raises(SourceError, match=r"decontamination.files: .*b.txt changed while"):
        evaluation_prompts(recipe, pinned)
    bomb = tmp_path / "b.parquet"
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int8()), ["x" * (20 << 20)])
    plain = {"compression": "zstd", "write_statistics": False, "store_schema": False}
    pq.write_table(pa.table({"q": text}), bomb, **plain)
    with pytest.raises(SourceError, match=r"b.parquet takes more than 1.0 GiB of memory to read"):
        evaluation_prompts(with_benchmark(bomb))


@pytest.fixture
def classifier(tmp_path, monkeypatch) -> dict:
    """The settings of a classifier that scores in this process."""
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(scoring, "run_child", run_here)
    model = str(make_classifier(tmp_path / "model"))
    return {
        "score_min": -99.0,
        "score_max": 99.0,
        "classifier": {"model": model, "max_length": 32},
    }


def test_missing_scores_are_made_and_stored_ones_checked(tmp_path, classifier):
    rows = [*sound(30), [Q, Q, A]]
    made = run_gate(tmp_path, *rows, scores=[None] * 31, **classifier)
    assert made.accepted == 30
    scored = pl.read_parquet(tmp_path / "rows.parquet")["score"]
    assert scored.null_count() == 0
    assert scored.n_unique() > 1

    classifier["classifier"] |= {"sample": 20}
    same = run_gate(tmp_path, *rows, scores=[*scored, 0.0], **classifier)
    assert same.metrics()["score_agreement"] == 1.0
    moved = run_gate(tmp_path, *rows, scores=[*(scored + 1), 0.0], **classifier)
    assert [verdict.name for verdict in moved.failed] == ["min_agreement"]
    assert "at least 95% of a sample score within 0.1 of what is stored; seen: 0.0%" in (
        moved.message()
    )


@pytest.mark.slow  # the classifier, twice
def test_scores_of_other_rows_are_seen_though_their_distribution_is_the_same(tmp_path, classifier):
    rows = sound(40)
    run_gate(tmp_path, *rows, scores=[None] * 40, **classifier)
    stored = pl.read_parquet(tmp_path / "rows.parquet")["score"]
    classifier["classifier"] |= {"sample": 40, "tolerance": 99.0}  # as if all agreed
    same = run_gate(tmp_path, *rows, scores=[*stored], **classifier)
    assert same.failed == []
    assert same.metrics()["score_correlation"] == pytest.approx(1)
    shuffled = run_gate(tmp_path, *rows, scores=[*stored.shuffle(0)], **classifier)
    assert [verdict.name for verdict in shuffled.failed] == ["min_correlation"]
    assert shuffled.scores == same.scores
    assert "look for shuffled rows or another classifier" in shuffled.message()
    classifier["classifier"] |= {"sample": 29}
    few = run_gate(tmp_path, *rows, scores=[*stored.shuffle(0)], **classifier)
    assert "min_correlation" in {verdict.name for verdict in few.unjudged}


@pytest.mark.parametrize(
    ("scores", "failed", "said"),
    [
        pytest.param(  # the corpus has it too
            *([3.0] * 100, "max_score_share", "validation.classifier.score=all"),
            marks=pytest.mark.proof,
        ),
        ([n / 100 for n in range(100)], "max_unit_score_share", "validation.score_max=1"),
    ],
)
def test_scores_that_say_nothing_of_the_rows_are_refused(tmp_path, scores, failed, said):
    report = run_gate(tmp_path, *sound(100), scores=scores)
    assert [verdict.name for verdict in report.failed] == [failed]
    assert said in report.message()
    unasked = run_gate(tmp_path, *sound(100), scores=[3.0] * 100, score_required=False)
    assert unasked.failed == []
    assert "max_score_share" in {verdict.name for verdict in unasked.unjudged}


TOO_FLAWED = [*sound(20), *[[A, Q]] * 20]
WHY_TOO_FLAWED = """\
dataset rejected: 2 critical expectations failed over 40 rows
- expected: at most 5% of the rows have roles out of order (user and assistant must alternate, \
ending with assistant); seen: 50.0% (20 of 40 rows), e.g. row 20 ('assistant user: 4') \
(validation.tolerances.roles_out_of_order)
- expected: at most 10% of the rows go to quarantine; seen: 50.0% (20 of 40 rows): 20 with roles \
out of order (user and assistant must alternate, ending with assistant), e.g. row 20 \
('assistant user: 4') (validation.max_quarantined_share)
Repair the dataset, or change the setting named if it is right as it is. Rows are counted from 0, in \
the order of the source."""


def test_the_classifier_is_not_asked_about_rows_that_are_rejected_anyway(
    pages, tmp_path, monkeypatch
):
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path / "home"))
    settings = {"classifier": {"model": str(tmp_path / "there-is-none")}}
    report = run_gate(tmp_path, *TOO_FLAWED, scores=[None] * 40, **settings)
    assert {verdict.name for verdict in report.failed} == {
        *("roles_out_of_order", "max_quarantined_share"),
    }
    assert report.message() == WHY_TOO_FLAWED
    assert len(pl.read_parquet(tmp_path / "rows.parquet")) == 20
    for file in FILES:
        assert (tmp_path / file).exists(), file
    few = run_gate(tmp_path, *sound(9), scores=[None] * 9, **settings)
    assert [verdict.name for verdict in few.failed] == ["min_rows"]


def test_rows_that_are_rejected_anyway_may_have_scores_that_are_no_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path / "home"))
    scores = [math.nan, math.inf, -math.inf, None, *[3.0] * 36]
    settings = {"classifier": {"model": str(tmp_path / "there-is-none"), "score": "missing"}}
    report = run_gate(tmp_path, *TOO_FLAWED, scores=scores, **settings)
    assert report.message() == WHY_TOO_FLAWED
    assert report.scores.mean == 3.0


def test_settling_shows_what_looking_at_all_rows_again_would(tmp_path, monkeypatch):
    monkeypatch.setattr(quarantine, "BATCH_BYTES", 1)
    bad = [[Q, ("assistant", f"use {AWS_KEY} now")], [A, Q], [Q, ("assistant", "a@acme.org")]]
    rows = [*sound(20), *bad, *bad, *bad, *bad, *sound(4), *bad]
    scores = [3.0, 9.0, None, math.nan, *[3.0] * 17, *[None, 9.0, 3.0] * 3, *[3.0] * 9]
    path, folders = write(tmp_path, *rows, scores=scores), [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    rules = Rules(Validation(near_duplicate_similarity=None))
    settled = screening.settle(path, screening.screen(path, rules, folders[0]), rules, folders[0])
    table, examples = settled.table, quarantine.FirstRows()
    examples.look(table.collect())
    quarantine.write_quarantine(path, table, examples.rows, rules, folders[1])
    for name in (quarantine.EXCERPTS, quarantine.QUARANTINE):
        again, anew = (pl.read_parquet(folder / name) for folder in folders)
        assert again.equals(anew)
    out = pl.read_parquet(folders[0] / quarantine.QUARANTINE)
    assert out["excerpt"].null_count() == 0
    reasons = set(out["reasons"].explode())
    assert reasons >= {"score_missing", "score_out_of_range", "secret", "exact_duplicate"}


def test_stored_scores_are_judged_with_flawed_rows(tmp_path):
    report = run_gate(tmp_path, *TOO_FLAWED, scores=[99.0] * 10 + [3.0] * 30)
    assert {verdict.name for verdict in report.failed} == {
        *("roles_out_of_order", "max_quarantined_share", "score_out_of_range"),
    }


class Line:
    """The first stages of the line as the flow calls them, on rows in a home folder of their own."""

    def __init__(self, folder, monkeypatch) -> None:
        monkeypatch.setenv("RETUNE_HOME", str(folder / "home"))
        make_tokenizer(folder / "base")
        self.base = str(folder / "base")
        self.pins = Pins(dataset="d", model=pin(self.base, None, "model", "model.base"))
        self.fetched = Step(stage="fetch", key={"test": 1})

    def recipe(self, **settings) -> Recipe:
        values = {"name": "r", "model": {"base": self.base}, "dataset": {"source": "d.jsonl"}}
        return Recipe.parse(values | {"validation": {"min_rows": 10, **settings}}, "r")

    def fetch(self, *conversations, **columns) -> Rows:
        self.fetched.folder.mkdir(parents=True)
        path = write(self.fetched.folder, *conversations, **columns)
        rows = Rows(step=self.fetched, started=datetime.now(UTC), seconds=0)
        path.rename(rows.path)
        return rows

    def steps(self, recipe: Recipe) -> tuple[Step, Step]:
        """Return the steps of screen and validate."""
        screened = Step(stage="screen", key=key.screen(recipe, self.pins, self.fetched))
        return screened, Step(stage="validate", key=key.validate(recipe, self.pins, screened))

    def screen(self, rows: Rows, recipe: Recipe) -> Screened:
        return screen.fn(rows, recipe, self.pins, self.steps(recipe)[0])

    def validate(self, rows: Rows, screened: Screened, recipe: Recipe) -> Rows:
        return validate.fn(rows, screened, recipe, self.pins, self.steps(recipe)[1])


@pytest.fixture
def line(tmp_path, monkeypatch):
    from prefect.logging import disable_run_logger

    with disable_run_logger():
        yield Line(tmp_path, monkeypatch)


def test_rows_that_are_too_flawed_are_rejected_before_any_score_is_asked_for(pages, line, tmp_path):
    recipe = line.recipe(classifier={"model": "/there/is/none"})
    screened = line.screen(line.fetch(*TOO_FLAWED, scores=[None] * 40), recipe)
    judgement = judge.screening(screened, recipe)
    with pytest.raises(Rejected) as error:
        require(judgement)
    file = f"screen/{screened.folder.name}/quarantine.parquet"
    listed = f" All 20 in quarantine are in {file} below the work folder."
    assert str(error.value) == WHY_TOO_FLAWED + listed
    assert read_output(screened.step, Screened).metrics == screened.metrics
    assert len(pl.read_parquet(screened.features)) == 40
    assert len(pl.read_parquet(screened.folder / "quarantine.parquet")) == 20
    assert screened.metrics["flaws/roles_out_of_order"] == screened.metrics["quarantined"] == 20
    for file in judgement.write(tmp_path):
        assert (tmp_path / file).exists(), file


def test_what_the_filter_leaves_is_not_judged_before_it(line):
    """Of one source there are too many rows, until the worse ones among them are dropped."""
    one = {"max_source_share": 0.5, "severities": {"max_source_share": "critical"}}
    recipe = line.recipe(keep_score_min=2.5, **one)
    scores = [1.0] * 20 + [3.0] * 20
    rows = line.fetch(*sound(40), scores=scores, source=["a"] * 30 + ["b"] * 10)
    screened = line.screen(rows, recipe)
    assert screened.metrics["accepted"] == 40
    judgement = judge.screening(screened, recipe)
    assert judgement.failed == []
    assert judgement.write is None  # it comes with the scores
    done = line.validate(rows, screened, recipe)
    assert (done.metrics["accepted"], done.metrics["filtered"]) == (20, 20)
    assert judge.judgement(done, recipe).failed == []


def test_the_stage_finishes_with_scores_that_are_rejected(line, tmp_path):
    recipe = line.recipe(score_mean_min=4.0)
    rows = line.fetch(*sound(30), [Q, Q, A], source=[AWS_KEY] * 31)
    screened = line.screen(rows, recipe)
    require(judge.screening(screened, recipe))
    done = line.validate(rows, screened, recipe)
    judgement = judge.judgement(done, recipe)
    with pytest.raises(Rejected, match=r"mean score is at least 4; seen: 3\.000"):
        require(judgement)
    assert read_output(done.step, Rows).metrics == done.metrics
    assert pl.read_parquet(done.path)["source"].unique().to_list() == [AWS_KEY]
    assert pl.read_parquet(done.features)["source"].unique().to_list() == ["[secret]"]
    assert {"quarantine.parquet", "scores.json", "profile.json"} == set(done.files)
    assert all((done.folder / file).is_file() for file in done.files)
    assert set(judgement.write(tmp_path)) == set(FILES) - set(done.files)


CRITICAL = dict.fromkeys(("max_source_share", "exact_duplicate", "min_distinct_scores"), "critical")
# The rows below pass, but meet no limit of these.
STRICTER = {
    "severities": CRITICAL,
    "tolerances": {"roles_out_of_order": 0.01},
    "min_rows": 400,
    "max_quarantined_share": 0.01,
    "max_source_share": 0.5,
    "drift": {"max_psi": 1e-6, "max_ks": 1e-6},
    "score_mean_min": 3.5,
    "score_quantiles_min": {0.05: 3.0, 0.5: 2.0},
    "score_threshold": 3.0,
    "min_distinct_scores": 400,
    "max_below_threshold_share": 0.2,
    "max_score_share": 0.001,
    "max_unit_score_share": 0.0,
}
OTHER = {
    "severities": {"exact_duplicate": "info"},
    "score_mean_max": 2.5,
    "score_threshold": 3.0,
    "max_below_threshold_share": 0.9,
    "max_ignored_columns": 1,
    "max_ignored_keys": 1,
    "profile": {"max_doubtful_share": 0.5},
}


def test_a_limit_that_changed_is_judged_by_without_looking_at_a_row(line, tmp_path):
    """The same tables, judged by other limits, give what the whole gate gives under these."""
    rng = np.random.default_rng(0)
    old = distribution(rng.normal(3.0, 0.3, 2000))
    conversations = [*sound(360), *[[A, Q]] * 8, *sound(20)]  # the last ones repeat the first
    scores = [*rng.normal(3.0, 0.3, 387), math.nan]
    columns = {"source": ["a"] * 250 + ["b"] * 138}
    recipe, stricter, other = line.recipe(), line.recipe(**STRICTER), line.recipe(**OTHER)
    rows = line.fetch(*conversations, scores=scores, **columns)
    screened = line.screen(rows, recipe)
    done = line.validate(rows, screened, recipe)
    rows.path.unlink()
    # The name of a profile is no limit; what it names is compared with when it is judged.
    assert STRICTER.keys() | OTHER.keys() == key.LIMITS - {"reference"}
    assert line.steps(stricter) == line.steps(other) == line.steps(recipe)

    def failing(judgement) -> set[str]:
        return {verdict.name for verdict in judgement.failed}

    assert failing(judge.screening(screened, recipe)) == set()
    assert failing(judge.judgement(done, recipe, Reference(old))) == set()
    assert failing(judge.judgement(done, other, Reference(old))) == {"score_mean_max"}
    of_rows = {"min_rows", "max_quarantined_share", "roles_out_of_order", "exact_duplicate"}
    assert failing(judge.screening(screened, stricter)) == of_rows
    judgement = judge.judgement(done, stricter, Reference(old))
    assert failing(judgement) == of_rows | {
        *("max_source_share", "max_psi", "max_ks", "score_mean_min", "score_quantiles_min"),
        *("max_below_threshold_share", "min_distinct_scores", "max_score_share"),
    }
    settings = {"rows": columns, "reference": old, **STRICTER}
    fresh = run_gate(tmp_path, *conversations, scores=scores, **settings)
    assert judgement.verdicts == fresh.verdicts
    assert judgement.markdown == fresh.markdown(done.folder)


@pytest.mark.proof  # a gate with a classifier
def test_the_limit_on_agreement_is_judged_by_again_too(line, classifier):
    classifier["classifier"] |= {"sample": 20}
    recipe = line.recipe(**classifier)
    rows = line.fetch(*sound(30))
    done = line.validate(rows, line.screen(rows, recipe), recipe)
    assert [v.name for v in judge.judgement(done, recipe).failed] == ["min_agreement"]
    classifier["classifier"] |= {"min_agreement": 0.0}
    laxer = line.recipe(**classifier)
    assert line.steps(laxer) == line.steps(recipe)
    assert judge.judgement(done, laxer).failed == []
