"""`retune plan`: what a run would do, what it would reuse, and what it needs. Touches nothing."""

from datetime import UTC, datetime

from flows.disk import NF4_SHARE, count_parameters, disk_needed, free_disk, step_name
from flows.estimate import estimate
from flows.judge_estimate import TOKENS_PER_ROW, judge_estimate
from flows.plan import Plan, make_plan
from flows.ray_cluster import on_cluster
from flows.smallest_differences import anchor_rows, smallest_differences
from flows.summary import Grid
from retune import llamacpp
from retune.home import work
from retune.inspection import inspect_inputs
from retune.machine import cores, gpus, lacking
from retune.measures import format_bytes, format_duration, format_memory
from retune.pinning import UNPINNED, pin_all
from retune.recipe import Recipe
from retune.records import Pins
from retune.room import misfit
from retune.store.checkpoints import are_there
from tasks.train.hosts import of_run

# Of llama.cpp by a core with AVX2, as measured with 135 M weights: 30 for a text, 18 for answers.
FLOPS_PER_CORE = 20e9


def forecast(recipe: Recipe) -> Grid:
    """Return each stage with its output folder, and the disk and memory a run would take.

    Asks the Hub for the current commits of what is not local, and looks at the models' files there;
    asks whether what is at an address is still what was copied. Downloads no weights and no dataset,
    and writes nothing. Raises as `of_run`, `pin_all` and `inspect_inputs` do.
    """
    of_run(recipe.training)
    pins = pin_all(recipe, copies=False)
    inspect_inputs(recipe, pins)
    rows = []
    todo = []
    plan = make_plan(recipe, pins)
    unknown = _unknown(plan, recipe, pins) if pins.dataset == UNPINNED else set()
    for step in plan.steps():
        if step.fingerprint in unknown:
            todo.append(step_name(step))
            rows.append([todo[-1], "run", "known when the dataset is copied and pinned"])
            continue
        is_done = step.done
        partial = step.folder.with_name(step.folder.name + ".partial")
        started = (partial / "checkpoints").is_dir() or (not is_done and are_there(step.name))
        name = step_name(step)
        if not is_done:
            todo.append(name)
        rows.append(
            [name, "reuse" if is_done else "resume" if started else "run", str(step.folder)]
        )
    parameters = count_parameters(recipe, pins)
    rows += [["", "", ""], *_gpu(recipe), *_requirements(recipe, parameters, todo)]
    rows += _time(recipe, plan)
    rows += judge_estimate(recipe, pins, plan)
    rows += anchor_rows(pins, plan)
    rows += [["", "", ""], *smallest_differences(recipe, pins, plan)]
    if recipe.model.trust_remote_code:
        rows.append(["the base's own code", "runs", recipe.model.trust_remote_code])
    return Grid(title=f"Plan: {recipe.name}", columns=["stage", "would", "output"], rows=rows)


def _unknown(plan: Plan, recipe: Recipe, pins: Pins) -> set[str]:
    """Return the fingerprints in a plan that would be others for another version of the dataset."""
    other = make_plan(recipe, pins.model_copy(update={"dataset": "sha256:other"}))
    same = {step.fingerprint for step in other.steps()}
    return {step.fingerprint for step in plan.steps()} - same


def _gpu(recipe: Recipe) -> list[list[str]]:
    """Say that a run of the recipe would be refused on this machine."""
    reason = "" if on_cluster() else lacking(recipe)
    return [["this machine", "refused", f"the recipe {reason}"]] if reason else []


def _requirements(recipe: Recipe, parameters: int, todo: list[str]) -> list[list[str]]:
    """Estimate disk and memory; the merged model, its GGUF and the quants are what counts."""
    full = 2 * parameters
    disk, free = disk_needed(recipe, parameters, todo), free_disk()
    training, training_means = _to_train(recipe, parameters)
    # A shard and what is imported; then, without a GPU, a whole model in 32 bits to compare it.
    shard = 1.3 * min(full, recipe.merging.max_shard_gb * 1e9) + 2 * 2**30
    merging = max(shard, 0 if recipe.model.load_in_4bit else 4 * parameters)
    return [
        ["base model", f"{parameters / 1e6:,.1f} M", "weights"],
        ["disk needed", format_bytes(disk), f"{format_bytes(free)} free in {work()}"],
        ["memory to train", format_memory(training), f"for {training_means}, plus activations"],
        *(
            [["memory to merge", format_memory(merging), "of main memory"]]
            if "merge" in todo
            else []
        ),
        *_to_evaluate(recipe, parameters, todo),
        *_to_measure(recipe, parameters, todo),
    ]


def _time(recipe: Recipe, plan: Plan) -> list[list[str]]:
    """Say how long the run takes until it is decided on, as far as earlier ones tell."""
    if expected := estimate(recipe, plan):
        words = expected.text(recipe.training.price_per_hour, datetime.now(UTC))
        return [["time", format_duration(expected.seconds), words]]
    return []


def _to_evaluate(recipe: Recipe, parameters: int, todo: list[str]) -> list[list[str]]:
    """Say on which weights the adapter is evaluated and merged, as far as memory decides it."""
    if "select" not in todo:
        return []
    subject, reason = "weights to evaluate", misfit(parameters)
    if reason and recipe.merging.onto == "16bit":
        return [[subject, "refused", f"{reason}; set merging.onto=dequantized"]]
    if reason:
        return [[subject, "4-bit", f"if this machine does it: {reason}"]]
    chosen = recipe.merging.onto == "best"
    means = "those with the lower held-out loss" if chosen else "as merging.onto says"
    return [[subject, "16-bit or 4-bit" if chosen else "16-bit", means]]


def _to_measure(recipe: Recipe, parameters: int, todo: list[str]) -> list[list[str]]:
    """Estimate how long the GGUF files are measured, which a CPU takes hours for with a large model."""
    files = sum(stage == "convert" or stage.startswith("quantize ") for stage in todo)
    if not files:
        return []
    config, subject = recipe.quantization, "time to measure"
    if build := llamacpp.accelerated():
        return [[subject, "minutes", f"by the GPU, {files} files, with llama.cpp {build}"]]
    row = min(TOKENS_PER_ROW, recipe.model.max_length)
    asked = config.answer_rows * (row + recipe.evaluation.max_new_tokens)
    tokens = files * (config.perplexity_rows * row + asked)
    minutes = 2 * parameters * tokens / (FLOPS_PER_CORE * cores()) / 60
    means = f"by {cores()} cores of the CPU, {files} files, {tokens:,} tokens"
    if gpus():
        means += "; `make llamacpp` where CUDA's nvcc is makes it minutes"
    return [[subject, _bound(minutes), means]]


def _bound(minutes: float) -> str:
    if minutes < 1:
        return "under a minute"
    return f"up to {minutes:.0f} min" if minutes < 90 else f"up to {minutes / 60:.0f} h"


def _to_train(recipe: Recipe, parameters: int) -> tuple[float, str]:
    """Return the bytes that training takes whatever its batch, and of what they are."""
    if recipe.training.method == "full":
        width = 4 if recipe.training.master_weights == "float32" else 2
        per_parameter = 2 * width + recipe.training.moments_bytes(width)
        return per_parameter * parameters, "weights, gradients and the optimizer's moments"
    return 2 * parameters * (NF4_SHARE if recipe.model.load_in_4bit else 1), "the frozen weights"
