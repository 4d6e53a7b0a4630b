"""The child process of merge: adapter and base become one checkpoint, and the proof that they did."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from retune.child import emit, main
from retune.config import Merging, Model
from retune.models import compute_dtype, device, load_tuned, padded, token_ids

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

CHECK_TOKENS = 512  # of each compared row: its logits wait on disk meanwhile


class MergeJob(BaseModel):
    """`folder` gets the checkpoint in `model/`."""

    held_out: Path
    tokenizer: Path
    adapter: Path
    model: Model
    revision: str | None
    config: Merging
    folder: Path


def merge(job: MergeJob) -> dict[str, Any]:
    """Merge, save, reload and compare.

    Returns `metrics`: `kl` (nats per token) and `top1_agreement` (0 to 1) of the reloaded model
    against adapter on base, and `changed_share` of the adapted matrices that differ from the base's.
    """
    emit("state", text="loading the adapter")
    adapted = load_tuned(job.model, job.revision, job.adapter)
    dtype = checkpoint_dtype(job)
    rows = token_ids(job.held_out, job.config.check_rows, CHECK_TOKENS)
    logits = job.folder / "logits"
    keep_logits(adapted, rows, logits)
    emit("state", text="merging")
    merged, base_marks = merge_weights(adapted, dtype)
    save(merged, job)
    del adapted, merged
    emit("state", text="comparing")
    reloaded = load_plain(job.folder / "model")
    metrics = compare(reloaded, rows, logits)
    metrics["changed_share"] = changed_share(reloaded, base_marks, dtype)
    shutil.rmtree(logits)
    return {"metrics": metrics}


def checkpoint_dtype(job: MergeJob) -> "torch.dtype":
    """Return the precision of the checkpoint: bf16, or fp16 if the base is stored so."""
    import torch
    from transformers import AutoConfig

    stored = AutoConfig.from_pretrained(job.model.base, revision=job.revision).dtype
    return torch.float16 if stored == torch.float16 else torch.bfloat16


def keep_logits(model: "PeftModel", rows: list[list[int]], folder: Path) -> None:
    """Write the logits of each row, (tokens, vocabulary), to `folder`."""
    import torch

    folder.mkdir()
    for number, ids in enumerate(rows):
        torch.save(_logits(model, ids).cpu(), folder / f"{number}.pt")


def _logits(model: Any, ids: list[int]) -> "torch.Tensor":
    import torch

    with torch.inference_mode():
        return model(**padded([ids], pad=0), use_cache=False).logits[0]


def merge_weights(
    adapted: "PeftModel", dtype: "torch.dtype"
) -> tuple["PreTrainedModel", dict[str, int]]:
    """Return the merged model in main memory, and a mark of each adapted matrix as it was before.

    4-bit weights become what they stood for in training first, so that the quantisation error is
    the one that the adapter was trained with, and is not added a second time.
    """
    from peft.tuners.lora import LoraLayer

    model = adapted.get_base_model()
    marks = {}
    for name, layer in [*model.named_modules()]:
        if isinstance(layer, LoraLayer):
            weight = dense(layer.get_base_layer().weight)
            marks[name] = mark(weight, dtype)
            # One rounding, at the end.
            merged = weight.float() + layer.get_delta_weight("default").float()
            model.set_submodule(name, linear(merged, layer.get_base_layer().bias, dtype))
        elif type(layer).__name__ == "Linear4bit" and ".base_layer" not in name:
            model.set_submodule(name, linear(dense(layer.weight), layer.bias, dtype))
    _forget_quantization(model)
    return model.to("cpu", dtype), marks


def dense(weight: "torch.Tensor") -> "torch.Tensor":
    """Return a weight matrix as numbers: a 4-bit one dequantised, any other as it is."""
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    return dequantize_bnb_weight(weight).detach()


def mark(weight: "torch.Tensor", dtype: "torch.dtype") -> int:
    """Return a number that tells a 16-bit matrix from a changed one, whatever device it is on."""
    import torch

    return weight.detach().to(dtype).view(torch.int16).sum(dtype=torch.int64).item()


def linear(
    weight: "torch.Tensor", bias: "torch.Tensor | None", dtype: "torch.dtype"
) -> "torch.nn.Linear":
    """Return a linear layer in main memory: a GPU that trained in 4 bits need not hold 16."""
    import torch

    layer = torch.nn.Linear(
        weight.shape[1], weight.shape[0], bias=bias is not None, device="meta", dtype=dtype
    )
    layer.weight = torch.nn.Parameter(weight.to("cpu", dtype), requires_grad=False)
    if bias is not None:
        layer.bias = torch.nn.Parameter(bias.detach().to("cpu", dtype), requires_grad=False)
    return layer


def _forget_quantization(model: "PreTrainedModel") -> None:
    # transformers refuses to move or save a model as plain that still says it is quantised.
    model.hf_quantizer = None
    for owner, names in (
        (model, ("is_quantized", "is_loaded_in_4bit", "quantization_method")),
        (model.config, ("quantization_config", "_pre_quantization_dtype")),
    ):
        for name in names:
            vars(owner).pop(name, None)


def save(model: "PreTrainedModel", job: MergeJob) -> None:
    """Write the checkpoint with its tokenizer; generation ends with the end-of-turn token."""
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(job.tokenizer)
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    model.config.update(special)
    model.generation_config = GenerationConfig(**special)
    folder = job.folder / "model"
    model.save_pretrained(folder, max_shard_size=int(job.config.max_shard_gb * 1e9))
    tokenizer.save_pretrained(folder)


def load_plain(folder: Path) -> "PreTrainedModel":
    """Return the checkpoint in `folder` as anyone would load it."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=compute_dtype(), device_map={"": device()}
    )
    return model.eval()


def compare(model: "PreTrainedModel", rows: list[list[int]], reference: Path) -> dict[str, float]:
    """Return mean KL divergence (nats per token) of `model` from the kept logits, and top-1 agreement."""
    import torch

    divergence, agreed, count = 0.0, 0, 0
    for number, ids in enumerate(rows):
        kept = torch.load(reference / f"{number}.pt").to(device()).float().log_softmax(-1)
        seen = _logits(model, ids).float().log_softmax(-1)
        divergence += (kept.exp() * (kept - seen)).sum().item()
        agreed += (kept.argmax(-1) == seen.argmax(-1)).sum().item()
        count += len(ids)
    return {"kl": divergence / count, "top1_agreement": agreed / count}


def changed_share(
    model: "PreTrainedModel", base_marks: dict[str, int], dtype: "torch.dtype"
) -> float:
    """Return the share (0 to 1) of the adapted matrices that differ from the base's."""
    changed = [
        mark(model.get_submodule(name).weight, dtype) != before
        for name, before in base_marks.items()
    ]
    return sum(changed) / len(changed)


if __name__ == "__main__":
    main(MergeJob, merge)
