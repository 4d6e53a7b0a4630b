"""The quantizations of a run side by side: as many as fit on this machine, or on those of a cluster."""

from collections.abc import Mapping
from typing import Any

from prefect import get_run_logger
from prefect.task_runners import ThreadPoolTaskRunner

from retune.home import home
from retune.recipe.methods import by_cost
from tasks.quantize.fan_out import NOTHING_TO_MAKE, fan_out
from tasks.quantize.task import quantize
from tasks.stage import PLACEMENT, Placement

Calls = Mapping[str, Mapping[str, Any]]  # what `quantize` is given, by the method


def side_by_side(calls: Calls) -> dict[str, Any]:
    """Run one quantization per method and return, once all have ended, the Gguf of each, or what it
    raised. Raises NoSpaceLeft or MachineUnfit, before any is started, if not all fit on this machine."""
    placement = PLACEMENT.get()
    return _on_cluster(calls, placement) if placement else _here(calls)


def _on_cluster(calls: Calls, placement: Placement) -> dict[str, Any]:
    ordered = {method: calls[method] for method in by_cost(tuple(calls))}
    todo = {method: given for method, given in ordered.items() if placement.takes(given)}
    outcomes = dict(zip(todo, placement.run_all(quantize, list(todo.values())), strict=True))
    return {
        method: outcomes[method] if method in todo else quantize(**given)
        for method, given in calls.items()
    }


def _here(calls: Calls) -> dict[str, Any]:
    todo = [method for method, given in calls.items() if not given["step"].done]
    fan = NOTHING_TO_MAKE
    if todo:
        given = calls[todo[0]]
        fan = fan_out(given["source"].path, todo, given["recipe"].quantization, home())
        get_run_logger().info("%s", fan)
    methods = [*fan.methods, *(method for method in calls if method not in todo)]
    runner: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=fan.parallel)
    with runner:
        futures = {
            method: runner.submit(
                quantize,
                {**calls[method], "recipe": fan.settle(calls[method]["recipe"])},
            )
            for method in methods
        }
        return {method: future.result(raise_on_failure=False) for method, future in futures.items()}
