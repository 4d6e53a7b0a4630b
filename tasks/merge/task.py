"""merge: what was trained becomes one 16-bit checkpoint; what ships is what was trained."""

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from prefect import get_run_logger

from retune.child import Event, run_child
from retune.errors import RetuneError
from retune.recipe import Recipe, RecipeError
from retune.recipe.merging import FARTHEST_KL, LEAST_SAME_TOP
from retune.records import Adapter, Chats, Merged, Pins
from retune.sources import unchanged
from retune.workspace import Step, building, remove
from tasks.merge.child import MergeJob
from tasks.merge.comparison import Yardstick
from tasks.merge.four_bit_child import FourBitJob
from tasks.merge.sources import Base
from tasks.merge.trained_child import TrainedJob
from tasks.merge.writing import ENVIRONMENT
from tasks.stage import stage

CHILD = Path(__file__).with_name("child.py")
TRAINED = Path(__file__).with_name("trained_child.py")
FOUR_BIT = Path(__file__).with_name("four_bit_child.py")
LOG = "merge.log"
STANDARD_ERRORS = 2.0  # below that, two losses are taken to be equal

Metrics = dict[str, float]


class CheckpointDamaged(RetuneError):
    """The disk holds something else than what was written."""


@stage(name="merge")
def merge(adapter: Adapter, chats: Chats, recipe: Recipe, pins: Pins, step: Step) -> Merged:
    """Merge into `model/`, and compare it, as read back from disk, with what was trained.

    Of two checkpoints that can be made of an adapter trained on 4-bit weights, the one with the lower
    held-out loss is kept (`merging.onto`, see `preferred`).
    """
    model, merging = recipe.model, recipe.merging
    with (
        building(step) as build,
        unchanged(model.base, pins.model, "model.base"),
        unchanged(merging.base_16bit, pins.base_16bit, "merging.base_16bit"),
    ):
        work = MergeSession(adapter, chats, recipe, pins, build.path)
        trained = work.ask_trained()
        written = {name: work.candidate(name, base) for name, base in work.bases(trained).items()}
        candidates = {name: candidate.metrics for name, candidate in written.items()}
        onto = preferred(written)
        get_run_logger().info("merged onto %s: %s", onto, describe(candidates))
        work.keep(onto)
        best, models = candidates[onto], ["model"]
        if merging.save_method == "merged_4bit":
            candidates["4bit"] = work.four_bit()
            models.append("model-4bit")
        remove(work.yardstick.logits)
        return build.finish(
            Merged,
            metrics=best | by_candidate(candidates),
            params={"merged_onto": onto},
            files=(LOG,),
            models=tuple(models),
        )


@dataclass(frozen=True)
class MergeSession:
    """What one merge works with, in its build folder; each step is a child process of its own."""

    adapter: Adapter
    chats: Chats
    recipe: Recipe
    pins: Pins
    folder: Path

    @property
    def yardstick(self) -> Yardstick:
        return Yardstick(
            held_out=self.chats.held_out,
            rows=self.recipe.merging.check_rows,
            logits=self.folder / "logits",
        )

    @property
    def revision(self) -> str | None:
        return self.pins.commit(self.pins.model)

    def path(self, candidate: str) -> Path:
        return self.folder / f"candidate-{candidate}"

    def ask_trained(self) -> Event:
        """Keep the logits of what was trained; return which of its weights are 4-bit ones."""
        job = TrainedJob(
            model=self.recipe.model,
            revision=self.revision,
            trained=self.adapter.path,
            yardstick=self.yardstick,
        )
        return run_child(TRAINED, job, self.folder / LOG, hub=job.revision is not None, forked=True)

    def bases(self, trained: Event) -> dict[str, Base]:
        """Return the weights to merge onto, by the names that `merging.onto` has for them.

        Raises RecipeError if there are none such.
        """
        base = Base(name=self.recipe.model.base, revision=self.revision, setting="model.base")
        if not trained["in_4bit"]:
            return {"16bit": base}
        merging, bases = self.recipe.merging, {}
        if merging.base_16bit and self.pins.base_16bit:
            bases["16bit"] = Base(
                name=merging.base_16bit,
                revision=self.pins.commit(self.pins.base_16bit),
                setting="merging.base_16bit",
            )
        elif not trained["stored_in_4bit"]:
            bases["16bit"] = base
        rounded = () if trained["stored_in_4bit"] else tuple(trained["in_4bit"])
        bases["dequantized"] = base.model_copy(update={"rounded": rounded})
        if merging.onto == "best":
            return bases
        if merging.onto not in bases:
            raise RecipeError(
                f"merging.onto=16bit: {base.name} is stored in 4 bits; name its 16-bit weights in "
                f"merging.base_16bit, or set merging.onto=dequantized"
            )
        return {merging.onto: bases[merging.onto]}

    def candidate(self, name: str, base: Base) -> "Candidate":
        """Write one checkpoint and return how near to what was trained it is. Raises
        CheckpointDamaged."""
        job = MergeJob(
            trained=self.adapter.path,
            tokenizer=self.chats.tokenizer,
            model=self.recipe.model,
            revision=self.revision,
            base=base,
            max_shard_gb=self.recipe.merging.max_shard_gb,
            folder=self.path(name),
            yardstick=self.yardstick,
        )
        hub = bool(base.revision or job.revision)
        result = run_child(CHILD, job, self.folder / LOG, env=ENVIRONMENT, hub=hub)
        require_whole(result["damaged"])
        return Candidate(result["metrics"], result["row_losses"])

    def keep(self, name: str) -> None:
        """Make one candidate the stage's `model/`; remove the others."""
        self.path(name).rename(self.folder / "model")
        for loser in self.folder.glob("candidate-*"):
            remove(loser)

    def four_bit(self) -> Metrics:
        """Store `model/` in 4 bits too; return how near that is."""
        job = FourBitJob(
            model=self.recipe.model,
            revision=self.revision,
            checkpoint=self.folder / "model",
            folder=self.folder / "model-4bit",
            max_shard_gb=self.recipe.merging.max_shard_gb,
            yardstick=self.yardstick,
        )
        hub = self.recipe.model.trusts(job.revision) and job.revision is not None  # for its code
        return run_child(FOUR_BIT, job, self.folder / LOG, hub=hub, forked=True)["metrics"]


def require_whole(damaged: list[str]) -> None:
    """Raise CheckpointDamaged if there are tensors that the disk has otherwise than written."""
    if damaged:
        raise CheckpointDamaged(
            f"{damaged[0]} of the merged checkpoint is not on the disk as it was written "
            f"({len(damaged)} such tensors): the disk or the memory may be failing; run again"
        )


class Candidate(NamedTuple):
    """A checkpoint's comparison with what was trained, and its own losses by held-out row."""

    metrics: Metrics
    row_losses: list[float]

    @property
    def is_sound(self) -> bool:
        """Whether it is as near as a merged model has to be by default."""
        return (
            self.metrics["kl_divergence"] <= FARTHEST_KL
            and self.metrics["same_top_token"] >= LEAST_SAME_TOP
        )


def preferred(candidates: dict[str, Candidate]) -> str:
    """Return the candidate to keep: of sound ones that with the lower held-out loss.

    An adapter that was trained on 4-bit weights often does better on the 16-bit ones, though these
    are farther from what it was trained on. Nearness decides where the losses differ by no more than
    their noise (STANDARD_ERRORS of the mean difference by row), and where none is sound.
    """
    near = nearest({name: candidate.metrics for name, candidate in candidates.items()})
    sound = [name for name, candidate in candidates.items() if candidate.is_sound]
    better = [
        name
        for name in sound
        if name != near and advantage(candidates[name], candidates[near]) > STANDARD_ERRORS
    ]
    return min(better, key=lambda name: candidates[name].metrics["perplexity"], default=near)


def advantage(one: Candidate, other: Candidate) -> float:
    """Return by how many standard errors the first one's loss is lower, row by row."""
    differences = [
        theirs - own for own, theirs in zip(one.row_losses, other.row_losses, strict=True)
    ]
    if len(differences) < 2:
        return 0.0
    error = stdev(differences) / math.sqrt(len(differences))
    mean = fmean(differences)
    return mean / error if error else math.copysign(math.inf, mean) if mean else 0.0


def nearest(candidates: dict[str, Metrics]) -> str:
    """Return the candidate of the lowest KL divergence; one that is not a number is the last."""
    return min(
        candidates,
        key=lambda name: (
            math.isnan(candidates[name]["kl_divergence"]),
            candidates[name]["kl_divergence"],
        ),
    )


def by_candidate(candidates: dict[str, Metrics]) -> Metrics:
    """Return what was compared of each checkpoint as `kl_divergence/16bit` and so on."""
    compared = ("kl_divergence", "same_top_token", "perplexity")
    return {
        f"{metric}/{name}": metrics[metric]
        for name, metrics in candidates.items()
        for metric in compared
    }


def describe(candidates: dict[str, Metrics]) -> str:
    return "; ".join(
        f"{name}: KL divergence {metrics['kl_divergence']:.2g}, same top token "
        f"{metrics['same_top_token']:.1%}, perplexity {metrics['perplexity']:.4g} "
        f"of {metrics['perplexity/trained']:.4g}"
        for name, metrics in candidates.items()
    )
