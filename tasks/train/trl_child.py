"""The child process of train for several GPUs: PEFT and TRL on stock transformers.

One process per GPU. A launcher of processes has started this one as one of them; else it starts those
of this machine itself, which may be one of several hosts (see `hosts`).
"""

import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retune.child import Event, emit, main
from retune.embeddings import fit_embeddings, lora_settings
from retune.errors import RetuneError
from retune.files import write_whole
from retune.loaders import load_model
from retune.models import compute_dtype, device, nf4
from tasks.train import checkpoints, distributed, fitting, hosts, loop
from tasks.train.backend import target_modules
from tasks.train.hosts import Hosts
from tasks.train.job import (
    NoTrainableTokens,
    TrainingDiverged,
    TrainingInterrupted,
    TrainingRefused,
    TrainJob,
)
from tasks.train.rendezvous import LOST, HostLost, Rendezvous

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event as Signal

    import torch
    from torch.multiprocessing.spawn import ProcessContext
    from transformers import Trainer

GRACE = 5  # seconds that the others have to end by themselves after one failed
# What all processes raise alike, so that none has to end the others.
COMMON_ERRORS = (NoTrainableTokens, TrainingDiverged, TrainingInterrupted)


class Trl:
    """Backend of `loop.run`: stock transformers with PEFT, one replica per process."""

    def __init__(self) -> None:
        from tasks.train import varlen

        self._varlen = device() == "cuda" and varlen.supported()
        self.lengths = "flash" if self._varlen else None

    def load(self, job: TrainJob) -> Any:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import set_seed
        from trl.trainer.utils import add_fused_lm_head

        from tasks.train import varlen
        from tasks.train.fused import fuse_layers

        config = job.config
        in_32_bits = config.method == "full" and config.master_weights == "float32"
        quantization = None
        if job.model.load_in_4bit:
            # FSDP splits tensors of floats only.
            quantization = nf4(compute_dtype(), compute_dtype() if config.shard else None)
        if self._varlen:
            varlen.register()
        place = int(os.environ.get("LOCAL_RANK", "0")) if device() == "cuda" else "cpu"
        if place != "cpu":
            torch.cuda.set_device(place)
        model = load_model(
            job.model.base,
            job.revision,
            dtype=torch.float32 if in_32_bits else compute_dtype(),
            # None would override the base's own configuration, if it is stored in 4 bits.
            **({"quantization_config": quantization} if quantization else {}),
            # Else transformers chooses: PyTorch's own, and for sinks, which that lacks, its plain one.
            **({"attn_implementation": varlen.NAME} if self._varlen else {}),
            device_map={"": place},
        )
        new = fit_embeddings(model, job.model, job.revision, job.tokenizer)
        if place != "cpu":
            fuse_layers(model)
            add_fused_lm_head(model)  # TRL's trainer does so later; now the fit can be measured
        if config.method == "full":
            return model
        # Not PEFT's prepare_model_for_kbit_training: its 32-bit norms make all activations 32 bits
        # wide (a fifth of the speed and a third of the memory on an H200), for the same losses.
        set_seed(config.seed)
        lora = LoraConfig(
            r=config.r,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=target_modules(model, job),
            use_rslora=config.use_rslora,
            use_dora=config.use_dora,
            task_type="CAUSAL_LM",
            **lora_settings(model, new),
        )
        adapted = get_peft_model(model, lora)
        if config.fp8:
            from tasks.train.fp8 import multiply_in_fp8

            multiply_in_fp8(adapted)
        if (
            place != "cpu" and not config.shard
        ):  # FSDP's weights are whole within its own hooks only
            from tasks.train.adapted import fuse_adapters

            fuse_adapters(adapted)
        if new:
            # TRL's fused loss asks for it, and PEFT's wrapper of trained rows has none to show.
            adapted.get_output_embeddings().bias = None
        return adapted

    def recompute(self, model: Any, mode: str) -> None:
        if mode == "off":
            model.gradient_checkpointing_disable()
        else:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()

    def dequantized_bytes(self, model: Any) -> int:
        from tasks.train.adapted import exact_weights

        return sum(weight.dequantized_bytes for weight in exact_weights(model))

    def keep_dequantized(self, model: Any) -> None:
        from tasks.train.adapted import exact_weights

        weights = exact_weights(model)
        try:
            for weight in weights:
                weight.keep_dequantized()
        except RuntimeError as error:  # somebody else took the memory meanwhile
            if not fitting.memory_ran_out(error):
                raise
            for weight in weights:
                weight.drop()

    def token_loss(self, model: Any, batch: dict[str, Any]) -> "torch.Tensor":
        return model(**batch, fused_lm_head=True).loss

    def prepare(self, trainer: "Trainer") -> None:
        # TRL rounds the adapter of a 4-bit model to bf16, which loses updates below 1/256 of a
        # weight, stops gradient scaling in fp16 and leaves FSDP2 two precisions with DoRA.
        model: Any = trainer.model
        if hasattr(model, "peft_config"):
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()

    def trainer_class(self) -> "type[Trainer]":
        from transformers import Trainer
        from trl.trainer import utils

        from tasks.train.lean import fetching_ahead, fused_loss_trainer

        # TRL 1.15 computes output layer and loss in one Triton kernel, and has no other code for it.
        # Elsewhere transformers' trainer computes the same one: all that TRL's adds otherwise, packs
        # and labels, is in the plan already.
        fused = device() == "cuda" and bool(utils._ChunkedLogProbFunction)
        return fetching_ahead(fused_loss_trainer() if fused else Trainer)


def train(job: TrainJob) -> Event:
    """Train in this process, or start this host's processes and return what came of it.

    Only the first host's result has metrics. Raises HostLost if another host is gone.
    """
    if hosts.is_launched():
        return loop.run(job, Trl())
    ours = hosts.hosts_of(job.config.processes)
    distributed.claim_gpus(ours.processes)
    if ours.world_size == 1:
        return loop.run(job, Trl())
    hosts.share_of(job.config, ours.world_size)  # now, not in each process
    # On a disk that hosts share each has a file of its own.
    outcome = _run_workers(job, ours, job.folder / f"result-{ours.number}.json")
    if "refused" in outcome:
        raise TrainingRefused(outcome["refused"])
    if "lost" in outcome:
        emit("lost", reason=outcome["lost"])
        raise HostLost(f"{outcome['lost']}; {_what_is_kept(job)}")
    return outcome


def _what_is_kept(job: TrainJob) -> str:
    newest = checkpoints.newest_sealed(job.checkpoints)
    kept = (
        f"the checkpoint of step {checkpoints.step_of(newest)}" if newest else "the last checkpoint"
    )
    return f"start the training again on all hosts, and it goes on from {kept}"


def _run_workers(job: TrainJob, ours: Hosts, result: Path) -> Event:
    """Run this host's processes to their end and return what they wrote to `result`.

    A process that fails ends the others, which would wait for it, here and on the other hosts.
    """
    from torch.multiprocessing import start_processes

    result.unlink(missing_ok=True)
    begin = multiprocessing.get_context("fork").Event()
    # The workers get the signal too; this process must outlive them while they write a checkpoint.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    # Forked, so that they inherit the pipe for events; nothing has touched a GPU yet, and no thread
    # has been started.
    workers = start_processes(
        _worker, (job, ours, result, begin), nprocs=ours.processes, join=False, start_method="fork"
    )
    if ours.count == 1:
        begin.set()
        return _ended(workers, result, None)
    try:
        line = Rendezvous(ours, job, begin.set)
    except TrainingRefused:
        _end(workers, seconds=0)
        raise
    try:
        outcome = _ended(workers, result, line)
        if ours.number == 0:
            line.publish({"metrics": {}} if "metrics" in outcome else outcome)
        return outcome
    finally:
        line.close()


def _ended(workers: "ProcessContext", result: Path, line: Rendezvous | None) -> Event:
    """Return how the workers ended; those of other hosts, with whom there is a `line`, may end them."""
    from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

    try:
        while not workers.join(timeout=1 if line else None, grace_period=GRACE):
            outcome = line.outcome() if line else None
            if outcome is None:
                continue
            if _end(workers, LOST if "metrics" in outcome else GRACE):
                break  # by themselves, as in a training that came to its end
            return outcome
    except (ProcessExitedException, ProcessRaisedException) as crash:
        outcome = json.loads(result.read_text()) if result.exists() else {"metrics": None}
        if "metrics" not in outcome:
            return line.publish(outcome) if line else outcome
        if line and (elsewhere := line.blame(crash)):
            return elsewhere
        raise
    return json.loads(result.read_text())


def _end(workers: "ProcessContext", seconds: float) -> bool:
    """Tell whether all workers end well by themselves within `seconds`; if not, they are killed."""
    from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

    end = time.monotonic() + seconds
    with suppress(ProcessExitedException, ProcessRaisedException):
        while time.monotonic() < end:
            if workers.join(timeout=0.2, grace_period=GRACE):
                return True
    for process in workers.processes:
        process.kill()
        process.join()
    return False


def _worker(local_rank: int, job: TrainJob, ours: Hosts, result: Path, begin: "Signal") -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    begin.wait()
    os.environ |= ours.variables(local_rank)
    if ours.count > 1:  # the store is in `Rendezvous`, which outlives the first worker
        os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    if device() == "cpu":
        _let_cpu_checkpoints_load()
    ends_others = False
    try:
        outcome = loop.run(job, Trl())
        ends_others = "retry" in outcome  # the others' memory may have been enough
    except RetuneError as error:
        traceback.print_exc()
        outcome = {"refused": str(error)}
        ends_others = not isinstance(error, COMMON_ERRORS)
    if ends_others or local_rank == 0:
        write_whole(result, json.dumps(outcome))
    sys.stdout.flush()
    if ends_others:
        sys.exit(1)


def _let_cpu_checkpoints_load() -> None:
    """Let torch.load accept the device `cpu:0`, to which transformers 5.17 maps the optimizers of
    several CPU processes, and which torch does not know for storages."""
    import torch

    torch.serialization.register_package(
        0, lambda storage: None, lambda storage, location: storage if location == "cpu:0" else None
    )


if __name__ == "__main__":
    main(TrainJob, train)
