"""select: the weights that an adapter which was trained on 4-bit ones is evaluated and merged on."""

from pathlib import Path

from prefect import get_run_logger

from retune.bases import bases_unchanged, on_hub, original_of
from retune.building import building
from retune.child import run_child
from retune.comparison import Yardstick
from retune.home import remove
from retune.outputs import Step
from retune.recipe import Recipe
from retune.records import Adapter, Chats, Pins, Selection
from retune.row_losses import RowLoss, held_out, likelihoods
from tasks.select.child import SelectJob
from tasks.select.selection import preferred
from tasks.stage import stage

CHILD = Path(__file__).with_name("child.py")


@stage(name="select")
def select(adapter: Adapter, chats: Chats, recipe: Recipe, pins: Pins, step: Step) -> Selection:
    """Choose the weights that the adapter is evaluated and merged on (`merging.onto`, see
    `preferred`), by what it is on both."""
    with building(step) as build, bases_unchanged(recipe, pins):
        original = original_of(recipe, pins)
        yardstick = Yardstick(
            held_out=chats.held_out,
            rows=recipe.merging.check_rows,
            logits=build.path / "logits",
        )
        job = SelectJob(
            held_out=held_out(chats, recipe),
            adapter=adapter.path,
            model=recipe.model,
            revision=pins.commit(pins.model),
            original=original,
            wanted=recipe.merging.onto == "16bit",
            yardstick=yardstick,
        )
        hub = on_hub(job.revision, original)
        said = run_child(CHILD, job, build.path / "select.log", hub=hub, forked=True)
        remove(yardstick.logits)
        if onto := said.get("onto"):
            reason = said.get("reason", "")
            if reason:
                get_run_logger().warning(
                    "%s: the adapter is evaluated and merged on the 4-bit weights", reason
                )
            params = {"reason": reason} if reason else {}
            return build.finish(Selection, onto=onto, params=params, files=("select.log",))
        by_row = {side: [RowLoss(*row) for row in rows] for side, rows in said["losses"].items()}
        comparison = said["comparison"]
        onto = preferred(by_row, comparison)
        metrics = likelihoods(by_row) | {
            f"{name}/16bit": comparison[name] for name in ("kl_divergence", "same_top_token")
        }
        get_run_logger().info(
            "held-out loss of the adapter %.4f on the 4-bit weights, %.4f on the 16-bit ones (KL "
            "divergence %.2g, same top token %.1f %%): it is put on the %s",
            *(metrics["loss/trained"], metrics["loss/16bit"]),
            *(metrics["kl_divergence/16bit"], 100 * metrics["same_top_token/16bit"]),
            "16-bit ones" if onto == "16bit" else "4-bit ones",
        )
        return build.finish(Selection, onto=onto, metrics=metrics, files=("select.log",))
