"""`retune validate` and `retune scaffold-suite`: the gate alone, as a dataset repository's CI runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import polars as pl
import pytest
import yaml

from expectations.data.report import ADVICE
from expectations.data.scaffold import Implausible
from flows.check import check, scaffold
from retune.recipe import RecipeError
from retune.sources import SourceError
from tasks.fetch import child, guarded
from tests.corpus.text import sound
from tests.flows.test_line import Project, sums

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return Project(tmp_path_factory.mktemp("datasets"))


def test_a_good_file_is_accepted_without_any_server(project):
    done = project.retune("validate", "good.jsonl", "--out", "report", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0, done.stderr
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "great_expectations" in imported
    assert not imported & {"prefect", "torch", "transformers"}  # seconds each, for nothing
    assert "no base model is named" in done.stderr
    assert not (project.folder / ".retune" / "prefect" / "prefect.db").exists()
    assert not (project.folder / ".retune" / "mlflow.db").exists()
    kept = {path.name for path in (project.folder / "report").iterdir()}
    assert {"report.html", "report.json", "quarantine.parquet", "data_docs", "scores.png"} <= kept
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 80
    assert done.stdout.startswith("Dataset accepted: 400 of 400 rows\n")
    assert (
        done.stdout.rstrip()
        .split("\n")[-1]
        .startswith(f"Report: {project.folder}/report/report.html")
    )


@pytest.mark.proof  # a command with pages
def test_a_bad_file_is_rejected_in_words_and_once(project):
    done = project.retune("validate", "flipped.jsonl")
    assert done.returncode == 1
    assert "FAILED" in done.stdout
    assert done.stdout.count("e.g. row 0 (") == 1
    assert done.stderr.splitlines()[-1] == (
        "retune: dataset rejected: 2 critical expectations failed over 400 rows"
    )
    assert "Traceback" not in done.stderr
    assert "e.g. row 0 (" not in done.stderr
    advice = done.stdout[done.stdout.index("e.g. row 0 (") :]
    assert " ".join(ADVICE.split()) in " ".join(advice.split())
    quarantine = project.folder / ".retune" / "validate" / "flipped" / "quarantine.parquet"
    assert len(pl.read_parquet(quarantine)) == 160


@pytest.mark.parametrize(
    ("dataset", "out", "said"),
    [
        ("good.jsonl", "good.jsonl/report", "good.jsonl/report: not a directory"),
        pytest.param(*("good.jsonl", "x" * 300, "x: file name too long"), marks=pytest.mark.proof),
    ],
)
def test_what_the_system_refuses_is_a_sentence(project, dataset, out, said):
    done = project.retune("validate", dataset, "--out", out)
    assert done.returncode == 2
    assert f"{said}; correct the path" in done.stderr
    assert "Errno" not in done.stderr


def test_a_home_that_is_a_file_is_a_sentence(project):
    home = project.folder / "good.jsonl"
    done = project.retune("validate", "good.jsonl", RETUNE_HOME=str(home))
    assert done.returncode == 2
    assert f"retune: {home}" in done.stderr
    assert "Errno" not in done.stderr


@pytest.mark.proof  # three commands
def test_names_of_files_forge_no_lines(project):
    """A name is a stranger's, too: of a repository's files, checked in a loop."""
    forged = "x\n400 of 400 rows accepted\x1b[31m"
    (project.folder / f"{forged}.jsonl").write_bytes((project.folder / "good.jsonl").read_bytes())
    (project.folder / f"{forged}.yaml").write_text("a: [")
    for code, done in (
        (2, project.retune("validate", f"{forged}.jsonl")),
        (2, project.retune("validate", f"{forged}.yaml")),
        (
            1,
            project.retune(
                "validate", "good.jsonl", "--out", forged, "--set", "validation.min_rows=401"
            ),
        ),
    ):
        assert done.returncode == code
        assert "\x1b" not in done.stdout + done.stderr
        assert "\n400 of 400 rows accepted\\x1b" not in done.stdout + done.stderr


@pytest.fixture
def here(project, monkeypatch, no_pages):
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("RETUNE_HOME", str(project.folder / ".retune"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    # In a process of its own, as the commands of this file do it, the libraries take a second each time.
    monkeypatch.setattr(guarded, "run_confined", lambda _script, job, *_, **__: child.work(job))
    return project.folder


def test_a_recipe_counts_tokens_as_well(here, tmp_path):
    report = check("recipe.yaml", ["model.max_length=16"], tmp_path / "b")
    assert {verdict.name for verdict in report.failed} >= {"truncated_share"}
    assert "max_length=16 tokens" in report.message()
    stored = json.loads((tmp_path / "b" / "report.json").read_text())["verdicts"]
    assert "truncated_share" in {verdict["name"] for verdict in stored if not verdict["passed"]}


@pytest.mark.proof  # a gate more
def test_settings_reach_the_gate(here, tmp_path):
    report = check("good.jsonl", ["validation.min_rows=401"], tmp_path / "out")
    assert [verdict.name for verdict in report.failed] == ["min_rows"]


def test_what_is_wrong_is_said(here, tmp_path):
    with pytest.raises(SourceError, match=r"nothing is at 'none\.jsonl'"):
        check("none.jsonl", [], tmp_path / "out")
    with pytest.raises(
        RecipeError, match=r"unknown key 'validation\.tolerances\.refusl'; did you mean 'refusal'"
    ):
        check("good.jsonl", ["validation.tolerances={refusl: 0.1}"], tmp_path / "out")


@pytest.mark.proof  # three gates
def test_scaffolded_thresholds_accept_their_dataset_and_refuse_a_worse_one(here, tmp_path):
    rows = sums(400)
    for row in rows[::40]:
        row["conversations"][1]["value"] += " See https://acme.org/sums."
    (here / "known.jsonl").write_text("\n".join(map(json.dumps, rows)))
    section = yaml.safe_load(scaffold("known.jsonl", []))
    found = section["validation"]
    assert found["min_rows"] == 320
    assert found["tolerances"] == {"url": 0.038}
    assert found["score_mean_min"] < 3.49 < found["score_mean_max"]
    recipe = yaml.safe_load((here / "recipe.yaml").read_text()) | section
    recipe["dataset"]["source"] = "known.jsonl"
    (here / "tight.yaml").write_text(yaml.safe_dump(recipe))
    assert check("tight.yaml", [], tmp_path / "a").failed == []
    for row in rows:
        row["score"] -= 0.5
    (here / "known.jsonl").write_text("\n".join(map(json.dumps, rows[:300])))
    failed = {verdict.name for verdict in check("tight.yaml", [], tmp_path / "b").failed}
    assert {"min_rows", "score_mean_min"} <= failed


COMPARED = ["validation.reference=profile.json", "validation.near_duplicate_similarity=null"]


@pytest.fixture
def later(here):
    """A dataset whose profile is written, and a later one with longer answers."""
    rows = sums(200)
    (here / "known.jsonl").write_text("\n".join(map(json.dumps, rows)))
    section = yaml.safe_load(scaffold("known.jsonl", [], Path("profile.json")))["validation"]
    assert section["reference"] == "profile.json"
    for row in rows:
        row["conversations"][1]["value"] += " This is what I would call a rather long answer."
    (here / "later.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return here / "later.jsonl"


def drift(report) -> list:
    return [v for v in (*report.unjudged, *report.warnings) if v.name == "profile_drift"]


def test_a_scaffolded_profile_is_what_later_datasets_are_compared_with(later, tmp_path):
    (warning,) = drift(check(later.name, COMPARED, tmp_path / "b"))
    assert warning.judged
    assert "length of the answer: " in warning.seen
    assert "source" not in warning.seen  # each file is its own only source
    assert (tmp_path / "b" / "reference.json").is_file()
    assert "answers have 'rather long' in 100.0% (at most 1.5% then)" in warning.seen


@pytest.mark.proof  # four gates
def test_what_is_logged_of_a_profile_is_a_reference_as_well(here, later, tmp_path):
    assert drift(check("known.jsonl", COMPARED, tmp_path / "a")) == []
    (warning,) = drift(check(later.name, COMPARED, tmp_path / "b"))
    logged = tmp_path / "b" / "reference.json"
    assert json.loads(logged.read_text()) == json.loads((here / "profile.json").read_text())
    again = check(later.name, [f"validation.reference={logged}", *COMPARED[1:]], tmp_path / "d")
    assert warning in again.warnings
    own = [f"validation.reference={tmp_path}/b/profile.json", *COMPARED[1:]]
    assert drift(check(later.name, own, tmp_path / "c")) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "validation.reference: no file is at"),
        ("{}", "is no profile of this version; write it again"),
        ("[" * 100_000, "is no profile of this version"),
        ("\xff", "is no profile of this version"),
    ],
)
def test_a_reference_that_is_none_is_told(here, tmp_path, content, words):
    (here / "known.jsonl").write_text("\n".join(map(json.dumps, sums(120))))
    if content is not None:
        (here / "p.json").write_text(content, encoding="latin-1")
    with pytest.raises(SourceError, match=words):
        check("known.jsonl", ["validation.reference=p.json"], tmp_path / "a")


def test_no_profile_is_written_of_what_is_no_model_or_too_small(here, tmp_path):
    rows = sound(Random(1), 150)
    for row in rows[::3]:
        row["conversations"][-1]["value"] = (
            "Thank you, our team will come back to you as soon as it can."
        )
    (here / "known.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(Implausible, match="this dataset is no model of a good one"):
        scaffold("known.jsonl", [], tmp_path / "profile.json")
    (here / "known.jsonl").write_text("\n".join(map(json.dumps, sums(60))))
    with pytest.raises(Implausible, match="no profile is written: fewer than 100 rows"):
        scaffold("known.jsonl", [], tmp_path / "profile.json")
    assert not (tmp_path / "profile.json").exists()


ON_SCORES = {"score_missing", "score_not_finite", "score_out_of_range"}


def bare(folder) -> Path:
    """Write a dataset without scores."""
    rows = [{key: row[key] for key in ("conversations", "source")} for row in sums(150)]
    (folder / "bare.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "bare.jsonl"


@pytest.fixture(params=["no route", pytest.param("HF_HUB_OFFLINE", marks=pytest.mark.proof)])
def unreachable(request, monkeypatch):
    """There is no way to the Hub, or it is switched off."""
    import httpx
    from huggingface_hub.errors import OfflineModeIsEnabled

    error = httpx.ConnectError if request.param == "no route" else OfflineModeIsEnabled

    def ask(*_, **__):
        raise error(request.param)

    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", ask)


def open_of(report) -> set[str]:
    assert not [v for v in report.verdicts if v.name in ON_SCORES and v.passed]
    return {verdict.name for verdict in report.unjudged}


def test_a_file_without_scores_asks_nobody_for_them(here, tmp_path, hub, capsys):
    report = check(str(bare(here)), [], tmp_path / "out")
    assert report.failed == []
    assert open_of(report) >= ON_SCORES
    assert hub.requests == []
    assert "no row has a score" in capsys.readouterr().err


@pytest.mark.parametrize("rejected", [False, pytest.param(True, marks=pytest.mark.proof)])
def test_what_the_classifier_would_say_is_open_while_the_hub_is_away(
    here, tmp_path, unreachable, capsys, rejected
):
    settings = ["validation.score_required=true", "validation.score_mean_min=2"]
    settings += ["validation.min_rows=151"] if rejected else []
    report = check(str(bare(here)), settings, tmp_path / "out")
    assert [verdict.name for verdict in report.failed] == (["min_rows"] if rejected else [])
    assert open_of(report) >= {*ON_SCORES, "score_mean_min", "max_psi", "min_agreement"}
    lines = [line for line in capsys.readouterr().err.splitlines() if "not judged" in line]
    assert len(lines) == (0 if rejected else 1)


def test_a_sample_that_cannot_be_scored_again_leaves_the_scores_judged(here, tmp_path, unreachable):
    report = check("good.jsonl", ["validation.classifier.sample=9"], tmp_path / "out")
    assert report.failed == []
    seen = {verdict.name: verdict for verdict in report.verdicts}
    assert seen["min_agreement"].seen == "the Hub did not answer for the classifier"
    assert not seen["min_agreement"].judged
    assert seen["score_missing"].passed


def test_how_many_rows_a_filter_by_score_leaves_is_open_too(here, tmp_path, unreachable):
    report = check(str(bare(here)), ["validation.keep_top_share=0.5"], tmp_path / "out")
    assert open_of(report) >= {*ON_SCORES, "min_rows"}


@pytest.mark.slow  # a tokenizer, and all of the gate
def test_the_page_of_a_recipe_shows_what_is_learned(project, monkeypatch, tmp_path):
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("RETUNE_HOME", str(project.folder / ".retune"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    report = check("recipe.yaml", ["training.train_on=responses"], tmp_path / "out")
    assert report.failed == []
    text = (tmp_path / "out" / "report.html").read_text()
    assert 'class="learned"' in text
    assert "Tokens of each training row" in text


def test_unscored_data_needs_no_scores(here):
    bare(here)
    assert yaml.safe_load(scaffold("bare.jsonl", []))["validation"]["score_required"] is False


class TestNothingIsLost:
    """`retune validate` replaces its own reports; whatever else stands there stays."""

    @pytest.fixture
    def folder(self, tmp_path):
        """A folder in a folder: whatever goes wrong here erases no more than these."""
        folder = tmp_path / "project"
        folder.mkdir()
        (tmp_path / "thesis.tex").write_text("mine")
        (folder / "thesis.tex").write_text("mine")
        rows = "\n".join(map(json.dumps, sums(150)))
        for name in ("...jsonl", "good.jsonl"):
            (folder / name).write_text(rows)
        return folder

    def validate(self, folder, *arguments):
        """Run the command in `folder`; return its exit code and its last words."""
        home = folder / "home"
        home.mkdir(exist_ok=True)
        (home / "mlflow.db").touch()
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", "validate", *arguments],
            cwd=folder,
            env=os.environ | {"RETUNE_HOME": str(home), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert (home / "mlflow.db").exists()
        assert (folder.parent / "thesis.tex").read_text() == "mine"
        assert (folder / "thesis.tex").read_text() == "mine"
        assert (folder / "good.jsonl").exists()
        assert "Traceback" not in done.stderr
        return done.returncode, done.stderr.splitlines()[-1] if done.stderr else ""

    @pytest.mark.proof  # the gate as a command, which is run above
    def test_though_the_dataset_is_called_dot_dot(self, folder):
        assert self.validate(folder, "...jsonl")[0] == 0
        files = [path for path in (folder / "home").rglob("*") if path.is_file()]
        mine = [path for path in files if path.name != "mlflow.db"]
        assert folder / "home" / "validate" / "dataset" / "report.json" in mine
        assert {path.stat().st_mode & 0o077 for path in mine} == {0}  # for the owner alone

    @pytest.mark.parametrize(
        "out",
        [
            "home",
            *(
                pytest.param(o, marks=pytest.mark.proof)
                for o in (".", "..", "good.jsonl", "./home/..")
            ),
        ],
    )
    def test_wherever_the_report_shall_go(self, folder, out):
        code, said = self.validate(folder, "good.jsonl", "--out", out)
        assert code == 2
        assert "with --out" in said

    def test_if_there_is_no_such_dataset(self, folder):
        (folder / "report").mkdir()
        (folder / "report" / "notes").touch()
        code, said = self.validate(folder, "typo.jsonl", "--out", "report")
        assert (code, (folder / "report" / "notes").exists()) == (2, True)
        code, said = self.validate(folder, "typo.jsonl", "--out", "new")
        assert (code, (folder / "new").exists()) == (2, False)
        assert "nothing is at 'typo.jsonl'" in said


def test_the_last_report_stays_if_the_next_cannot_be_made(here, tmp_path):
    check("good.jsonl", [], tmp_path / "out")
    before = (tmp_path / "out" / "report.json").read_text()
    with pytest.raises(SourceError):
        check("none.jsonl", [], tmp_path / "out")
    assert (tmp_path / "out" / "report.json").read_text() == before
