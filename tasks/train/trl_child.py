"""The child process of train for several GPUs: PEFT and TRL on stock transformers.

One process per GPU. Without a launcher's environment (RANK, WORLD_SIZE, ...) it starts them
itself on this machine, or this node's share of them (NNODES, NODE_RANK, MASTER_ADDR).
"""

import json
import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retune.child import Event, main
from retune.embeddings import fit_embeddings, lora_settings
from retune.errors import RetuneError
from retune.loaders import load_model
from retune.models import compute_dtype, device, nf4
from retune.workspace import write_whole
from tasks.train import distributed, loop
from tasks.train.backend import target_modules
from tasks.train.job import (
    NoTrainableTokens,
    TrainingDiverged,
    TrainingInterrupted,
    TrainingRefused,
    TrainJob,
)

if TYPE_CHECKING:
    import torch
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

    def runs_trl_loss(self) -> bool:
        from trl.trainer import utils

        # TRL 1.15 computes output layer and loss in one Triton kernel, and has no other code for it.
        return device() == "cuda" and bool(utils._ChunkedLogProbFunction)


def train(job: TrainJob) -> Event:
    """Train in this process, or start one process per GPU and return the first one's result."""
    distributed.claim_gpus(job.config.processes)
    if job.config.processes == 1 or "RANK" in os.environ:
        return loop.run(job, Trl())
    outcome = _run_workers(job, job.folder / "result.json")
    if "refused" in outcome:
        raise TrainingRefused(outcome["refused"])
    return outcome


def _run_workers(job: TrainJob, result: Path) -> Event:
    """Run this node's processes to their end and return what they wrote to `result`.

    A process that fails ends the others, which would wait for it.
    """
    from torch.multiprocessing import (
        ProcessExitedException,
        ProcessRaisedException,
        start_processes,
    )

    result.unlink(missing_ok=True)
    nodes = int(os.environ.get("NNODES", "1"))
    os.environ |= {"WORLD_SIZE": str(nodes * job.config.processes)}
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", str(_free_port()))
    # The workers get the signal too; this process must outlive them while they write a checkpoint.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    # Forked, so that they inherit the pipe for events; nothing has touched a GPU yet.
    workers = start_processes(
        _worker, (job, result), nprocs=job.config.processes, join=False, start_method="fork"
    )
    try:
        while not workers.join(grace_period=GRACE):
            pass
    except (ProcessExitedException, ProcessRaisedException):
        outcome = json.loads(result.read_text()) if result.exists() else {"metrics": None}
        if "metrics" in outcome:
            raise  # a crash
        return outcome
    return json.loads(result.read_text())


def _worker(local_rank: int, job: TrainJob, result: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    first = int(os.environ.get("NODE_RANK", "0")) * job.config.processes
    os.environ |= {"LOCAL_RANK": str(local_rank), "RANK": str(first + local_rank)}
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
    if ends_others or distributed.is_first():
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


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


if __name__ == "__main__":
    main(TrainJob, train)
