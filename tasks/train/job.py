"""The job of a training child, and the errors that end it."""

from pathlib import Path

from pydantic import BaseModel

from retune.errors import RetuneError
from retune.recipe import Model, Training


class Fit(BaseModel):
    """How the effective batch runs on this machine; `reason` says why, in messages. With `dequantized`
    a base of 4 bits is in memory in 16 bits, too."""

    batch_size: int
    gradient_accumulation: int
    gradient_checkpointing: str
    dequantized: bool = False
    reason: str = "as the recipe says"


class TrainJob(BaseModel):
    """One training. Its output goes to `folder`: `adapter/`, `checkpoints/`, `training_log.jsonl`,
    `first_pack.txt`, `usage.json` and `fit.json`.

    `fit` overrides the recipe's batch size and gradient checkpointing after memory ran out.
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
    def usage(self) -> Path:
        return self.folder / "usage.json"

    @property
    def log(self) -> Path:
        return self.folder / "training_log.jsonl"


class NoTrainableTokens(RetuneError):
    """No row has a token to train on; the message names the settings that decide it."""


class TrainingDiverged(RetuneError):
    """Going on would not give a usable model; the message names the step and what to try."""


class TrainingInterrupted(RetuneError):
    """Ended on purpose before the last step; a checkpoint of that step is kept."""


class TrainingRefused(RetuneError):
    """Settings, rows or a base model that cannot be trained here; the message says what to change."""
