"""The line: from a dataset's name to the files that ship, one stage per line.

conform ─▶ fetch ─▶ validate ─▶ format ─▶ train ─▶ evaluate ─▶ merge ─▶ quantize ×6 ─▶ publish
"""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Annotated, Any

from prefect import flow, get_run_logger, runtime

from expectations import conform as conforming
from expectations import (
    formatting,
    gguf_files,
    llm_judge,
    merging,
    publication,
    regression,
    rehearsal,
)
from expectations import parity as reading
from expectations import training as training_course
from expectations.data import judgement as data
from expectations.promotion.contest import require_noise
from expectations.verdicts import Verdict
from flows.anchoring import keep
from flows.cluster import placed
from flows.dead_runs import sign
from flows.described import described
from flows.disk import require_disk
from flows.endings import with_ending
from flows.estimate import announce
from flows.expiry import note_expired
from flows.form import boxes, recipe_of
from flows.gguf_report import report
from flows.judging import judging
from flows.leases import keep_working_without_lease
from flows.log_names import name_lines
from flows.plan import Plan, make_plan, publish_step
from flows.promotion import Ending, after, decided, noting, settle
from flows.provenance import provenance
from flows.quantizations import side_by_side
from flows.queue import superseded_by
from flows.ray_cluster import on_cluster, require_cluster
from flows.recorded import Recorded
from flows.resumed import leave_stopped, resumed_pins, resumed_plan
from flows.run_names import FLOW, flow_run_name
from flows.stage_pages import show_chats, show_scores, show_training
from flows.summary import Summary, summarise
from flows.unchanged import accepted_run, input_tags, skipped, skipped_for, skips
from flows.worth import not_worth_it
from retune.calibration import stored_noise
from retune.disk_space import require_room_to_begin
from retune.gpu_lock import gpus_alone
from retune.home import keep_private
from retune.machine import require_machine
from retune.outputs import Output
from retune.recipe import (
    Dataset,
    Evaluation,
    Formatting,
    Gates,
    Infra,
    Merging,
    Model,
    Promotion,
    Publishing,
    Quantization,
    Recipe,
    Schedule,
    Tracking,
    Training,
    Validation,
)
from retune.records import Chats, Gguf, Imatrix, Pins
from retune.registry import Candidate, published_as, register_candidate
from retune.store.sharing import require_store
from retune.temporary import sweep
from retune.tracking import Run, start_run
from tasks.anchor.task import measure_anchor
from tasks.conform.task import conform
from tasks.conform.task import parity as compare_rows
from tasks.evaluate.task import evaluate, measure_champion
from tasks.evaluate.trial import try_tasks
from tasks.fetch.task import fetch, pin_inputs
from tasks.format.task import format_chats
from tasks.judge.task import ask_judge
from tasks.merge.task import merge
from tasks.publish.task import check_access, check_terms, publish
from tasks.quantize.task import calibrate, convert
from tasks.rehearse.task import rehearse
from tasks.select.task import select
from tasks.train.hosts import of_run
from tasks.train.task import prepared, train
from tasks.validate.task import screen, validate

keep_working_without_lease()
name_lines()


# The parameters in the order of the run form, see `flows.form`; `recipe_of` checks them, in a line each.
@flow(name=FLOW, flow_run_name=flow_run_name, on_running=[sign], validate_parameters=False)
def retrain(
    *,
    name: str,
    note: str = "",
    dataset: Annotated[Dataset, boxes("dataset")],
    model: Annotated[Model, boxes("model")],
    training: Annotated[Training, boxes("training")] = Training(),  # noqa: B008  (frozen)
    quantization: Annotated[Quantization, boxes("quantization")] = Quantization(),  # noqa: B008
    publishing: Annotated[Publishing, boxes("publishing")] = Publishing(),  # noqa: B008
    validation: Annotated[Validation, boxes("validation")] = Validation(),  # noqa: B008
    formatting: Annotated[Formatting, boxes("formatting")] = Formatting(),  # noqa: B008
    evaluation: Annotated[Evaluation, boxes("evaluation")] = Evaluation(),  # noqa: B008
    merging: Annotated[Merging, boxes("merging")] = Merging(),  # noqa: B008
    promotion: Annotated[Promotion, boxes("promotion")] = Promotion(),  # noqa: B008
    tracking: Annotated[Tracking, boxes("tracking")] = Tracking(),  # noqa: B008
    gates: Annotated[Gates, boxes("gates")] = Gates(),  # noqa: B008
    schedule: Annotated[Schedule, boxes("schedule")] = Schedule(),  # noqa: B008
    infra: Annotated[Infra, boxes("infra")] = Infra(),  # noqa: B008
) -> Summary:
    """Re-train a language model and ship only what passes its gates.

    Args:
        name: Name of the recipe; its runs stand together in MLflow's experiment of this name.
        note: Why this run is made, or what it tries; shown on its page and in MLflow.
        dataset: The conversations to train on.
        model: The base model.
        training: LoRA and optimizer settings.
        quantization: The GGUF files to make.
        publishing: What goes to the Hugging Face Hub.
        validation: The data gate.
        formatting: Chat format, and the share held out for evaluation.
        evaluation: How base and tuned model are compared.
        merging: How adapter and base become one checkpoint.
        promotion: What a candidate has to show before it takes the champion's place.
        tracking: What MLflow keeps.
        gates: What happens when an expectation is not met.
        schedule: When runs begin, and when they have nothing to do.
        infra: What stages need of the machines of a cluster.
    """
    values = dict(locals())
    keep_private()  # a team's own worker does not come by `retune ui`
    return with_ending(lambda: _run(values))


def _run(values: Mapping[str, Any]) -> Summary:
    """Take the parameters of a run to its end. Raises RecipeError, and what `run_line` raises."""
    recipe = recipe_of(values)
    require_room_to_begin()
    require_store()
    require_cluster()
    sweep()
    note_expired(recipe.name)
    if newer := superseded_by():
        return skipped(recipe, "", f"{newer} is newer, and runs instead")
    return run_line(recipe)


def run_line(recipe: Recipe, replayed: Recorded | None = None) -> Summary:
    """Take a recipe from its dataset to what ships. Raises Rejected where a gate says no.

    With `replayed` on the very inputs of that run; NotTheSame if one of them is another by now.
    """
    if not on_cluster():
        require_machine(recipe)
    of_run(recipe.training)  # refuses at once what several hosts would train each for itself
    if recipe.publishing.enabled:
        check_access(recipe)
        check_terms(recipe)
    pins = resumed_pins(recipe) or pin_inputs(recipe)
    tags = {"prefect.flow_run_id": runtime.flow_run.id}
    if replayed:
        pins = replayed.held_to(pins)
        tags |= replayed.tags()
    plan = make_plan(recipe, pins)
    waited = resumed_plan(recipe, pins, plan)
    plan = waited.plan if waited else plan
    noise: dict[str, float] = {}
    if not replayed:  # which decides nothing, in an experiment where nobody calibrated
        noise = stored_noise(recipe, pins)
        require_noise(recipe.promotion, noise)
        tags |= input_tags(recipe, pins, plan, noise)
        if earlier := accepted_run(recipe, pins, plan, tags):
            if skips(recipe):
                return skipped_for(earlier, recipe)
            get_run_logger().info("%s; what it made is reused", earlier.reason)
    name, digest = runtime.flow_run.name, waited.digest if waited else plan.digest(recipe)
    require_disk(recipe, pins, plan)
    for sentence in try_tasks(recipe, pins, plan.evaluate):
        get_run_logger().info("%s", sentence)
    works = not all(step.done for step in plan.steps())
    works_here = works and not on_cluster()
    trains_here = works_here and not plan.train.done
    with (
        gpus_alone(recipe, get_run_logger().info) if works_here else nullcontext(),
        start_run(recipe, name, tags, digest) as run,
        described(run, recipe) as description,
        judging(run) as judge,
        prepared(recipe, pins) if trains_here else nullcontext(),
        placed() if works else nullcontext(),
    ):
        leave_stopped(recipe, run.id)
        if not waited or run.id != waited.run_id:  # else another retune may be installed by now
            provenance(recipe, pins, plan).log(run)
        stop_clock = announce(run, recipe, plan)
        conformance = run.log(conform(recipe, pins, plan.conform))
        judge(conformance, conforming.judgement(conformance, recipe))
        rehearsed = None
        if plan.rehearse:
            rehearsed = run.log(rehearse(conformance, recipe, pins, plan.rehearse))
            judge(rehearsed, rehearsal.judgement(rehearsed, recipe))
        rows = run.log(fetch(recipe, pins, plan.fetch))
        reference = data.reference(recipe, pins)
        screened = run.log(screen(rows, recipe, pins, plan.screen))
        judge(screened, data.screening(screened, recipe, reference))
        sound = run.log(validate(rows, screened, recipe, pins, plan.validation))
        judge(sound, data.judgement(sound, recipe, reference))
        chats = run.log(format_chats(sound, recipe, pins, plan.formatting))
        judge(chats, formatting.judgement(chats, recipe))
        description.rows(sound, chats)
        if not replayed and (spared := not_worth_it(run, recipe, pins, sound, tags)):
            return spared
        show_chats(chats)
        parity = None
        if plan.parity:
            parity = run.log(compare_rows(conformance, chats, recipe, pins, plan.parity))
            judge(parity, reading.judgement(parity, recipe))
        run.accept(sound, recipe, pins.dataset, pins.mix)
        adapter = run.log(train(chats, run, recipe, pins, plan.train))
        show_training(adapter, run)
        judge(adapter, training_course.judgement(adapter))
        selection = None
        if plan.select:
            selection = run.log(select(adapter, chats, recipe, pins, plan.select))
        scores = run.log(evaluate(adapter, selection, chats, recipe, pins, plan.evaluate))
        description.samples(scores)
        show_scores(scores, recipe.evaluation.samples)
        judge(scores, regression.judgement(scores, recipe))
        contender = None
        if plan.champion and pins.champion:
            contender = run.log(measure_champion(pins.champion, chats, recipe, pins, plan.champion))
        anchored = None
        if plan.anchor and pins.champion:
            champion, step = pins.champion, plan.anchor
            anchored = run.log(
                measure_anchor(adapter, selection, champion, chats, recipe, pins, step)
            )
        judged = None
        if plan.judge and not replayed:  # of a replay nothing is decided, and a judge costs
            judged = run.log(ask_judge(scores, contender, recipe, pins, plan.judge))
            judge(judged, llm_judge.judgement(judged, recipe))
        merged = source = imatrix = None
        quants: list[Gguf] = []
        reasons: dict[str, list[Verdict]] = {}  # why a file does not ship
        if plan.merge and plan.convert:
            require_disk(recipe, pins, plan)  # hours may have passed
            merged = run.log(merge(adapter, selection, chats, recipe, pins, plan.merge))
            judge(merged, merging.judgement(merged, recipe))
            source = run.log(convert(merged, chats, recipe, pins, plan.convert))
            judge(source, gguf_files.source(source, scores, recipe))
            if plan.calibrate:
                imatrix = run.log(calibrate(source, chats, recipe, pins, plan.calibrate))
            quants, failures = quantize_all(source, imatrix, chats, recipe, pins, plan, run)
            # A quant that fails its gate does not ship; the others do.
            for quant in quants:
                reasons[quant.file] = judge.hear(quant, gguf_files.quant(quant, source, recipe))
            report(quants, reasons, run)
            for failure in failures:
                raise failure
        files_made = tuple(quant for quant in quants if not reasons[quant.file])
        made = Candidate(sound, adapter, selection, scores, merged, files_made)
        stop_clock()
        if replayed:
            ending = Ending("Replayed", f"as {replayed.run_name}")
        else:
            version = register_candidate(run, recipe, pins, made)
            decision = decided(run, version, made, contender, recipe, pins, noise, judged, anchored)
            keep(run, version, decision, anchored, chats, scores, recipe, pins)
            with noting(run, version):
                judge(None, decision.judgement)
                ending = settle(run, version, decision, recipe, pins)
            after(ending, version, decision, recipe)
        published = None
        if plan.publish and ending.serves:
            shipping = list(made.files)
            parts = [scores, *([merged, *shipping] if merged else [adapter])]
            step = publish_step(recipe, parts)
            published = run.log(publish(adapter, merged, shipping, scores, recipe, pins, step))
            judge(published, publication.judgement(published))
            published_as(version, published.model, published.params)

        read = (conformance, rehearsed, rows, screened, sound, chats, parity)
        trained = (*read, adapter, selection, scores, contender, anchored, judged)
        files = (merged, source, imatrix, *quants)
        outputs: list[Output] = [output for output in (*trained, *files) if output]
        return summarise(recipe, run, outputs, reasons, published, ending.name, ending.reason)


def quantize_all(
    source: Gguf,
    imatrix: Imatrix | None,
    chats: Chats,
    recipe: Recipe,
    pins: Pins,
    plan: Plan,
    run: Run,
) -> tuple[list[Gguf], list[BaseException]]:
    """Run one quantization per method side by side, each with a child run in MLflow.

    Finished ones are reused. All are waited for and logged; returns the files and the failures.
    Raises NoSpaceLeft or MachineUnfit, before any is started, if not all fit.
    """
    steps = dict(zip(recipe.quantization.methods, plan.quantize, strict=True))
    given = {"source": source, "imatrix": imatrix, "chats": chats, "recipe": recipe, "pins": pins}
    calls = {method: given | {"method": method, "step": step} for method, step in steps.items()}
    results = side_by_side(calls)
    files: list[Gguf] = []
    failures: list[BaseException] = []
    for method in steps:
        result = results[method]
        if isinstance(result, Gguf):
            files.append(run.log_child(result, method))
        else:
            run.log_failed_child(method, result)
            failures.append(result)
    return files, failures
