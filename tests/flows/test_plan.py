"""What determines an output: no limit of a gate, every module that makes it, and no comment."""

import ast
import fnmatch
import shutil
from modulefinder import ModuleFinder
from pathlib import Path

import pytest

from flows.plan import ROOMS, make_plan
from retune import llamacpp, made_with
from retune.recipe import Recipe, set_value
from retune.records import AnchorFile, Champion, Pins

ROOT = Path(__file__).resolve().parents[2]
PINS = Pins(dataset="sha256:d", model="sha256:m")
VALUES = {"name": "sums", "model": {"base": "b"}, "dataset": {"source": "d.jsonl"}}
STAGES = (
    *("conform", "rehearse", "fetch", "screen", "validate", "format", "parity", "train"),
    *("select", "evaluate", "champion", "merge", "convert", "calibrate", "quantize", "publish"),
    *("judge", "anchor"),
)


@pytest.fixture(autouse=True)
def any_llamacpp(monkeypatch, tmp_path):
    """Keys name the folder of the build alone."""
    found = llamacpp.LlamaCpp(tmp_path / "llama.cpp-1-abc", "1")
    for module in ("tasks.conform.key", "tasks.quantize.key"):
        monkeypatch.setattr(f"{module}.locate", lambda: found)


def fingerprints(*assignments: str, pins: Pins = PINS) -> dict[str, str]:
    values = VALUES
    for assignment in assignments:
        values = set_value(values, assignment)
    steps = make_plan(Recipe.parse(values), pins).steps()
    names = [
        f"{step.stage} {step.key['method']}" if step.stage == "quantize" else step.stage
        for step in steps
    ]
    return dict(zip(names, (step.fingerprint for step in steps), strict=True))


def changed(*assignments: str) -> set[str]:
    before, after = fingerprints(), fingerprints(*assignments)
    return {stage for stage in before | after if before.get(stage) != after.get(stage)}


# Every limit of a gate, and what else only shows, runs or pays.
COSTS_NOTHING = (
    *("validation.min_rows=9", "validation.max_quarantined_share=0.2"),
    *("validation.max_source_share=0.9", "validation.tolerances={refusal: 0.5}"),
    *("validation.severities={email: critical}", "validation.score_mean_min=1"),
    *("validation.score_mean_max=5", "validation.score_quantiles_min={0.5: 2}"),
    *("validation.score_threshold=2", "validation.max_below_threshold_share=0.5"),
    *("validation.min_distinct_scores=3", "validation.drift.max_psi=0.9"),
    *("validation.drift.max_ks=0.9", "validation.classifier.min_agreement=0.5"),
    *("validation.classifier.batch_tokens=1024", "formatting.max_truncated_share=0.9"),
    *("training.max_loss_rise=9", "training.max_gradient_norm=9", "training.logging_steps=5"),
    *("training.price_per_hour=3", "training.max_gpu_hours=3"),
    *("evaluation.max_loss_ratio=2", "evaluation.samples=25", "evaluation.batch_size=2"),
    *(
        "merging.max_kl_divergence=1",
        "merging.min_same_top_token=0.1",
        "merging.max_perplexity_ratio=9",
    ),
    *("quantization.gates={q2_k: {max_kl_divergence: 9}}", "quantization.threads=3"),
    *(
        "quantization.parallel=1",
        "gates.severities={merge.kl_divergence: warning}",
        "tracking.experiment=x",
    ),
    "tracking.upload_models=true",
    *("infra.resources={train: {gpus: 2}}", "infra.wait_hours=2", "infra.spread_rows=9"),
    *("promotion.mode=never", "promotion.alpha=0.01", "promotion.margins={loss: 0.1}"),
    *("promotion.wins=[battery/passed]", "promotion.ollama=x", "promotion.seed=3"),
    "promotion.max_changed_answers=0.3",
)


@pytest.mark.parametrize("assignment", COSTS_NOTHING)
def test_a_limit_makes_nothing_anew(assignment):
    assert changed(assignment) == set()


def test_the_last_accepted_run_makes_nothing_anew():
    accepted = PINS.model_copy(update={"accepted": "run"})
    assert fingerprints(pins=accepted) == fingerprints()


CHAMPION = Champion(
    version=3, run_id="r", adapter="a", base="b", model_pin="sha256:m", load_in_4bit=True
)
SERVED = PINS.model_copy(update={"champion": CHAMPION})


def of_champion(pins: Pins, *assignments: str) -> str:
    return fingerprints(*assignments, pins=pins)["champion"]


def test_no_judge_is_asked_about_what_serves_already():
    champion = CHAMPION.model_copy(update={"adapter": fingerprints(JUDGE)["train"]})
    served = PINS.model_copy(update={"champion": champion})
    assert "judge" in fingerprints(JUDGE, pins=SERVED)
    assert "judge" not in fingerprints(JUDGE, pins=served)


def test_other_rows_of_the_champion_make_the_anchor_anew_and_nothing_else():
    def served(**anchor: str) -> Pins:
        file = AnchorFile(**{"run_id": "r", "sha256": "a", "rows": 1} | anchor)
        champion = CHAMPION.model_copy(update={"anchor": file})
        return PINS.model_copy(update={"champion": champion})

    before, after = (fingerprints(pins=served(sha256=one)) for one in ("a", "b"))
    assert {stage for stage in before if before[stage] != after[stage]} == {"anchor"}
    assert fingerprints(pins=served(run_id="s")) == before
    waived = fingerprints("promotion.anchor_waiver=corrected", pins=served())
    assert waived == before
    assert fingerprints("evaluation.loss_rows=9", pins=served())["anchor"] != before["anchor"]


def test_the_champion_is_asked_anew_when_its_weights_or_what_it_is_asked_change():
    assert "champion" not in fingerprints()
    asked = of_champion(SERVED)
    compared = ("champion", "anchor")
    assert {
        stage: one for stage, one in fingerprints(pins=SERVED).items() if stage not in compared
    } == (fingerprints())
    same = CHAMPION.model_copy(update={"version": 4, "run_id": "s"})
    assert of_champion(PINS.model_copy(update={"champion": same})) == asked
    for setting in (
        "training.learning_rate=1e-5",
        "training.epochs=2",
        "evaluation.max_loss_ratio=2",
    ):
        assert of_champion(SERVED, setting) == asked
    for setting in (
        "evaluation.battery=false",
        "evaluation.max_new_tokens=9",
        "model.max_length=99",
    ):
        assert of_champion(SERVED, setting) != asked
    for change in ({"adapter": "c"}, {"model_pin": "sha256:n"}, {"load_in_4bit": False}):
        other = CHAMPION.model_copy(update=change)
        assert of_champion(PINS.model_copy(update={"champion": other})) != asked


def test_a_suite_counts_by_its_content_wherever_it_lies():
    def of(path: str, pin: str) -> str:
        suites = f"evaluation.suites=[{{name: s, path: {path}}}]"
        return fingerprints(suites, pins=PINS.model_copy(update={"suites": (pin,)}))["evaluate"]

    assert of("a.jsonl", "sha256:1") == of("b.jsonl", "sha256:1") != of("a.jsonl", "sha256:2")


JUDGE = "evaluation.judge={url: http://localhost/v1, model: m}"


def test_a_judge_is_asked_anew_when_it_or_the_answers_change():
    assert "judge" not in fingerprints()
    assert changed(JUDGE) == {"judge"}
    asked = fingerprints(JUDGE)["judge"]
    for same in (
        *("min_kappa=0.1", "max_no_vote_share=0.5", "parallel=9", "timeout=9", "attempts=2"),
        *("key_variable=A_KEY", "key_secret=a-block", "price_input=3", "labels=a.jsonl"),
    ):
        assert fingerprints(JUDGE, f"evaluation.judge.{same}")["judge"] == asked, same
    for other in ("model=n", "seed=3", "criteria=brevity", "max_tokens=99", "compare=[battery]"):
        assert fingerprints(JUDGE, f"evaluation.judge.{other}")["judge"] != asked, other
    assert fingerprints(JUDGE, "evaluation.max_new_tokens=9")["judge"] != asked
    for pins in ({"judge": "sha256:g"}, {"judge_labels": "sha256:l"}, {"champion": CHAMPION}):
        assert fingerprints(JUDGE, pins=PINS.model_copy(update=pins))["judge"] != asked


QUANTS = {f"quantize {method}" for method in Recipe.parse(VALUES).quantization.methods}
GGUFS = {"convert", "calibrate"} | QUANTS
AFTER_SELECTION = {"evaluate", "merge"} | GGUFS
AFTER_TRAINING = {"select"} | AFTER_SELECTION
AFTER_VALIDATION = {"format", "parity", "train"} | AFTER_TRAINING


@pytest.mark.parametrize(
    ("assignment", "stages"),
    [
        ("validation.keep=[refusal]", {"screen", "validate"} | AFTER_VALIDATION),
        ("validation.keep_top_share=0.5", {"validate"} | AFTER_VALIDATION),
        ("training.learning_rate=1e-5", {"train"} | AFTER_TRAINING),
        ("evaluation.generation_rows=9", {"evaluate"}),
        ("evaluation.battery_rows=9", {"evaluate"}),
        ("evaluation.max_new_tokens=9", {"evaluate"} | GGUFS),
        ("evaluation.loss_rows=9", AFTER_TRAINING),  # by which the weights are selected
        ("merging.check_rows=9", AFTER_TRAINING),
        ("merging.onto=dequantized", AFTER_TRAINING),
        ("merging.max_shard_gb=9", {"merge"} | GGUFS),
        ("quantization.context=64", GGUFS),
        ("quantization.imatrix_rows=9", {"calibrate", "quantize q2_k", "quantize q3_k_m"}
         | {"quantize q4_k_m"}),
    ],
)  # fmt: skip
def test_a_setting_makes_anew_what_depends_on_it(assignment, stages):
    assert changed(assignment) == stages


def test_another_16bit_method_makes_every_gguf_anew(monkeypatch):
    before = fingerprints()
    monkeypatch.setattr("tasks.quantize.key.SOURCE", "f32", raising=False)
    after = fingerprints()
    assert {stage for stage in before if before[stage] != after[stage]} == GGUFS


def test_every_setting_counts_or_is_known_to_cost_nothing():
    """A new setting is part of a key until somebody says why not."""
    assert "made with" in make_plan(Recipe.parse(VALUES), PINS).train.key
    uncounted = {name.split("=")[0] for name in COSTS_NOTHING}
    plan = make_plan(Recipe.parse(VALUES), PINS)
    for step in plan.steps():
        counted = {str(name) for name in step.key}
        for name in uncounted:
            section, _, setting = name.partition(".")
            own = {"validation": "validate", "formatting": "format", "training": "train"}
            if own.get(section) == step.stage:
                assert setting not in counted, (step.stage, setting)


# What it is made with.


def task_of(stage: str) -> str:
    return f"tasks.{ROOMS.get(stage, stage)}.task"


def reachable(stage: str) -> set[str]:
    """Return our modules that a stage may load, as Python's own finder reads their bytecode."""
    room = ROOMS.get(stage, stage)
    finder = ModuleFinder(path=[str(ROOT)])
    finder.run_script(str(ROOT / "tasks" / room / "task.py"))
    rooms = (room, "train", "merge") if room == "rehearse" else (room,)
    scripts = [script for name in rooms for script in ROOT.glob(f"tasks/{name}/*child*.py")]
    of_several = ("retune/templates/child.py", "retune/download_child.py")
    of_several += ("retune/llamacpp/converter.py",)
    for script in (*scripts, *(ROOT / name for name in of_several)):
        finder.load_file(str(script))
    return {name for name in finder.modules if name.partition(".")[0] in made_with.OURS}


@pytest.mark.parametrize("stage", STAGES)
def test_what_counts_is_what_is_loaded_but_for_the_exemptions(stage):
    counted, packages = made_with.closure(stage, task_of(stage))
    loaded = reachable(stage)
    started = {name for name in counted if name.endswith("child") or "llamacpp" in name}
    assert set(counted) - started - {task_of(stage)} <= loaded
    exempt = {name for name in loaded if not made_with.counts(name, stage)}
    assert all(made_with.exemption_of(name).reason for name in exempt)
    assert packages, stage
    for name in packages - set(made_with.EXEMPT_PACKAGES):
        assert made_with.installed(name) != "absent", f"{stage}: {name} is imported by a wrong name"


def test_machines_with_and_without_a_gpu_plan_the_same(monkeypatch):
    def planned(build: str) -> dict[str, str]:
        monkeypatch.setattr(made_with, "installed", lambda name: f"2.13.0{build}")
        return made_with.made_with("train", task_of("train"))

    assert planned("+cpu") == planned("+cu130") != planned(".post1")


def test_no_exemption_is_for_nothing():
    loaded = set().union(*map(reachable, STAGES))
    used = {pattern for pattern in made_with.EXEMPT if fnmatch.filter(loaded, pattern)}
    assert set(made_with.EXEMPT) - used == set()


# Every module is a proof; one in sixty shows that changes are seen.
@pytest.mark.parametrize("stride", [60, pytest.param(1, marks=pytest.mark.proof)])
def test_a_changed_module_changes_the_stages_that_it_is_part_of(monkeypatch, tmp_path, stride):
    for folder in made_with.OURS:
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    monkeypatch.setattr(made_with, "ROOT", tmp_path)
    before = {stage: made_with.made_with(stage, task_of(stage)) for stage in STAGES}
    modules = {stage: made_with.closure(stage, task_of(stage))[0] for stage in STAGES}

    def read(path: Path) -> str:
        return made_with.source.__wrapped__(path).syntax

    hashes = {path: read(path) for found in modules.values() for path in found.values()}
    monkeypatch.setattr(made_with, "syntax", lambda path: hashes[path])
    for path in sorted(hashes)[::stride]:
        text, same = path.read_text(), hashes[path]
        for change, is_seen in ((text + "\n_CHANGED = 1\n", True), (f"# a comment\n{text}", False)):
            path.write_text(change)
            hashes[path] = read(path)
            after = {stage: made_with.made_with(stage, task_of(stage)) for stage in STAGES}
            other = {stage for stage in STAGES if before[stage] != after[stage]}
            part_of = {stage for stage in STAGES if path in modules[stage].values()}
            assert other == (part_of if is_seen else set()), path
        hashes[path] = same


def test_a_changed_template_changes_the_stage_that_fills_it_in(monkeypatch, tmp_path):
    for folder in made_with.OURS:
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    monkeypatch.setattr(made_with, "ROOT", tmp_path)
    before = {stage: made_with.made_with(stage, task_of(stage)) for stage in STAGES}
    with (tmp_path / "tasks/publish/card.md.j2").open("a") as template:
        template.write("{# a comment #}\n")
    after = {stage: made_with.made_with(stage, task_of(stage)) for stage in STAGES}
    assert {stage for stage in STAGES if before[stage] != after[stage]} == {"publish"}


def test_a_docstring_is_no_syntax(tmp_path):
    plain, told = tmp_path / "a.py", tmp_path / "b.py"
    plain.write_text("def one():\n    return 1\n")
    told.write_text('"""Says."""\n\n\ndef one():  # why\n    """Return 1."""\n    return 1\n')
    assert made_with.syntax(plain) == made_with.syntax(told)
    assert ast.dump(ast.parse(plain.read_text())) != ast.dump(ast.parse(told.read_text()))


def test_what_a_card_shows_is_in_the_key_of_publish():
    """The titles and formats of measures, and the method that it recommends."""
    counted, _ = made_with.closure("publish", "tasks.publish.task")
    assert {"retune.measures", "retune.recipe.methods"} <= set(counted)
