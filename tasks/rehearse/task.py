"""rehearse: a tiny twin of the base goes the way of the base, before anything costs much.

What only shows at the end of a training shows here: a layer whose adapter cannot be merged, weights
whose names llama.cpp does not know, settings that cannot be saved. On the CPU, two steps, seconds.
This room is the only one that enters others: it takes their own children through the line.
"""

import re
from pathlib import Path

from prefect import get_run_logger

from retune import llamacpp
from retune.architecture import AUTO
from retune.building import building
from retune.child import ChildFailed, ChildRefused, run_child
from retune.comparison import Yardstick
from retune.errors import RetuneError
from retune.home import remove
from retune.outputs import Step
from retune.recipe import Recipe, Training
from retune.recipe.merging import FARTHEST_KL
from retune.records import Conformance, Pins, Rehearsal
from tasks.merge.child import MergeJob
from tasks.merge.sources import Base
from tasks.merge.task import CHILD as MERGING
from tasks.merge.task import TRAINED, require_whole
from tasks.merge.trained_child import TrainedJob
from tasks.rehearse.child import ComputingJob
from tasks.stage import stage
from tasks.train.job import TrainJob
from tasks.train.task import run_training

STEPS = 2
TOKENS = 128  # of a row
# Standard deviations. Rounding to 16 bits makes 0.004; experts' weights that llama.cpp normalises and
# the model does not, 0.14.
FARTHEST_DEVIATION = 0.03
CHILD = Path(__file__).with_name("child.py")
OF_MACHINE = re.compile(
    r"\b(OSError|MemoryError|Errno)|No space left|bad_alloc|(can't|cannot|unable to) allocate"
    r"|PytorchStreamWriter|out of memory",
    re.IGNORECASE,
)
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}
# Of a training of STEPS steps; what the twin is to show does not depend on them.
SMALL = {
    **{"backend": "trl", "processes": 1, "shard": False, "optimizer": "adamw_torch"},
    **{"fp8": False},
    **{"max_steps": STEPS, "warmup_steps": 0, "batch_size": 1, "gradient_accumulation": 1},
    **{"packing": False, "gradient_checkpointing": "off", "memory": "as_written"},
    **{"train_on": "all", "checkpoint_steps": None, "learning_rate": 1e-4},
    **{"price_per_hour": None, "max_gpu_hours": None, "max_cost": None},
}


class RehearsalFailed(RetuneError):
    """The tiny model came out otherwise than it was trained."""


@stage(name="rehearse")
def rehearse(conformance: Conformance, recipe: Recipe, pins: Pins, step: Step) -> Rehearsal:
    """Train, merge, convert and ask the base's tiny twin, as far as the recipe will go."""
    parts: tuple[str, ...] = ("train",)
    if recipe.makes_gguf:
        parts += ("merge", "convert", "compute")
    if not conformance.twin.exists():
        parts = ()
        get_run_logger().warning("no tiny model of this architecture can be made: no rehearsal")
    with building(step) as build:
        twin = Twin(conformance.twin, recipe, build.path)
        reached, failure = [], ""
        for part in parts:
            reached.append(part)
            if failure := reason(twin, part):
                break
        twin.remove()
        if reached:
            end = failure or "came to the end"
            get_run_logger().info("a tiny model of this architecture: %s", end)
        logs = sorted(path.name for path in build.path.glob("*.log"))
        return build.finish(Rehearsal, parts=tuple(reached), failure=failure, files=tuple(logs))


def reason(twin: "Twin", part: str) -> str:
    """Do one part of the line; return why it failed, "" if it did not.

    What is the machine's fault, or was killed from outside, says nothing of the base, and is raised.
    """
    try:
        getattr(twin, part)()
    except (ChildFailed, ChildRefused, RehearsalFailed, llamacpp.LlamaCppFailed) as error:
        killed = isinstance(error, ChildFailed) and error.signal
        if killed or isinstance(error, llamacpp.LlamaCppStopped) or OF_MACHINE.search(str(error)):
            raise
        lines = str(error).partition("; the log is")[0].splitlines()
        # Of a crash the traceback follows, of llama.cpp's converter its log goes before.
        return lines[0] if isinstance(error, ChildFailed) else lines[-1]
    return ""


class Twin:
    """A tiny model on its way, in the folder of the rehearsal."""

    def __init__(self, source: Path, recipe: Recipe, folder: Path) -> None:
        self._source, self._folder = source, folder
        small = {"base": str(source / "base"), "revision": None, "load_in_4bit": False}
        self._model = recipe.model.model_copy(update=small | {"max_length": TOKENS})
        self._training = Training.model_validate(recipe.training.model_dump() | SMALL)
        self._gguf = folder / "rehearsed.gguf"
        self._max_shard_gb = recipe.merging.max_shard_gb

    def train(self) -> None:
        """Write `adapter/`."""
        try:
            self._train(self._training)
        except ChildRefused:
            if self._training.target_modules == AUTO:
                raise
            # The layers that are named may be those of the base that the twin lacks.
            self._train(self._training.model_copy(update={"target_modules": AUTO}))

    def _train(self, config: Training) -> None:
        job = TrainJob(
            rows=self._source / "rows.parquet",
            held_out=self._source / "rows.parquet",
            tokenizer=self._source / "tokenizer",
            model=self._model,
            revision=None,
            config=config,
            folder=self._folder,
        )
        run_training(job, lambda event: None, NO_GPU)

    def merge(self) -> None:
        """Write `model/`, and compare it with what was trained."""
        rows = self._source / "rows.parquet"
        yardstick = Yardstick(held_out=rows, rows=STEPS, logits=self._folder / "logits")
        adapter, log = self._folder / "adapter", self._folder / "merge.log"
        trained = TrainedJob(model=self._model, revision=None, trained=adapter, yardstick=yardstick)
        run_child(TRAINED, trained, log, env=NO_GPU, forked=True)
        job = MergeJob(
            trained=adapter,
            tokenizer=self._source / "tokenizer",
            model=self._model,
            revision=None,
            base=Base(name=self._model.base, revision=None, setting="model.base"),
            max_shard_gb=self._max_shard_gb,
            folder=self._folder / "model",
            yardstick=yardstick,
        )
        merged = run_child(MERGING, job, log, env=NO_GPU, forked=True)
        require_whole(merged["damaged"])
        divergence = merged["metrics"]["kl_divergence"]
        if not divergence <= FARTHEST_KL:
            raise RehearsalFailed(
                f"the merged model is not what was trained: KL divergence {divergence:.3g} nats per token"
            )

    def convert(self) -> None:
        """Make a GGUF of `model/`."""
        llamacpp.convert(self._folder / "model", self._gguf)

    def compute(self) -> None:
        """Ask `model/` and its GGUF for the same numbers."""
        job = ComputingJob(
            checkpoint=self._folder / "model", gguf=self._gguf, rows=self._source / "rows.parquet"
        )
        log = self._folder / "compute.log"
        asked = run_child(CHILD, job, log, env=NO_GPU, forked=True)
        if "failure" in asked:
            raise RehearsalFailed(asked["failure"])
        deviation = asked["deviation"]
        if not deviation <= FARTHEST_DEVIATION:
            raise RehearsalFailed(
                f"llama.cpp computes something else than the model: log-probabilities are "
                f"{deviation:.2g} standard deviations of the logits apart, "
                f"{FARTHEST_DEVIATION:g} is rounding"
            )

    def remove(self) -> None:
        """Remove all but the logs."""
        for path in self._folder.iterdir():
            if path.suffix != ".log":
                remove(path)
