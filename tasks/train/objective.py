"""What training optimises: the seam between the training loop and supervised fine-tuning.

The loop, the memory fit and the watcher know an `Objective` only. Another one, such as preference
training on pairs, is another class here and a line in `make_objective`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from retune.labels import IGNORED, token_rows
from retune.models import device
from tasks.train import data
from tasks.train.backend import Backend
from tasks.train.job import TrainJob

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments

HELD_OUT_ROWS = 32  # evaluated at each checkpoint: enough to rank checkpoints, seconds to compute

Example = dict[str, Any]  # a row of `TrainingPlan.examples`
Collator = Callable[[list[Example]], dict[str, Any]]


class Objective(Protocol):
    """One job's training objective, with its backend and tokenizer."""

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The tokenizer of the training rows, saved beside the adapter."""

    def plan(self) -> data.TrainingPlan:
        """Return the examples of every step. Raises NoTrainableTokens if there are none."""

    def collator(self) -> Collator:
        """Return the function that makes a batch of examples."""

    def trainer_class(self) -> "type[Trainer]":
        """Return the class of trainer that computes this objective's loss on this machine."""

    def trainer_settings(self) -> "tuple[type[TrainingArguments], dict[str, Any]]":
        """Return the class of the trainer's settings, and the values that only this objective sets."""

    def largest_example(self, vocabulary: int) -> Example:
        """Return an example that takes as much memory as any; its token ids are below `vocabulary`."""

    def loss(self, model: Any, batch: dict[str, Any]) -> "torch.Tensor":
        """Return a batch's loss, computed as the trainer does, for measuring memory."""

    def held_out_loss(self, trainer: "Trainer") -> float:
        """Return the loss on the first held-out rows, by which checkpoints are ranked."""


def make_objective(
    job: TrainJob, backend: Backend, tokenizer: "PreTrainedTokenizerBase"
) -> Objective:
    """Return the job's objective: supervised fine-tuning, the only one so far."""
    return SupervisedFineTuning(job, backend, tokenizer)


@dataclass(frozen=True)
class SupervisedFineTuning:
    """Cross entropy of the next token, over all tokens or over the assistant's turns."""

    job: TrainJob
    backend: Backend
    tokenizer: "PreTrainedTokenizerBase"

    def plan(self) -> data.TrainingPlan:
        return data.make_plan(self.job, self.tokenizer)

    def collator(self) -> Collator:
        # On a GPU a batch is always one row without padding, which would cost more there.
        flat = self.job.config.packing or device() == "cuda"
        return data.make_collator(self.tokenizer.pad_token_id, flat, self.backend.lengths)

    def trainer_class(self) -> "type[Trainer]":
        return self.backend.trainer_class()

    def trainer_settings(self) -> "tuple[type[TrainingArguments], dict[str, Any]]":
        from trl import SFTConfig

        return SFTConfig, {
            "max_length": self.job.model.max_length,
            "packing": False,  # the plan's examples are packs already
            "padding_free": False,  # likewise, by the collator
            "dataset_kwargs": {"skip_prepare_dataset": True},
        }

    def largest_example(self, vocabulary: int) -> Example:
        """Return a full pack of one conversation, for which attention costs most."""
        length = self.job.model.max_length
        ids = [number % vocabulary for number in range(length)]
        return {"input_ids": ids, "labels": ids, "seq_lengths": [length]}

    def loss(self, model: Any, batch: dict[str, Any]) -> "torch.Tensor":
        return self.backend.token_loss(model, batch)

    def held_out_loss(self, trainer: "Trainer") -> float:
        """Return the mean loss per token over the first held-out rows."""
        import torch

        model: Any = trainer.model
        loss_sum, tokens = 0.0, 0
        model.eval()
        for held_out in token_rows(self.job.held_out, HELD_OUT_ROWS, self.job.model.max_length):
            ids, labels = held_out.ids, held_out.labels(self.tokenizer, self.job.config.train_on)
            count = sum(label != IGNORED for label in labels)
            if not count:
                continue
            row = {"input_ids": ids, "labels": labels, "seq_lengths": [len(ids)]}
            batch = trainer._prepare_inputs(trainer.data_collator([row]))
            with torch.no_grad(), trainer.compute_loss_context_manager():
                loss_sum += model(**batch).loss.item() * count
            tokens += count
        model.train()
        return loss_sum / max(1, tokens)
