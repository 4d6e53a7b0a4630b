"""The training itself, the same for every backend: TRL's trainer, watched at each step.

What a callback needs from the trainer happens in this order at the end of each optimizer step:
`on_step_end`, the log, the checkpoint, `on_save`. A step's line is therefore in the log before
its checkpoint is, so that whatever is killed when, no step is missing or there twice.
"""

import gc
import json
import os
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from retune.child import Event, emit
from retune.embeddings import unmoved_layers
from retune.loaders import admit, load_tokenizer, strip_code
from retune.models import compute_dtype, device, require_gpu_for_4bit, token_ids
from retune.recipe import Training
from retune.workspace import mark, remove
from tasks.train import checkpoints, data, fit, meter
from tasks.train.health import Health, interrupted, over_budget
from tasks.train.job import Fit, Hopeless, TrainJob

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase, Trainer

HELD_OUT_ROWS = 32  # judged at each checkpoint: enough to rank checkpoints, seconds to compute
USAGE_SECONDS = 10  # between two writes of the usage file
PATIENCE = timedelta(minutes=30)  # of one process with another, which may be writing a checkpoint
# Each process writes its own share of a checkpoint, and reads it for any number of processes.
# No activation_checkpointing here: its wrapper is in the modules' names and not in the state dict's
# keys, by which PEFT 0.21 finds no weight of the adapter and saves an empty one without a word.
SHARDING = {"version": 2, "state_dict_type": "SHARDED_STATE_DICT"}
# TRL computes the loss beside the output layer, which FSDP2 then may never gather: unless gradients
# are summed over the processes after each pass, it fails for want of the gathered weights (seen with
# torch 2.11). An adapter's gradients are small, and of full ones only a share has to be kept.
SUMMED_EACH_PASS = {"gradient_accumulation_kwargs": {"sync_each_batch": True}}


class Backend(Protocol):
    """What differs between Unsloth and PEFT: how a model is loaded and told to recompute."""

    lengths: str | None  # how packs' lengths are named to the model, see data.make_collator

    def load(self, job: TrainJob) -> Any:
        """Return the model with its adapter, or whole for full fine-tuning, ready to train."""

    def recompute(self, model: Any, mode: str) -> None:
        """Switch gradient checkpointing of a loaded model to `unsloth`, `on` or `off`."""

    def loss(self, model: Any, batch: dict[str, Any]) -> "torch.Tensor":
        """Return a batch's loss, computed as the trainer does."""

    def ready(self, trainer: "Trainer") -> None:
        """Do what the backend wants done to a finished trainer."""

    def trainer(self) -> "type[Trainer]":
        """Return the class of trainer that fits the loaded model."""


def run(job: TrainJob, backend: Backend) -> Event:
    """Train, from the last whole checkpoint if there is one.

    Returns `metrics`, or `retry` with a smaller fit after the GPU's memory ran out. Raises
    Hopeless, Interrupted or another ValueError with a message for people.
    """
    require_gpu(job)
    admit(job.model, job.revision)
    tokenizer = load_tokenizer(job.tokenizer)
    plan = data.plan(job, tokenizer)
    model = backend.load(job)
    _check_ids(plan, model)
    how = chosen_fit(job, backend, model, tokenizer)
    backend.recompute(model, how.gradient_checkpointing)
    trainer = make_trainer(job, backend, model, tokenizer, plan, how)
    return train(job, trainer, plan, how)


def require_gpu(job: TrainJob) -> None:
    """Raise ValueError, before anything is loaded, for settings that need a GPU where none is."""
    require_gpu_for_4bit(job.model)
    if job.config.optimizer.endswith("8bit") and device() == "cpu":
        raise ValueError(
            f"optimizer {job.config.optimizer} needs a GPU, none is here; set "
            f"training.optimizer=adamw_torch"
        )
    if job.config.shard and device() == "cpu":
        raise ValueError("sharding a model needs GPUs, none is here; set training.shard=false")
    if device() == "cuda":
        _require_bf16(job.config)
        _require_gpus(job.config.processes)


def _require_bf16(config: Training) -> None:
    """Raise ValueError on a GPU older than Ampere for what is not done in fp16.

    Its gradients have to be scaled, which was never tried with those of a split model.
    """
    import torch

    if compute_dtype() != torch.float16:
        return
    for setting, instead, asked in (
        ("shard=true", "shard=false", config.shard),
        ("master_weights=bfloat16", "master_weights=float32", config.master_weights == "bfloat16"),
    ):
        if asked:
            raise ValueError(
                f"training.{setting} needs a GPU that computes in bf16 (Ampere or newer), this is a "
                f"{torch.cuda.get_device_name()}; set training.{instead}"
            )


def _require_gpus(processes: int) -> None:
    import torch

    if torch.cuda.device_count() < processes:
        raise ValueError(
            f"training.processes={processes} needs that many GPUs, {torch.cuda.device_count()} can be "
            f"seen; set training.processes={torch.cuda.device_count()}, or look at CUDA_VISIBLE_DEVICES"
        )


def claim_gpus(count: int) -> None:
    """Let this process and its children see only the first `count` GPUs of those it could see.

    Call it before anything asks for a GPU. transformers spreads one process over all that it sees,
    with a whole batch on each, and energy is read of all that can be seen. With a launcher's
    environment the launcher has decided.
    """
    if "RANK" in os.environ:
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [str(number) for number in range(count)] if visible is None else visible.split(",")
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[:count])


def world() -> int:
    """Return the number of processes that train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def chosen_fit(
    job: TrainJob, backend: Backend, model: Any, tokenizer: "PreTrainedTokenizerBase"
) -> Fit:
    """Return how the effective batch is run here: as told, as written, or as measured."""
    how = job.fit
    # What one step of a sharded model takes shows only once it is sharded; running out steps down.
    if how is None and (job.config.memory == "as_written" or job.config.shard):
        how = fit.as_written(job.config, world())
    if how is None:
        collate = data.make_collator(tokenizer.pad_token_id, True, backend.lengths)
        length = job.model.max_length
        if world() > 1:
            _join()
        model.train()
        attempt = fit.attempting(model, collate, length, backend)
        reserve = _training_bytes(model, job.config)
        how = fit.most_frugal(_of_all(fit.fitted(job.config, world(), length, reserve, attempt)))
    if is_first():
        (job.folder / "fit.json").write_text(how.model_dump_json(indent=1))
        precision = str(compute_dtype()).removeprefix("torch.")
        emit("state", text=f"{describe(how)}, computing in {precision} ({how.reason})")
    return how


def _training_bytes(model: Any, config: Training) -> int:
    """Return the bytes of gradients and moments; several processes also sum gradients in buckets."""
    copies = 1 if world() == 1 else 2
    trained = [(one.numel(), one.element_size()) for one in model.parameters() if one.requires_grad]
    return sum(count * (copies * width + config.moments_bytes(width)) for count, width in trained)


def _join() -> None:
    """Meet the other processes now; otherwise the trainer does so when it is made."""
    if device() == "cuda":
        from accelerate import PartialState

        PartialState(timeout=PATIENCE)


def _of_all(value: Any) -> list[Any]:
    """Return every process's `value`, once they have met."""
    import torch

    if not torch.distributed.is_initialized():
        return [value]
    values = [None] * world()
    torch.distributed.all_gather_object(values, value)
    return values


def describe(how: Fit) -> str:
    return (
        f"batch {how.batch_size} × {how.gradient_accumulation}, gradient checkpointing "
        f"{how.gradient_checkpointing}"
    )


def make_trainer(
    job: TrainJob,
    backend: Backend,
    model: Any,
    tokenizer: "PreTrainedTokenizerBase",
    plan: data.Plan,
    how: Fit,
) -> "Trainer":
    """Return TRL's trainer on packs that are already in order."""
    settings = trainer_settings(job, how, plan.steps)
    flat = is_flat(job.config)
    trainer = backend.trainer()(
        model=model,
        processing_class=tokenizer,
        train_dataset=plan.packs,
        data_collator=data.make_collator(tokenizer.pad_token_id, flat, backend.lengths),
        args=settings,
        optimizers=(_lora_plus(model, job.config, settings), None),
    )
    backend.ready(trainer)
    # Arrays become a batch in a sixth of the time that lists take, while the GPU waits. Only now:
    # Unsloth looks into the rows when it makes a trainer.
    trainer.train_dataset = plan.packs.with_format(
        "numpy", columns=["input_ids", "labels"], output_all_columns=True
    )
    if job.config.shard:
        _sum_in_32_bits(trainer)
    return trainer


def _sum_in_32_bits(trainer: "Trainer") -> None:
    """Sum gradients and return losses in 32 bits; accelerate would round both to 16 like the rest."""
    import torch
    from torch.distributed.fsdp import MixedPrecisionPolicy

    trainer.accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(
        param_dtype=compute_dtype(), reduce_dtype=torch.float32
    )


def is_flat(config: Training) -> bool:
    """Return whether batches are laid into one row: always on a GPU, where padding costs more."""
    return config.packing or device() == "cuda"


def trainer_settings(job: TrainJob, how: Fit, steps: int) -> Any:
    """Return the recipe as TRL's SFTConfig. Checkpoints and logs are the watcher's decision."""
    import torch
    from trl import SFTConfig

    config = job.config
    sharded = {
        "fsdp": True,
        "fsdp_config": dict(SHARDING),
        "accelerator_config": dict(SUMMED_EACH_PASS),
    }
    return SFTConfig(
        output_dir=str(job.checkpoints),
        max_length=job.model.max_length,
        packing=False,  # done already
        padding_free=False,  # likewise, by the collator
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        train_sampling_strategy="sequential",
        num_train_epochs=1,
        max_steps=steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler,
        warmup_steps=config.warmup_steps,
        per_device_train_batch_size=how.batch_size,
        gradient_accumulation_steps=how.gradient_accumulation,
        gradient_checkpointing=how.gradient_checkpointing != "off",
        optim=config.optimizer,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        bf16=compute_dtype() == torch.bfloat16,
        fp16=compute_dtype() == torch.float16,
        use_cpu=device() == "cpu",
        ddp_find_unused_parameters=False if world() > 1 else None,
        **(sharded if config.shard else {}),
        logging_strategy="steps",
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,  # it would hide a NaN behind the last good loss
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def _lora_plus(model: Any, config: Training, settings: Any) -> Any:
    """Return LoRA+'s optimizer (Hayou et al. 2024), whose B matrices learn faster; None without."""
    if config.loraplus_ratio is None:
        return None
    from peft.optimizers import create_loraplus_optimizer
    from transformers import Trainer

    kind, arguments = Trainer.get_optimizer_cls_and_kwargs(settings, model)
    arguments["lr"] = config.learning_rate
    return create_loraplus_optimizer(
        model=model, optimizer_cls=kind, loraplus_lr_ratio=config.loraplus_ratio, **arguments
    )


def train(job: TrainJob, trainer: "Trainer", plan: data.Plan, how: Fit) -> Event:
    """Run the trainer to its end and write `adapter/`: an adapter, or whole weights in bf16."""
    import torch

    if is_first() and not any(job.checkpoints.glob("*")):
        mark(job.checkpoints)
    begin = checkpoints.newest_whole(job.checkpoints) if is_first() else None
    begin = _from_first(begin)
    step = checkpoints.step_of(begin) if begin else 0
    if is_first():
        cut_log(job.log, step)
        pack = data.shown(plan.packs[0], trainer.processing_class)
        (job.folder / "first_pack.txt").write_text(pack)
        print(f"The first pack; ⟦what is not trained on⟧ is in brackets:\n{pack}", flush=True)
        emit("begin", step=step, total=plan.steps, dropped=plan.dropped)
    watcher = _make_watcher(job, trainer, plan)
    trainer.add_callback(watcher)
    try:
        trainer.train(resume_from_checkpoint=str(begin) if begin else None)
        if not watcher.why_ended:
            _check_trained(trainer.model)
    except Hopeless as error:
        if is_first():
            emit("diverged", reason=str(error))
            remove(job.checkpoints)  # they lead to the same end
        raise
    except RuntimeError as error:
        if not fit.memory_ran_out(error):
            raise
        return {"retry": _after_memory_ran_out(job, trainer, watcher, how, error).model_dump()}
    finally:
        watcher.usage.record()
    if watcher.why_ended:
        raise interrupted(trainer.state.global_step, watcher.why_ended)
    if job.config.method == "full":
        # Rounded once, here: what is evaluated is then what merge and GGUF hold.
        trainer.model.to(torch.bfloat16)
    if job.config.shard:
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model(str(job.folder / "adapter"))
    if is_first():
        trainer.processing_class.save_pretrained(job.folder / "adapter")
        strip_code(job.folder / "adapter")
        _check_saved(job.folder / "adapter", trainer.model)
    return {"metrics": summary(job, trainer, watcher)}


def _from_first(value: Any) -> Any:
    """Return the first process's `value` in all of them."""
    import torch

    if world() == 1:
        return value
    values = [value]
    torch.distributed.broadcast_object_list(values)
    return values[0]


def _after_memory_ran_out(
    job: TrainJob, trainer: "Trainer", watcher: Any, how: Fit, error: Exception
) -> Fit:
    """Keep what was trained and return a smaller fit; raise ValueError if there is none."""
    smaller = fit.smaller(how, job.config) if job.config.memory == "auto" else None
    if smaller is None:
        raise ValueError(
            f"the GPU's memory is too small for {describe(how)}: set training.memory=auto, halve "
            f"training.batch_size and double training.gradient_accumulation, or shorten "
            f"model.max_length"
        ) from error
    if world() == 1 and trainer.state.global_step:  # its weights are those after the last step
        error.__traceback__ = None  # it holds the activations
        trainer.model.zero_grad(set_to_none=True)
        gc.collect()
        try:
            watcher.save()
        except RuntimeError as again:
            if not fit.memory_ran_out(again):
                raise  # else the last checkpoint is where the next process goes on
    return smaller


def _make_watcher(job: TrainJob, trainer: "Trainer", plan: data.Plan) -> Any:
    import torch
    from transformers import TrainerCallback

    class Watcher(TrainerCallback):
        """Decides at each step whether to log, to save and to stop."""

        def __init__(self) -> None:
            self.usage = meter.Usage(job.folder / "usage.json", gpus=max(1, world()))
            self.why_ended: str | None = None
            self._signal: str | None = None
            self._health = Health(job.config, plan.steps, compute_dtype() == torch.float16)
            self._held_out: float | None = None
            self._flops = meter.flops_per_token(trainer.model, plan.square_tokens)
            self._saved = self._recorded = time.monotonic()
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._on_signal)

        def _on_signal(self, number: int, frame: Any) -> None:
            self._signal = f"it was told to end by {signal.Signals(number).name}"

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.ceiling = meter.matmul_ceiling() * world()
            self._step, self._time = state.global_step, time.monotonic()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.why_ended = self._signal or over_budget(job.config, self.usage.gpu_hours())
            now, last = time.monotonic(), state.global_step == plan.steps
            every = job.config.checkpoint_steps
            due = now - self._saved >= 60 * job.config.checkpoint_minutes
            due |= bool(every) and state.global_step % every == 0
            due, self.why_ended = _from_first((due or last, self.why_ended))
            control.should_training_stop |= bool(self.why_ended)
            control.should_save = due or bool(self.why_ended)
            control.should_log |= control.should_save
            if control.should_save:
                self._held_out = self._judged = held_out_loss(job, trainer)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" not in logs:
                return  # the summary at the end
            step, rate = state.global_step, logs["learning_rate"]
            norm = logs.get("grad_norm")
            self._health.check(step, float(logs["loss"]), norm and float(norm), rate)
            if is_first():
                self._report(step, logs)

        def _report(self, step: int, logs: dict[str, Any]) -> None:
            now = time.monotonic()
            tokens = int(plan.tokens[step - 1])
            before = int(plan.tokens[self._step - 1]) if self._step else 0
            speed = (tokens - before) / (now - self._time)
            self._step, self._time = step, now
            row = {
                "step": step,
                "train/loss": float(logs["loss"]),
                "train/learning_rate": logs["learning_rate"],
                "train/epoch": logs["epoch"] * job.config.epochs,
                "train/tokens": tokens,
                "train/tokens_per_second": speed,
                "train/mfu": speed * self._flops / self.ceiling,
            }
            if "grad_norm" in logs:
                row["train/grad_norm"] = float(logs["grad_norm"])
            if self._held_out is not None:
                row["train/held_out_loss"] = self._held_out
            row |= meter.readings()
            with job.log.open("a") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())
            emit("log", **row)
            if now - self._recorded > USAGE_SECONDS:
                self._recorded = now
                self.usage.record()
            self._held_out = None

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            trainer.accelerator.wait_for_everyone()  # each process writes its own random state
            if is_first():
                folder = job.checkpoints / f"checkpoint-{state.global_step}"
                checkpoints.seal(folder, self._judged)
                checkpoints.retain(job.checkpoints)
                self.usage.record()
            self._saved = time.monotonic()

        def save(self) -> None:
            """Write a checkpoint now, outside the trainer's own course."""
            folder = job.checkpoints / f"checkpoint-{trainer.state.global_step}"
            if not (folder / checkpoints.SEAL).exists():
                self._judged = held_out_loss(job, trainer)
                trainer._save_checkpoint(trainer.model, trial=None)
                self.on_save(trainer.args, trainer.state, trainer.control)

    return Watcher()


def held_out_loss(job: TrainJob, trainer: "Trainer") -> float:
    """Return the mean loss per token over the first rows that are held out."""
    import torch

    tokenizer = trainer.processing_class
    model, losses, tokens = trainer.model, 0.0, 0
    model.eval()
    for ids in token_ids(job.held_out, HELD_OUT_ROWS, job.model.max_length):
        labels = data.labels_of(ids, tokenizer, job.config.train_on)
        count = sum(label != data.IGNORED for label in labels)
        if not count:
            continue
        row = {"input_ids": ids, "labels": labels, "seq_lengths": [len(ids)]}
        batch = trainer._prepare_inputs(trainer.data_collator([row]))
        with torch.no_grad(), trainer.compute_loss_context_manager():
            losses += model(**batch).loss.item() * count
        tokens += count
    model.train()
    return losses / max(1, tokens)


def cut_log(log: Path, step: int) -> None:
    """Drop the lines of a training log after `step`; they will be written again."""
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    # A last line without its end was being written when the process was killed.
    whole = (line for line in lines if line.endswith("\n"))
    kept = "".join(line for line in whole if json.loads(line)["step"] <= step)
    temporary = log.with_suffix(".cut")
    temporary.write_text(kept)
    temporary.rename(log)


def summary(job: TrainJob, trainer: "Trainer", watcher: Any) -> dict[str, float]:
    """Return the adapter's metrics; peak memory is in GiB.

    None has the name of a logged one: MLflow would make one curve of both.
    """
    rows = [json.loads(line) for line in job.log.read_text().splitlines()]
    # The first step of a process also pays for compilation.
    later = rows[1:] or rows
    parameters = list(trainer.model.parameters())
    trainable = sum(one.numel() for one in parameters if one.requires_grad)
    total = trainer.model.num_parameters()
    return {
        "final_loss": rows[-1]["train/loss"],
        "final_held_out_loss": rows[-1]["train/held_out_loss"],
        "steps": trainer.state.global_step,
        "total_tokens": rows[-1]["train/tokens"],
        "median_tokens_per_second": _median([row["train/tokens_per_second"] for row in later]),
        "median_mfu": _median([row["train/mfu"] for row in later]),
        "matmul_ceiling_tflops": watcher.ceiling / 1e12,
        "trainable_parameters": trainable,
        "trainable_share": trainable / total,
        "peak_memory_gib": meter.peak_memory_gib(),
        **watcher.usage.totals(job.config.price_per_hour),
    }


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _check_ids(plan: data.Plan, model: Any) -> None:
    import pyarrow.compute as pc

    embeddings = len(model.get_input_embeddings().weight)
    largest = pc.max(pc.list_flatten(plan.packs.data["input_ids"])).as_py()
    if largest >= embeddings:
        raise ValueError(
            f"the training rows use token id {largest}, but the base model has {embeddings} embeddings; "
            f"choose a base model that fits its own tokenizer"
        )


def _check_trained(model: Any) -> None:
    named = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    if not all(value.isfinite().all() for _, value in named):
        raise Hopeless("the weights hold values that are not finite; lower training.learning_rate")
    adapter = [value for name, value in named if "lora_B" in name]
    if adapter and not any(value.any() for value in adapter):
        raise ValueError(
            "the adapter is still zero after training: nothing was learned; train for more steps "
            "or raise training.learning_rate"
        )
    if unmoved := unmoved_layers(model):
        raise ValueError(
            f"the rows of the new chat tokens were not trained in {', '.join(unmoved)}: this backend "
            f"does not reach them; set training.backend=trl, or model.chat_tokens=map_eos"
        )


def _check_saved(folder: Path, model: Any) -> None:
    """PEFT saves what it finds by name, and nothing at all when a wrapper changed the names."""
    from safetensors import safe_open

    adapter = folder / "adapter_model.safetensors"
    if not adapter.exists():
        return  # whole weights, which transformers saves
    trained = sum(value.requires_grad for value in model.parameters())
    with safe_open(adapter, "pt") as file:
        # Embeddings that grew are there as well, whole, for whoever loads the adapter without retune;
        # rows that both share if they are tied are then there twice.
        saved = sum("base_layer" not in name for name in file.keys())  # noqa: SIM118
    if saved < trained:
        raise ValueError(
            f"{saved} of {trained} trained tensors are in {adapter}: the versions of PEFT and "
            f"transformers do not fit each other; install those of requirements.lock"
        )
