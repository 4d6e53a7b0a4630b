"""Trainers whose CPU starts kernels ahead of the GPU, which else waits for it.

What a trainer of TRL or transformers reads back within a step, or counts anew in each pass, holds the
CPU up until the GPU has nothing left to do: on an H200 a step of a 1B model, of 0.3 s, lost 50 ms.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import Trainer


def fetching_ahead(trainer_class: "type[Trainer]") -> "type[Trainer]":
    """Return a trainer that makes the batches of the next step while the GPU is still at this one.

    All steps must have as many batches, as those of a plan have.
    """
    from transformers import TrainerCallback

    class Fetching(TrainerCallback):
        def __init__(self, trainer: Any) -> None:
            self._trainer = trainer

        # Once the step counts: memory may run out here, and weights and steps must agree.
        def on_step_end(self, *arguments: Any, **_: Any) -> None:
            self._trainer.fetch()

    parent: Any = trainer_class

    class FetchingAhead(parent):  # a class that is known at run time only
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings)
            self._source, self._fetched = None, None
            self.add_callback(Fetching(self))

        def get_batch_samples(
            self, epoch_iterator: Any, num_batches: int, device: "torch.device"
        ) -> Any:
            make = partial(super().get_batch_samples, epoch_iterator, num_batches, device)
            batches = self._fetched if self._source is epoch_iterator else make()
            self._make, self._source, self._fetched = make, None, None
            return batches

        def fetch(self) -> None:
            self._source, self._fetched = self._make.args[0], self._make()

    return FetchingAhead


def fused_loss_trainer() -> "type[Trainer]":
    """Return TRL's trainer of supervised fine-tuning with its own loss, and none of its other numbers:
    entropy and accuracy are read back, and summed over the processes, in the middle of each pass."""
    import torch
    from trl import SFTTrainer

    parent: Any = SFTTrainer

    class FusedLoss(parent):
        def compute_loss(
            self,
            model: Any,
            inputs: dict[str, Any],
            return_outputs: bool = False,
            num_items_in_batch: "torch.Tensor | None" = None,
        ) -> "torch.Tensor":
            routed = {"output_router_logits": True} if self.aux_loss_enabled else {}
            outputs = model(**inputs, **routed, use_cache=False, fused_lm_head=True)
            count = outputs.label_mask.sum() if num_items_in_batch is None else num_items_in_batch
            # A batch without anything to learn is a zero with gradients, not 0 / 0.
            loss: torch.Tensor = -outputs.log_probs.sum() / torch.as_tensor(count).clamp(min=1)
            if num_items_in_batch is not None:  # of all processes, over which DDP takes the mean
                loss = loss * self.accelerator.num_processes
            if self.aux_loss_enabled:
                passes = self.current_gradient_accumulation_steps
                share = 1 if num_items_in_batch is None else passes
                loss = loss + self.router_aux_loss_coef * outputs.aux_loss / share
            return loss

    return FusedLoss


def let_optimizer_run_ahead() -> None:
    """Take from bitsandbytes' optimizers the wait for the GPU behind each parameter.

    Only those in paged memory need it; all others have their states on the GPU, in one stream.
    """
    from bitsandbytes.optim import optimizer

    module: Any = optimizer
    module.sync_gpu = lambda tensor: None
