"""The child process of anchor: the losses of rows by one model."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from retune.child import main
from retune.loaders import admit
from retune.merged import load_merged
from retune.original import Original
from retune.recipe import Model
from retune.row_losses import HeldOut


class AnchorJob(BaseModel):
    """The rows, and whose losses are taken: of the folder `adapter` that a training wrote, on `model` at
    `revision`, and put on its `original` if there is one."""

    held_out: HeldOut
    adapter: Path
    model: Model
    revision: str | None
    original: Original | None


def measure(job: AnchorJob) -> dict[str, Any]:
    """Return `losses`: a RowLoss for each row."""
    admit(job.model, job.revision)
    model = load_merged(job.model, job.revision, job.adapter, job.original)
    return {"losses": job.held_out.losses(model)}


if __name__ == "__main__":
    main(AnchorJob, measure)
