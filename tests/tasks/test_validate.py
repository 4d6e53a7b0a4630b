"""The gate blocks bad datasets, with a message; of good ones it keeps the flawed rows back."""

import json
import math

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expectations.messages import Rules
from expectations.scores import distribution
from expectations.suite import fingerprint
from retune.config import Recipe, Validation
from retune.flaws import DATASET_EXPECTATIONS, FLAWS
from retune.sources import SourceError, pin_file
from tasks.validate.gate import FILES, gate
from tasks.validate.prompts import evaluation_prompts
from tasks.validate.prompts_child import texts
from tests.expectations.test_features import AWS_KEY, A, Q, prose, write


def sound(count: int) -> list:
    return [[("user", prose(n, 9) + "?"), ("assistant", prose(n + 9000, 15))] for n in range(count)]


def run_gate(
    folder, *conversations, scores=None, reference=None, specials=(), rows=None, **settings
):
    config = Validation(**{"min_rows": 10, **settings})
    path = write(folder, *conversations, scores=scores, **(rows or {}))
    return gate(path, Rules(config, specials), folder, reference)


def test_a_good_dataset_passes_and_loses_only_its_flawed_rows(tmp_path):
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
            ["at most 10.0% of the scores are below 2.0", "seen: 15.0%"],
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
            ["at most 50.0% of the rows come from one source", "95.0% from a"],
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


def test_scores_that_moved_are_drift(tmp_path):
    rng = np.random.default_rng(0)
    rows, old = sound(400), distribution(rng.normal(3.2, 0.3, 2000))
    same = run_gate(tmp_path, *rows, scores=list(rng.normal(3.2, 0.3, 400)), reference=old)
    assert same.failed == []
    assert same.metrics()["score_psi"] < 0.1
    moved = run_gate(tmp_path, *rows, scores=list(rng.normal(3.5, 0.3, 400)), reference=old)
    assert {verdict.name for verdict in moved.failed} == {"max_psi", "max_ks"}
    assert "last accepted run" in moved.message()


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
    assert {verdict.name for verdict in report.verdicts} == {*FLAWS, *DATASET_EXPECTATIONS}
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


def test_missing_scores_are_made_and_stored_ones_checked(tmp_path, monkeypatch):
    from tasks.validate import scoring
    from tests.tasks.test_scoring import make_classifier, run_here

    monkeypatch.setenv("RETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(scoring, "run_child", run_here)
    model = str(make_classifier(tmp_path / "model"))
    settings = {
        "score_min": -99.0,
        "score_max": 99.0,
        "classifier": {"model": model, "max_length": 32},
    }
    rows = [*sound(30), [Q, Q, A]]
    made = run_gate(tmp_path, *rows, scores=[None] * 31, **settings)
    assert made.accepted == 30
    scored = pl.read_parquet(tmp_path / "rows.parquet")["score"]
    assert scored.null_count() == 0
    assert scored.n_unique() > 1

    settings["classifier"] |= {"sample": 20}
    same = run_gate(tmp_path, *rows, scores=[*scored, 0.0], **settings)
    assert same.metrics()["score_agreement"] == 1.0
    moved = run_gate(tmp_path, *rows, scores=[*(scored + 1), 0.0], **settings)
    assert [verdict.name for verdict in moved.failed] == ["min_agreement"]
    assert "at least 95.0% of a sample score within 0.1 of what is stored; seen: 0.0%" in (
        moved.message()
    )


def test_the_classifier_is_not_asked_about_rows_that_are_rejected_anyway(tmp_path, monkeypatch):
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path / "home"))
    settings = {"classifier": {"model": str(tmp_path / "there-is-none")}}
    report = run_gate(tmp_path, *sound(20), *[[A, Q]] * 20, scores=[None] * 40, **settings)
    assert {verdict.name for verdict in report.failed} == {
        *("roles_out_of_order", "max_quarantined_share"),
    }
