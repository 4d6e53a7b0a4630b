"""A checkpoint on disk: read one tensor at a time, written one shard at a time.

For child processes; imports torch where it is used.
"""

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from retune.errors import RetuneError
from retune.inspection import INDEX, SINGLE, require_file_names
from retune.loaders import optional_file
from retune.models import compute_dtype, device

if TYPE_CHECKING:
    import torch

STATE = (
    ".quant_state.bitsandbytes__"  # and the type: what bitsandbytes stores next to a 4-bit weight
)


class CheckpointError(RetuneError):
    """A base model whose files cannot be merged with, and what to do about it."""


class Checkpoint:
    """The tensors of a model on the Hub or in a folder, each read when it is asked for.

    Weights that bitsandbytes stored in 4 bits come as the numbers they represent. Raises
    CheckpointError for a model without safetensors files; `setting` is the recipe's key for it.
    """

    def __init__(self, model: str, revision: str | None, setting: str) -> None:
        self.model, self._setting = model, setting
        self._files = _files(model, revision, setting)
        self._quantized: dict[str, list[str]] = {
            name.partition(STATE)[0]: [] for name in self._files if STATE in name
        }  # weights in 4 bits, with the names of what was stored with them
        for name in self._files:
            weight = name.partition(".weight.")[0] + ".weight"
            if weight != name and weight in self._quantized:
                self._quantized[weight].append(name)
        companions = {name for names in self._quantized.values() for name in names}
        self.names = self._files.keys() - companions

    def shape(self, name: str) -> "torch.Size":
        """Return the shape of a tensor that is not stored in 4 bits, without reading it."""
        import torch
        from safetensors import safe_open

        with safe_open(self._files[name], "pt") as file:
            return torch.Size(file.get_slice(name).get_shape())

    def read(self, name: str) -> "torch.Tensor":
        """Return one tensor in main memory, as stored or, of 4 bits, in the precision it was
        quantised from. Raises CheckpointError for weights stored as integers in another way."""
        if name in self._quantized:
            return self._dequantized(name)
        tensor = self._stored(name)
        if name.endswith(".weight") and not tensor.is_floating_point():
            raise CheckpointError(
                f"{self._setting}: {name} of {self.model} is stored as {tensor.dtype}, and only "
                f"bitsandbytes' 4-bit weights can be merged; name the model's 16-bit weights in "
                f"merging.base_16bit, or train on those"
            )
        return tensor

    def _stored(self, name: str) -> "torch.Tensor":
        from safetensors import safe_open

        with safe_open(self._files[name], "pt") as file:
            return file.get_tensor(name)

    def _dequantized(self, name: str) -> "torch.Tensor":
        import torch
        from bitsandbytes.functional import QuantState, dequantize_4bit

        companions = {
            part.removeprefix(f"{name}."): self._stored(part) for part in self._quantized[name]
        }
        state = QuantState.from_dict(companions, device=torch.device(device()))
        return dequantize_4bit(self._stored(name).to(device()), state).cpu()


def _files(model: str, revision: str | None, setting: str) -> dict[str, Path]:
    """Return where each tensor of a model is stored; what is on the Hub is downloaded."""
    from safetensors import safe_open

    if index := optional_file(model, INDEX, revision):
        files = require_file_names(json.loads(index.read_text()).get("weight_map"), model, setting)
        file_names = set(files.values())
        paths = {
            file: path for file in file_names if (path := optional_file(model, file, revision))
        }
        if lost := file_names - paths.keys():
            raise CheckpointError(f"{setting}: {model} lacks {min(lost)}, which its index names")
        return {name: paths[file] for name, file in files.items()}
    if single := optional_file(model, SINGLE, revision):
        with safe_open(single, "pt") as file:
            return dict.fromkeys(file.keys(), single)
    raise CheckpointError(
        f"{setting}: {model} has neither {SINGLE} nor {INDEX}; pickled weights (.bin) are not read: "
        f"load it with transformers, save it with save_pretrained, and name that folder"
    )


def in_4bit(weight: "torch.Tensor") -> "torch.Tensor":
    """Return what `weight` becomes when QLoRA loads it: quantised to NF4 and back, main memory.

    As `retune.models.nf4` has it done: from the precision computed in, blocks of 64, their scales
    quantised too.
    """
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    on_device = weight.to(device(), compute_dtype())
    quantized, state = quantize_4bit(on_device, quant_type="nf4", compress_statistics=True)
    return dequantize_4bit(quantized, state).cpu()


def write(
    folder: Path,
    shapes: Mapping[str, "torch.Size"],
    dtype: "torch.dtype",
    tensor: Callable[[str], "torch.Tensor"],
    max_bytes: int,
) -> dict[str, int]:
    """Write safetensors files of up to `max_bytes` bytes, and their index; return each tensor's checksum.

    `tensor` is called for one name of `shapes` after another; what it returns, in `dtype`, is let go
    of when its file is written, so that no more than one shard is in memory.
    """
    import torch
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    sizes = {name: torch.empty(shape, dtype=dtype, device="meta") for name, shape in shapes.items()}
    plan = split_torch_state_dict_into_shards(sizes, max_shard_size=max_bytes)
    sums: dict[str, int] = {}
    for file, names in plan.filename_to_tensors.items():
        shard = {name: tensor(name).contiguous() for name in names}
        save_file(shard, folder / file, metadata={"format": "pt"})
        sums |= {name: checksum(weight) for name, weight in shard.items()}
        del shard  # or it stays while the next one grows
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True))
    return sums


def checksum(tensor: "torch.Tensor") -> int:
    """Return a CRC-32 of a tensor's bytes."""
    import torch

    return zlib.crc32(tensor.flatten().view(torch.uint8).numpy().data)


def damaged(folder: Path, sums: Mapping[str, int]) -> list[str]:
    """Return the names of the tensors in `folder` that are not there or not as they were written."""
    stored = Checkpoint(str(folder), None, "merging")
    return sorted(
        name
        for name, expected in sums.items()
        if name not in stored.names or checksum(stored.read(name)) != expected
    )
