"""Models in memory: which precision they are held in, how they are loaded, how rows become batches.

For child processes; imports torch and transformers where they are used.
"""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retune.embeddings import fit_embeddings
from retune.errors import RetuneError
from retune.loaders import load_config, load_model
from retune.machine import MachineUnfit
from retune.original import Original

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from retune.recipe import Model

TOKENS_PER_BATCH = 8192  # padding included; bounds the logits of a 128k vocabulary to about 2 GiB


class AdapterMismatch(RetuneError):
    """An adapter that is not whole, or not one of this base model."""


def device() -> str:
    """Return `cuda` if torch can use a GPU, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def compute_dtype() -> "torch.dtype":
    """Return the precision to compute in: bf16 from Ampere on, fp16 on older GPUs, fp32 on a CPU.

    On a CPU bf16 is slower: 2.0 s a training step against 1.3 s (5 M parameters, 2,400 tokens).
    """
    import torch

    if device() == "cpu":
        return torch.float32
    # Emulated bf16 (V100, T4) is reported as supported too, and slow.
    return torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16


def require_gpu_for_4bit(model: "Model") -> None:
    """Raise MachineUnfit if the recipe wants 4-bit weights and no GPU is here."""
    if model.load_in_4bit and device() == "cpu":
        raise MachineUnfit("4-bit weights need a GPU, none is here; set model.load_in_4bit=false")


def load_base(
    model: "Model", revision: str | None, tokenizer: Path, original: Original | None = None
) -> "PreTrainedModel":
    """Return the base model, ready for inference, with 4-bit NF4 weights if the recipe says so, or
    the `original` of those in 16 bits.

    4-bit weights work on a CPU too, slowly; it is training on them that needs a GPU.

    `tokenizer` is the folder of the one trained with, which may have more tokens than the base (see
    `retune.embeddings`): format's `tokenizer/`, or what train wrote. A base that is stored in 4 bits
    stays as stored.
    """
    dtype = compute_dtype()
    if original:
        loaded = _load(original.name, original.revision, dtype, None)
    else:
        in_4bit = model.load_in_4bit and not is_quantized(load_config(model.base, revision))
        loaded = _load(model.base, revision, dtype, nf4(dtype) if in_4bit else None)
    fit_embeddings(loaded, model, revision, tokenizer)
    return loaded


def load_plain(folder: Path, quantization: Any = None) -> "PreTrainedModel":
    """Return the whole checkpoint in `folder` as anyone would load it, ready for inference."""
    return _load(str(folder), None, compute_dtype(), quantization)


def _load(
    name: str, revision: str | None, dtype: "torch.dtype", quantization: Any
) -> "PreTrainedModel":
    # Even a None would take the place of what the checkpoint says of itself.
    options = {"quantization_config": quantization} if quantization else {}
    return load_model(name, revision, dtype=dtype, device_map={"": device()}, **options).eval()


def nf4(dtype: "torch.dtype", storage: "torch.dtype | None" = None) -> Any:
    """Return transformers' settings of QLoRA's 4-bit weights, computed with in `dtype`, and held in
    tensors of `storage` (bytes, if None)."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=storage,
    )


def release_memory() -> None:
    """Let go of what no model needs any more: reference cycles hold a deleted one's weights."""
    import torch

    gc.collect()
    if device() == "cuda":
        torch.cuda.empty_cache()


def is_quantized(config: Any) -> bool:
    """Tell by a model's configuration whether its weights are stored in few bits."""
    return bool(getattr(config, "quantization_config", None))


def is_adapter(folder: Path) -> bool:
    """Tell whether train wrote an adapter to `folder`; else it is a whole checkpoint."""
    return (folder / "adapter_config.json").exists()


def load_tuned(
    model: "Model", revision: str | None, trained: Path, original: Original | None = None
) -> Any:
    """Return what was trained, ready for inference: the adapter in `trained` on its base, or on the
    `original` of that, not merged (a PeftModel), or the whole checkpoint there.

    Raises AdapterMismatch.
    """
    if is_adapter(trained):
        return with_adapter(load_base(model, revision, trained, original), trained)
    return load_plain(trained)


def with_adapter(base: "PreTrainedModel", adapter: Path, **options: Any) -> Any:
    """Return `base` with the adapter on top (a PeftModel), every tensor of it in its place.

    `options` are PEFT's. Raises AdapterMismatch; PEFT only warns of tensors that are missing or fit
    nowhere, and continues with a model that is partly, or wholly, the base.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    weights = adapter / "adapter_model.safetensors"
    if not weights.is_file():  # PEFT would look for a pickle
        raise AdapterMismatch(
            f"the adapter in {adapter} has no {weights.name}; remove the folder of this train output to "
            f"train again"
        )
    tuned = PeftModel.from_pretrained(base, str(adapter), **options).eval()
    expected = get_peft_model_state_dict(tuned, save_embedding_layers=False).keys()
    allowed = get_peft_model_state_dict(tuned, save_embedding_layers=True).keys()
    with safe_open(weights, "pt") as file:
        stored = set(file.keys())
    missing, homeless = expected - stored, stored - allowed
    if missing or homeless:
        raise AdapterMismatch(
            f"the adapter in {adapter} does not fit the base model: {len(missing)} of its "
            f"{len(expected)} tensors are missing, {len(homeless)} have no place in the model, e.g. "
            f"{min(missing or homeless)}; remove the folder of this train output to train again"
        )
    return tuned


def token_ids(rows: Path, limit: int, max_length: int) -> list[list[int]]:
    """Return `input_ids` of the first `limit` rows of a Parquet file, each cut to `max_length`."""
    import pyarrow.parquet as pq

    column = pq.read_table(rows, columns=["input_ids"])["input_ids"]
    return [ids[:max_length] for ids in column.slice(0, limit).to_pylist()]


def batches(lengths: list[int], limit: int, tokens: int = TOKENS_PER_BATCH) -> Iterator[list[int]]:
    """Yield batches of row numbers, the longest rows first, so that little is padding.

    A batch has at most `limit` rows and `tokens` tokens, padding included, or one row.
    """
    batch: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda n: (-lengths[n], n)):
        if batch and (len(batch) == limit or (len(batch) + 1) * lengths[batch[0]] > tokens):
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def padded(rows: list[list[int]], pad: int, left: bool = False) -> dict[str, "torch.Tensor"]:
    """Return `input_ids` and `attention_mask`, both (rows, longest), on the device."""
    import torch

    longest = max(map(len, rows))
    fill = [[0] * (longest - len(row)) for row in rows]
    row_masks = [[1] * len(row) for row in rows]
    pairs = list(zip(rows, fill, row_masks, strict=True))
    if left:
        ids = [[pad] * len(gap) + row for row, gap, _ in pairs]
        mask = [gap + row_mask for _, gap, row_mask in pairs]
    else:
        ids = [row + [pad] * len(gap) for row, gap, _ in pairs]
        mask = [row_mask + gap for _, gap, row_mask in pairs]
    return {
        "input_ids": torch.tensor(ids, device=device()),
        "attention_mask": torch.tensor(mask, device=device()),
    }
