"""The trainer of TRL or transformers: its settings, its optimizer, and how it shards a model."""

from typing import TYPE_CHECKING, Any

from retune.models import compute_dtype, device
from retune.recipe import Training
from tasks.train.backend import Backend
from tasks.train.data import TrainingPlan
from tasks.train.distributed import world_size
from tasks.train.job import Fit, TrainJob
from tasks.train.lean import let_optimizer_run_ahead
from tasks.train.objective import Objective

if TYPE_CHECKING:
    from transformers import Trainer

# Each process writes its own share of a checkpoint; any number of processes can read it.
# No activation_checkpointing here: its wrapper changes the modules' names but not the state dict's
# keys, so that PEFT 0.21 finds no weight of the adapter and saves an empty one without an error.
SHARDING = {"version": 2, "state_dict_type": "SHARDED_STATE_DICT"}
# TRL computes the loss beside the output layer, whose weights FSDP2 then does not always gather:
# without a sum of the gradients over the processes after each pass, training fails (torch 2.11).
# An adapter's gradients are small, and of full gradients only a share has to be kept.
SYNC_EACH_PASS = {"gradient_accumulation_kwargs": {"sync_each_batch": True}}


def make_trainer(
    job: TrainJob, backend: Backend, objective: Objective, model: Any, plan: TrainingPlan, fit: Fit
) -> "Trainer":
    """Return a trainer for the plan's examples, which are in order already."""
    if job.config.optimizer == "adamw_8bit":
        let_optimizer_run_ahead()
    settings = trainer_settings(job, objective, fit, plan.steps)
    trainer = objective.trainer_class()(
        model=model,
        processing_class=objective.tokenizer,
        train_dataset=plan.examples,
        data_collator=objective.collator(),
        args=settings,
        optimizers=(_lora_plus(model, job.config, settings), None),
    )
    # It would count all parameters in each pass; the meter knows what a token costs.
    uncounted: Any = trainer
    uncounted.floating_point_ops = lambda inputs: 0
    backend.prepare(trainer)
    # Arrays become a batch in a sixth of the time that lists take, while the GPU waits. Only now:
    # Unsloth reads rows when it creates a trainer.
    trainer.train_dataset = plan.examples.with_format(
        "numpy", columns=list(plan.array_columns), output_all_columns=True
    )
    if job.config.shard:
        _reduce_in_32_bits(trainer)
    return trainer


def trainer_settings(job: TrainJob, objective: Objective, fit: Fit, steps: int) -> Any:
    """Return the recipe as the trainer's settings. The watcher decides on checkpoints and logs."""
    import torch

    config = job.config
    settings_class, own_values = objective.trainer_settings()
    sharded: dict[str, Any] = {
        "fsdp": True,
        "fsdp_config": dict(SHARDING),
    }
    # A copy from pinned memory need not be waited for: what uses it is behind it in the same stream.
    accelerator = {"non_blocking": True} | (SYNC_EACH_PASS if config.shard else {})
    return settings_class(
        output_dir=str(job.checkpoints),
        remove_unused_columns=False,
        train_sampling_strategy="sequential",
        num_train_epochs=1,
        max_steps=steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler,
        warmup_steps=config.warmup_steps,
        per_device_train_batch_size=fit.batch_size,
        gradient_accumulation_steps=fit.gradient_accumulation,
        gradient_checkpointing=fit.gradient_checkpointing != "off",
        optim=config.optimizer,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        bf16=compute_dtype() == torch.bfloat16,
        fp16=compute_dtype() == torch.float16,
        use_cpu=device() == "cpu",
        ddp_find_unused_parameters=False if world_size() > 1 else None,
        accelerator_config=accelerator,
        **(sharded if config.shard else {}),
        logging_strategy="steps",
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,  # it would hide a NaN behind the last finite loss
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **own_values,
    )


def _lora_plus(model: Any, config: Training, settings: Any) -> Any:
    """Return LoRA+'s optimizer (Hayou et al. 2024), whose B matrices learn faster; None without."""
    if config.loraplus_ratio is None:
        return None
    from peft.optimizers import create_loraplus_optimizer
    from transformers import Trainer

    optimizer_class, arguments = Trainer.get_optimizer_cls_and_kwargs(settings, model)
    arguments["lr"] = config.learning_rate
    return create_loraplus_optimizer(
        model=model,
        optimizer_cls=optimizer_class,
        loraplus_lr_ratio=config.loraplus_ratio,
        **arguments,
    )


def _reduce_in_32_bits(trainer: "Trainer") -> None:
    """Sum gradients and return losses in 32 bits; accelerate would round both to 16 like the rest."""
    import torch
    from torch.distributed.fsdp import MixedPrecisionPolicy

    trainer.accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(
        param_dtype=compute_dtype(), reduce_dtype=torch.float32
    )
