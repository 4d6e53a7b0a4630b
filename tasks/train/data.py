"""The rows of supervised fine-tuning: labels, packs, and the order of every step, fixed in advance.

A pack is one sequence of up to `max_length` tokens made of whole conversations. Which packs make
up which optimizer step depends on the rows, the seed and the effective batch alone, not on how
that batch is split into micro-batches and processes: a run can be resumed on another machine.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from expectations.data.masking import masked
from retune.labels import IGNORED, TokenRow, shown, token_rows
from tasks.train.job import NoTrainableTokens, TrainJob

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

ALIGNMENT = 64  # tokens; LoRA's matrix products run up to 4 × slower on odd row counts


@dataclass(frozen=True)
class TrainingPlan:
    """The examples in the order of training, and what is known of them in advance.

    Every step takes the same number of examples. Those of supervised fine-tuning are packs, with
    columns input_ids, labels and seq_lengths.
    """

    examples: "Dataset"
    array_columns: tuple[str, ...]  # those of `examples` that become tensors
    tokens: "np.ndarray"  # trained on after each step, cumulative
    square_tokens: float  # mean over tokens of their conversation's length: attention's share
    largest_token: int  # of all ids in the rows
    dropped: int  # rows with nothing to learn from
    preview: str  # the first example as text, masked

    @property
    def steps(self) -> int:
        return len(self.tokens)


def make_plan(job: TrainJob, tokenizer: "PreTrainedTokenizerBase") -> TrainingPlan:
    """Read the job's rows and lay out every step of its training.

    The last step is filled up with rows of one more pass, so that every step has the same number
    of packs. Raises NoTrainableTokens if no token is left to train on.
    """
    import numpy as np
    import polars as pl
    import pyarrow.compute as pc

    config = job.config
    rows = list(token_rows(job.rows, limit=2**62, max_length=job.model.max_length))
    packs, dropped = packed(rows, tokenizer, job)
    per_step = config.batch_size * config.gradient_accumulation
    order = step_order(len(packs), per_step, config.epochs, config.max_steps, config.seed)
    examples = packs.select(order)
    lengths = packs["seq_lengths"]
    tokens = np.array([sum(parts) for parts in lengths])
    squares = sum(length * length for parts in lengths for length in parts)
    cumulative = tokens[order].reshape(-1, per_step).sum(axis=1).cumsum()
    return TrainingPlan(
        examples=examples,
        array_columns=("input_ids", "labels"),
        tokens=cumulative,
        square_tokens=squares / max(1, tokens.sum()),
        largest_token=pc.max(pc.list_flatten(packs.data["input_ids"])).as_py(),
        dropped=dropped,
        preview=masked(pl.Series([shown(examples[0], tokenizer)]))[0],
    )


def packed(
    rows: list[TokenRow], tokenizer: "PreTrainedTokenizerBase", job: TrainJob
) -> tuple["Dataset", int]:
    """Return the token ids of `rows` with their labels, packed if the recipe says so, and the number of
    those that are left out because they have nothing to learn from."""
    from datasets import Dataset
    from trl import pack_dataset

    labels = [row.labels(tokenizer, job.config.train_on) for row in rows]
    trainable = [n for n, row in enumerate(labels) if any(label != IGNORED for label in row)]
    if not trainable:
        raise NoTrainableTokens(
            f"zero trainable tokens: none of the {len(rows)} rows has a token of an assistant's turn "
            f"that is to be learnt within model.max_length={job.model.max_length}; raise it, or set "
            f"training.train_on=all"
        )
    columns = {
        "input_ids": [rows[n].ids for n in trainable],
        "labels": [labels[n] for n in trainable],
    }
    dataset = Dataset.from_dict(columns)
    if job.config.packing:
        dataset = pack_dataset(dataset, job.model.max_length, "bfd")
    else:
        dataset = dataset.add_column("seq_lengths", [[len(rows[n].ids)] for n in trainable])
    return dataset, len(rows) - len(trainable)


def step_order(
    packs: int, per_step: int, epochs: float, max_steps: int | None, seed: int
) -> "np.ndarray":
    """Return the numbers of the packs of all steps in order, shape (steps × per_step,).

    Each pass is a permutation of its own, drawn from (seed, pass).
    """
    import math

    import numpy as np

    steps = max_steps or max(1, math.ceil(packs * epochs / per_step))
    passes = math.ceil(steps * per_step / packs)
    order = [np.random.default_rng([seed, number]).permutation(packs) for number in range(passes)]
    return np.concatenate(order)[: steps * per_step]


def make_collator(pad: int, flat: bool, lengths: str | None) -> Any:
    """Return TRL's collator. `flat` lays all packs of a batch into one row, (1, tokens), with
    positions that start again at zero in each conversation; else one conversation per row, padded.

    `lengths` says how the conversations' lengths are passed to the model's attention: as `unsloth`
    or as `flash` attention takes them; None passes none.
    """
    import torch
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    class Collator(DataCollatorForLanguageModeling):
        _unsloth_packing_wrapped = True  # it returns what Unsloth's own wrapper would add

        def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
            batch = super().torch_call(examples)
            if not self.padding_free:
                return batch
            batch["labels"][batch["position_ids"] == 0] = IGNORED
            parts = [length for example in examples for length in example["seq_lengths"]]
            filling = batch["input_ids"].shape[1] - sum(parts)
            if filling:  # a conversation of its own, of pad tokens
                batch["position_ids"][0, -filling:] = torch.arange(filling)
                parts.append(filling)
            if lengths == "unsloth":
                batch["packed_seq_lengths"] = torch.tensor(parts, dtype=torch.int32)
            if lengths == "flash":
                ends = torch.tensor([0, *parts], dtype=torch.int32).cumsum(0, dtype=torch.int32)
                batch |= {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends}
                batch |= {"max_length_q": max(parts), "max_length_k": max(parts)}
            return batch

    return Collator(pad, padding_free=flat, pad_to_multiple_of=ALIGNMENT if flat else None)
