"""merge: adapter and base become one 16-bit checkpoint; what ships is what was trained."""

from pathlib import Path

from prefect import get_run_logger

from retune.child import run_child
from retune.config import Merging, Model
from retune.records import Adapter, Chats, Merged
from retune.workspace import Step, building
from tasks.merge.child import MergeJob
from tasks.stage import stage

CHILD = Path(__file__).with_name("child.py")


class MergeMismatch(ValueError):
    """The merged checkpoint is not what was trained."""


@stage(name="merge")
def merge(
    adapter: Adapter,
    chats: Chats,
    model: Model,
    config: Merging,
    step: Step,
    revision: str | None,
) -> Merged:
    """Merge into `model/`, and compare it, as read back from disk, with the adapter on its base."""
    with building(step) as build:
        job = MergeJob(
            held_out=chats.held_out,
            tokenizer=chats.tokenizer,
            adapter=adapter.path,
            model=model,
            revision=revision,
            config=config,
            folder=build.path,
        )
        metrics = run_child(CHILD, job, build.path / "merge.log")["metrics"]
        require_match(metrics, config)
        get_run_logger().info(
            "merged; KL divergence from the adapter model %.2g, same top token %.1f %%",
            *(metrics["kl"], 100 * metrics["top1_agreement"]),
        )
        return build.finish(Merged, metrics=metrics, files=("merge.log",), models=("model",))


def require_match(metrics: dict[str, float], config: Merging) -> None:
    """Raise MergeMismatch if the checkpoint is the base's, or too far from the adapter model."""
    if not metrics["changed_share"]:
        raise MergeMismatch(
            "the merged checkpoint holds the base model's weights: the adapter changes nothing at 16 "
            "bits; train for more steps or raise training.learning_rate"
        )
    if not metrics["kl"] <= config.max_kl:
        raise MergeMismatch(
            f"the merged checkpoint differs from the adapter model: KL divergence {metrics['kl']:.4g} "
            f"nats per token, merging.max_kl allows {config.max_kl:g}; same top token for "
            f"{metrics['top1_agreement']:.1%}. The update does not survive 16 bits: train with a lower "
            f"training.learning_rate, or raise merging.max_kl"
        )
