"""What a training child is told, and the errors it answers with."""

from pathlib import Path

from pydantic import BaseModel

from retune.recipe import Model, Training


class Fit(BaseModel):
    """How the effective batch runs on this machine; `reason` says why, for people."""

    batch_size: int
    gradient_accumulation: int
    gradient_checkpointing: str
    reason: str = "as the recipe says"


class TrainJob(BaseModel):
    """`folder` gets `adapter/`, `checkpoints/`, `training_log.jsonl`, `usage.json`, `fit.json`.

    `fit` overrides the recipe's batch size and checkpointing after memory ran out.
    """

    rows: Path
    held_out: Path
    tokenizer: Path
    model: Model
    revision: str | None
    config: Training
    folder: Path
    fit: Fit | None = None

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def log(self) -> Path:
        return self.folder / "training_log.jsonl"


class Hopeless(ValueError):
    """Going on would not give a usable model; the message names the step and what to try."""


class Interrupted(ValueError):
    """Ended on purpose before the last step; a checkpoint of that step is kept."""
