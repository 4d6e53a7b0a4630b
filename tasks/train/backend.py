"""What differs between the libraries that train, Unsloth and stock transformers with PEFT."""

from typing import TYPE_CHECKING, Any, Protocol

from retune.architecture import kinds
from retune.outline import architecture
from tasks.train.job import TrainingRefused, TrainJob

if TYPE_CHECKING:
    import torch
    from transformers import Trainer


class Backend(Protocol):
    """Loads the model and prepares it and its trainer; `loop.run` does the rest."""

    lengths: str | None  # how the lengths in a pack are passed to the model, see data.make_collator

    def load(self, job: TrainJob) -> Any:
        """Return the model with its adapter, or whole for full fine-tuning, ready to train."""

    def recompute(self, model: Any, mode: str) -> None:
        """Switch gradient checkpointing of a loaded model to `unsloth`, `on` or `off`."""

    def dequantized_bytes(self, model: Any) -> int:
        """Return how many bytes `keep_dequantized` takes; 0 if it changes nothing."""

    def keep_dequantized(self, model: Any) -> None:
        """Keep a base of 4 bits in 16 bits, too, so that no pass has to dequantize it. Where memory runs
        out meanwhile, nothing is kept."""

    def token_loss(self, model: Any, batch: dict[str, Any]) -> "torch.Tensor":
        """Return a batch's mean loss per token, computed as the trainer does."""

    def trainer_class(self) -> "type[Trainer]":
        """Return the trainer that computes the loss of supervised fine-tuning on this machine."""

    def prepare(self, trainer: "Trainer") -> None:
        """Apply the backend's own changes to a finished trainer."""


def target_modules(model: Any, job: TrainJob) -> list[str]:
    """Return the names of the layers that get an adapter. Raises TrainingRefused if there are none.

    Explicit, since each library has a way of its own to find all linear layers.
    """
    names = job.config.target_modules
    found = architecture(model)
    modules = found.modules(names)
    if not modules:
        raise TrainingRefused(
            f"training.target_modules={names}: {job.model.base} has no such layers, but "
            f"{', '.join(kinds(found.all_linear())) or 'none that can get an adapter'}; set "
            f"training.target_modules=auto"
        )
    print(f"Adapters on {len(found.selected(names))} layers: {', '.join(modules)}")
    return modules
