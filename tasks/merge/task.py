"""merge: what was trained becomes one 16-bit checkpoint; what ships is what was evaluated."""

from dataclasses import dataclass
from pathlib import Path

from prefect import get_run_logger

from retune.bases import bases_unchanged, on_hub, selected
from retune.building import building
from retune.child import Event, run_child
from retune.comparison import Yardstick
from retune.errors import RetuneError
from retune.home import remove
from retune.original import Original
from retune.outputs import Step
from retune.recipe import Recipe
from retune.records import Adapter, Chats, Merged, Pins, Selection
from tasks.merge.child import MergeJob
from tasks.merge.four_bit_child import FourBitJob
from tasks.merge.sources import Base
from tasks.merge.trained_child import TrainedJob
from tasks.stage import stage

CHILD = Path(__file__).with_name("child.py")
TRAINED = Path(__file__).with_name("trained_child.py")
FOUR_BIT = Path(__file__).with_name("four_bit_child.py")
LOG = "merge.log"
COMPARED = ("kl_divergence", "same_top_token", "perplexity")

Metrics = dict[str, float]


class CheckpointDamaged(RetuneError):
    """The disk holds something else than what was written."""


@stage(name="merge")
def merge(
    adapter: Adapter,
    selection: Selection | None,
    chats: Chats,
    recipe: Recipe,
    pins: Pins,
    step: Step,
) -> Merged:
    """Merge into `model/`, on the weights that were selected, and compare it, as read back from disk,
    with the model that was evaluated."""
    with building(step) as build, bases_unchanged(recipe, pins):
        original = selected(selection, recipe, pins)
        work = MergeSession(adapter, original, chats, recipe, pins, build.path)
        base = work.base(work.ask_trained())
        metrics, models = work.merge(base), ["model"]
        get_run_logger().info(
            "merged onto %s: KL divergence %.2g from the evaluated model, same top token %.1f %%",
            *(base.weights, metrics["kl_divergence"], 100 * metrics["same_top_token"]),
        )
        if recipe.merging.save_method == "merged_4bit":
            of_4bit = work.four_bit()
            metrics |= {f"{name}/4bit": of_4bit[name] for name in COMPARED}
            models.append("model-4bit")
        remove(work.yardstick.logits)
        return build.finish(
            Merged,
            metrics=metrics,
            params={"merged_onto": base.weights},
            files=(LOG,),
            models=tuple(models),
        )


@dataclass(frozen=True)
class MergeSession:
    """What one merge works with, in its build folder; each step is a child process of its own."""

    adapter: Adapter
    original: Original | None
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

    def ask_trained(self) -> Event:
        """Keep the logits of what was evaluated; return which of its weights are 4-bit ones."""
        job = TrainedJob(
            model=self.recipe.model,
            revision=self.revision,
            original=self.original,
            trained=self.adapter.path,
            yardstick=self.yardstick,
        )
        hub = on_hub(job.revision, job.original)
        return run_child(TRAINED, job, self.folder / LOG, hub=hub, forked=True)

    def base(self, trained: Event) -> Base:
        """Return the weights to merge onto: the original, or what the base's 4-bit ones stand for."""
        if self.original:
            return Base(**self.original.model_dump())
        rounded = () if trained["stored"] else tuple(trained["in_4bit"])
        return Base(
            name=self.recipe.model.base,
            revision=self.revision,
            setting="model.base",
            weights="dequantized" if trained["in_4bit"] else "16bit",
            rounded=rounded,
        )

    def merge(self, base: Base) -> Metrics:
        """Write `model/` and return how near to what was evaluated it is. Raises CheckpointDamaged."""
        job = MergeJob(
            trained=self.adapter.path,
            tokenizer=self.chats.tokenizer,
            model=self.recipe.model,
            revision=self.revision,
            base=base,
            max_shard_gb=self.recipe.merging.max_shard_gb,
            folder=self.folder / "model",
            yardstick=self.yardstick,
        )
        hub = on_hub(job.revision, base)
        result = run_child(CHILD, job, self.folder / LOG, hub=hub, forked=True)
        require_whole(result["damaged"])
        metrics: Metrics = result["metrics"]
        return metrics

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
