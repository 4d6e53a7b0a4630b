"""The child process of train: Unsloth's patched model in TRL's trainer. No Prefect, no MLflow.

Unsloth patches transformers when it is imported, so it needs a process of its own.
"""

from typing import TYPE_CHECKING, Any

from retune.child import Event, emit, main
from retune.embeddings import fit_embeddings, lora_settings
from retune.models import compute_dtype, device
from tasks.train import distributed, hosts, loop, requirements
from tasks.train.backend import target_modules
from tasks.train.job import TrainingRefused, TrainJob

if TYPE_CHECKING:
    import torch
    from transformers import Trainer

RECOMPUTE = {"unsloth": "unsloth", "on": True, "off": False}


class Unsloth:
    """Backend of `loop.run`: Unsloth's kernels, offloaded checkpointing and 4-bit loading."""

    def __init__(self) -> None:
        self.lengths = "unsloth" if device() == "cuda" else None

    def load(self, job: TrainJob) -> Any:
        from unsloth import FastLanguageModel

        config, full = job.config, job.config.method == "full"
        recompute = RECOMPUTE[config.gradient_checkpointing]
        precision = {}
        if full and device() == "cuda":  # on a CPU all is in 32 bits, and this setting is unknown
            precision["float32_mixed_precision"] = config.master_weights == "float32"
        model, _ = FastLanguageModel.from_pretrained(
            job.model.base,
            revision=job.revision,
            max_seq_length=job.model.max_length,
            load_in_4bit=job.model.load_in_4bit,
            full_finetuning=full,
            dtype=compute_dtype(),
            trust_remote_code=False,
            use_safetensors=True,
            use_gradient_checkpointing=recompute,
            use_exact_model_name=True,  # else Unsloth may load another repository than the pinned one
            **precision,
        )
        new = fit_embeddings(model, job.model, job.revision, job.tokenizer)
        if full:
            return model
        if new and device() == "cuda":
            raise TrainingRefused(
                f"model.chat_tokens={job.model.chat_tokens}: on a GPU Unsloth's kernels read the "
                f"embeddings past PEFT, so that single rows are not trained; set training.backend=trl, "
                f"or model.chat_tokens=map_eos"
            )
        return FastLanguageModel.get_peft_model(
            model,
            r=config.r,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=target_modules(model, job),
            use_rslora=config.use_rslora,
            use_dora=config.use_dora,
            use_gradient_checkpointing=recompute,
            random_state=config.seed,
            **lora_settings(model, new),
        )

    def recompute(self, model: Any, mode: str) -> None:
        if device() == "cpu":
            return  # stock transformers there; the trainer's own setting decides
        from unsloth import FastLanguageModel
        from unsloth.utils.packing import mark_allow_overlength

        model._unsloth_gradient_checkpointing = RECOMPUTE[mode]
        FastLanguageModel.for_training(model, use_gradient_checkpointing=RECOMPUTE[mode])
        mark_allow_overlength(model)  # a flat batch is longer than one sequence may be

    def dequantized_bytes(self, model: Any) -> int:
        return 0  # its kernels dequantize

    def keep_dequantized(self, model: Any) -> None:
        pass

    def token_loss(self, model: Any, batch: dict[str, Any]) -> "torch.Tensor":
        return model(**batch).loss

    def prepare(self, trainer: "Trainer") -> None:
        if device() == "cpu":
            return
        from unsloth.utils.packing import enable_sample_packing

        enable_sample_packing(trainer.model, trainer)

    def trainer_class(self) -> "type[Trainer]":
        from trl import SFTTrainer

        return SFTTrainer  # in whose place Unsloth has put its own


def import_ahead() -> None:
    """Import what takes half a minute, for a training in a single process."""
    distributed.claim_gpus(1)
    import unsloth  # noqa: F401


def train(job: TrainJob) -> Event:
    hosts.require_alone(job.config)
    emit("state", text="importing Unsloth")
    distributed.claim_gpus(job.config.processes)
    requirements.require_gpu(job)
    import unsloth  # noqa: F401  # first: it patches the others

    from tasks.train import varlen

    varlen.give_to_unsloth()
    return loop.run(job, Unsloth())


if __name__ == "__main__":
    main(TrainJob, train, import_ahead)
