"""What a stage needs of a machine of the cluster, by the recipe and what machines there are."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from retune.measures import format_memory
from retune.recipe import Recipe, Resources

# Stages that compute with the base or a tuned model, and those that keep several processors busy.
WITH_MODEL = frozenset(
    ("rehearse", "train", "select", "evaluate", "champion", "anchor", "judge", "merge")
)
BUSY = WITH_MODEL | {"screen", "validate", "format", "convert", "calibrate", "quantize"}
BUSY_CPUS = 4
FANNED_OUT = "quantize"  # which is run for several methods at once
UNSET = Resources()

Totals = Mapping[str, float]  # what a machine has in all, by Ray's names: CPU, GPU, memory in bytes


class Needs(NamedTuple):
    """What a stage needs: `memory` in bytes, `disk` in GiB."""

    stage: str
    cpus: int
    gpus: int = 0
    gpu_kind: str | None = None
    memory: int | None = None
    disk: float | None = None

    def options(self) -> dict[str, Any]:
        """Return it as Ray takes it."""
        options: dict[str, Any] = {"num_cpus": self.cpus, "num_gpus": self.gpus}
        if self.gpu_kind:
            options["accelerator_type"] = self.gpu_kind
        if self.memory:
            options["memory"] = self.memory
        if self.stage == FANNED_OUT:  # else machines would be filled one after the other
            options["scheduling_strategy"] = "SPREAD"
        return options

    def fit(self, machine: Totals) -> bool:
        """Tell whether a machine has as much, when nothing else runs there."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory or 0}
        has_kind = not self.gpu_kind or f"accelerator_type:{self.gpu_kind}" in machine
        return has_kind and all(machine.get(name, 0) >= count for name, count in wanted.items())

    def __str__(self) -> str:
        parts = [f"CPUs: {self.cpus}"]
        if self.gpus:
            parts.append(f"GPUs: {self.gpus}{f' ({self.gpu_kind})' if self.gpu_kind else ''}")
        if self.memory:
            parts.append(f"memory: {format_memory(self.memory)}")
        return ", ".join(parts)


def needs_of(stage: str, recipe: Recipe, machines: Sequence[Totals]) -> Needs:
    """Return what a stage of `recipe` needs: what the recipe names, else what is usual and fits the
    largest of the machines."""
    named = recipe.infra.resources.get(stage, UNSET)
    gpus = named.gpus
    if gpus is None:
        needed = bool(named.gpu_kind) or (stage in WITH_MODEL and _uses_gpus(recipe, machines))
        gpus = int(needed) * (recipe.training.processes if stage == "train" else 1)
    cpus = named.cpus or _usual_cpus(stage, gpus, machines)
    memory = round(named.memory * 2**30) if named.memory else None
    return Needs(stage, cpus, gpus, named.gpu_kind, memory, named.disk)


def _uses_gpus(recipe: Recipe, machines: Sequence[Totals]) -> bool:
    """Tell whether a model is computed with on a GPU: there is one, or it cannot be done without."""
    required = recipe.model.load_in_4bit or recipe.training.optimizer.endswith("8bit")
    return required or any(machine.get("GPU", 0) >= 1 for machine in machines)


def _usual_cpus(stage: str, gpus: int, machines: Sequence[Totals]) -> int:
    if stage not in BUSY:
        return 1
    fitting = [one for one in machines if one.get("GPU", 0) >= gpus]
    largest = max((int(one.get("CPU", 0)) for one in fitting), default=BUSY_CPUS)
    return max(1, min(BUSY_CPUS, largest))
