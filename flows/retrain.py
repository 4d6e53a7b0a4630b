"""The line: from a dataset's name to the files that ship, one stage per line.

conform ─▶ fetch ─▶ validate ─▶ format ─▶ train ─▶ evaluate ─▶ merge ─▶ quantize ×6 ─▶ publish
"""

from datetime import datetime

from prefect import flow, get_run_logger, runtime
from prefect.artifacts import create_markdown_artifact
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.annotations import unmapped

from flows.dead_runs import sign
from flows.plan import Plan, make_plan
from flows.summary import Summary, summarise
from retune.config import (
    Dataset,
    Evaluation,
    Formatting,
    Merging,
    Model,
    Publishing,
    Quantization,
    Recipe,
    Tracking,
    Training,
    Validation,
)
from retune.machine import require_machine
from retune.records import Chats, Gguf, Imatrix
from retune.tracking import Run, start_run
from retune.workspace import home, keep_private
from tasks.conform.task import conform
from tasks.evaluate.task import evaluate
from tasks.fetch.task import fetch, pin_inputs
from tasks.format.task import format_chats
from tasks.merge.task import merge
from tasks.publish.task import check_access, check_terms, publish
from tasks.quantize.fan_out import fan_out
from tasks.quantize.task import calibrate, convert, quantize, report
from tasks.train.task import train
from tasks.validate.task import validate


def _run_name() -> str:
    return f"{runtime.flow_run.parameters['name']} {datetime.now():%Y-%m-%d %H:%M:%S}"


@flow(name="retune", flow_run_name=_run_name, on_running=[sign])
def retrain(
    name: str,
    model: Model,
    dataset: Dataset,
    validation: Validation = Validation(),  # noqa: B008  (frozen, and Prefect's form shows it)
    formatting: Formatting = Formatting(),  # noqa: B008
    training: Training = Training(),  # noqa: B008
    evaluation: Evaluation = Evaluation(),  # noqa: B008
    merging: Merging = Merging(),  # noqa: B008
    quantization: Quantization = Quantization(),  # noqa: B008
    publishing: Publishing = Publishing(),  # noqa: B008
    tracking: Tracking = Tracking(),  # noqa: B008
) -> Summary:
    """Re-train a language model and ship only what passes its gates.

    Args:
        name: Name of the recipe; its runs stand together in MLflow's experiment of this name.
        model: The base model.
        dataset: The conversations to train on.
        validation: The data gate.
        formatting: Chat format, and the share held out for evaluation.
        training: LoRA and optimizer settings.
        evaluation: How base and tuned model are compared.
        merging: How adapter and base become one checkpoint.
        quantization: The GGUF files to make.
        publishing: What goes to the Hugging Face Hub.
        tracking: What MLflow keeps.
    """
    keep_private()  # a team's own worker does not come by `retune ui`
    recipe = Recipe(
        name=name,
        model=model,
        dataset=dataset,
        validation=validation,
        formatting=formatting,
        training=training,
        evaluation=evaluation,
        merging=merging,
        quantization=quantization,
        publishing=publishing,
        tracking=tracking,
    )
    require_machine(recipe)
    if publishing.enabled:
        check_access(recipe)
        check_terms(recipe)
    pins = pin_inputs(recipe)
    plan = make_plan(recipe, pins)
    tags = {"prefect.flow_run_id": runtime.flow_run.id}
    with start_run(recipe, runtime.flow_run.name, tags, plan.digest(recipe)) as run:
        conformance = run.log(conform(recipe.model, pins, plan.conform, gguf=bool(plan.convert)))
        rows = run.log(fetch(recipe.dataset, pins, plan.fetch))
        sound = run.log(validate(rows, recipe, pins, plan.validation, run))
        chats = run.log(format_chats(sound, recipe.model, recipe.formatting, pins, plan.formatting))
        run.accept(sound, recipe, pins.dataset)
        adapter = run.log(train(chats, recipe.model, recipe.training, plan.train, run, pins))
        scores = run.log(
            evaluate(adapter, chats, recipe.model, recipe.evaluation, plan.evaluate, run, pins)
        )
        merged = source = imatrix = None
        quants: list[Gguf] = []
        if plan.merge:
            merged = run.log(merge(adapter, chats, recipe, pins, plan.merge))
            source = run.log(convert(merged, chats, scores, recipe, plan.convert))
            imatrix = plan.calibrate and run.log(calibrate(source, chats, recipe, plan.calibrate))
            quants = quantize_all(source, imatrix, chats, recipe, plan, run)
        published = None
        if plan.publish:
            published = run.log(
                publish(adapter, merged, quants, scores, recipe, pins, plan.publish)
            )
            run.register(name, published.model, published.params)

        trained = [conformance, rows, sound, chats, adapter, scores]
        files = [output for output in (merged, source, imatrix, *quants) if output]
        summary = summarise(recipe, run, [*trained, *files], published)
        create_markdown_artifact(key="summary", markdown=summary.markdown(), description="The run")
        return summary


def quantize_all(
    source: Gguf, imatrix: Imatrix | None, chats: Chats, recipe: Recipe, plan: Plan, run: Run
) -> list[Gguf]:
    """Run one quantization per method side by side, each with a child run in MLflow.

    Finished ones are reused. All are waited for and logged before the first failure is raised.
    Raises NoSpaceLeft or MachineUnfit, before any is started, if not all fit.
    """
    steps = dict(zip(recipe.quantization.methods, plan.quantize, strict=True))
    todo = [method for method, step in steps.items() if not step.done]
    fan = fan_out(source.path, todo, recipe.quantization, home())
    get_run_logger().info("%s", fan)
    methods = [*fan.methods, *(method for method in steps if method not in todo)]
    with ThreadPoolTaskRunner(max_workers=fan.parallel) as runner:
        futures = runner.map(
            quantize,
            {
                "source": unmapped(source),
                "imatrix": unmapped(imatrix),
                "chats": unmapped(chats),
                "method": methods,
                "recipe": unmapped(fan.settle(recipe)),
                "step": [steps[method] for method in methods],
            },
        )
        results = {
            method: future.result(raise_on_failure=False)
            for method, future in zip(methods, futures, strict=True)
        }
    files = [results[method] for method in steps]
    for method, result in zip(steps, files, strict=True):
        if isinstance(result, Gguf):
            run.log_child(result, method)
        else:
            run.log_failed_child(method, result)
    report([gguf for gguf in files if isinstance(gguf, Gguf)], run)
    for result in files:
        if not isinstance(result, Gguf):
            raise result
    return files
