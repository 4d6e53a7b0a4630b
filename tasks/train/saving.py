"""The end of a training: checks of the trained weights, and `adapter/`, which holds them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retune.embeddings import unmoved_layers
from retune.loaders import strip_code
from tasks.train.distributed import is_first
from tasks.train.job import TrainingDiverged, TrainingRefused, TrainJob

if TYPE_CHECKING:
    from transformers import Trainer


def require_trained(model: Any) -> None:
    """Raise TrainingDiverged for weights that are not finite, TrainingRefused for unchanged ones."""
    weights = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    if not all(weight.isfinite().all() for weight in weights.values()):
        raise TrainingDiverged(
            "the weights hold values that are not finite; lower training.learning_rate"
        )
    adapter = [weight for name, weight in weights.items() if "lora_B" in name]
    if adapter and not any(weight.any() for weight in adapter):
        raise TrainingRefused(
            "the adapter is still zero after training: nothing was learned; train for more steps "
            "or raise training.learning_rate"
        )
    if unmoved := unmoved_layers(model):
        raise TrainingRefused(
            f"the rows of the new chat tokens were not trained in {', '.join(unmoved)}: this backend "
            f"does not reach them; set training.backend=trl, or model.chat_tokens=map_eos"
        )


def save(job: TrainJob, trainer: "Trainer") -> None:
    """Write `adapter/`, with the tokenizer: an adapter, or all weights in bf16."""
    import torch

    folder = job.folder / "adapter"
    model: Any = trainer.model
    tokenizer: Any = trainer.processing_class
    if job.config.method == "full":
        # Rounded once, here: evaluate, merge and GGUF then use the same weights.
        model.to(torch.bfloat16)
    if job.config.shard:
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model(str(folder))
    if is_first():
        tokenizer.save_pretrained(folder)
        strip_code(folder)
        put_in_order(folder / "adapter_config.json")
        _require_saved(folder, model)


def put_in_order(config: Path) -> None:
    """Sort what PEFT keeps as sets and writes in the order of Python's hashes, which is another in each
    process: the same training makes the same files. Nothing is done where there is no adapter."""
    if not config.exists():
        return
    settings = json.loads(config.read_text(encoding="utf-8"))
    for name in ("target_modules", "exclude_modules"):
        if isinstance(settings.get(name), list):
            settings[name] = sorted(settings[name])
    config.write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")


def _require_saved(folder: Path, model: Any) -> None:
    """Raise TrainingRefused if trained tensors are not in the adapter's file.

    PEFT saves the tensors that it finds by name, and nothing at all if a wrapper changed the names.
    """
    from safetensors import safe_open

    adapter = folder / "adapter_model.safetensors"
    if not adapter.exists():
        return  # all weights, which transformers saves
    trained = sum(parameter.requires_grad for parameter in model.parameters())
    with safe_open(adapter, "pt") as file:
        # Resized embeddings are in the file too, whole, for users who load the adapter without
        # retune; trained rows that both embeddings share if they are tied are then in it twice.
        whole = (".base_layer.weight", ".base_layer.bias")
        saved = sum(not name.endswith(whole) for name in file.keys())  # noqa: SIM118
    if saved < trained:
        raise TrainingRefused(
            f"{saved} of {trained} trained tensors are in {adapter}: the versions of PEFT and "
            f"transformers do not fit each other; install those of requirements.lock"
        )
