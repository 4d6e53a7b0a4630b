"""Whether a model's 16-bit weights fit into the memory that they would be loaded into.

Known from sizes before anything is loaded, by `plan` as by the stage that chooses the weights.
"""

from retune.machine import free_device_memory, gpus
from retune.measures import format_memory

BYTES_PER_WEIGHT = {"GPU": 2, "CPU": 4}  # a CPU computes with them in 32 bits
# Beside the weights: what is computed for a row, and the adapter.
HEADROOM = 1.1


def misfit(parameters: int, free: int | None = None) -> str:
    """Return why the 16-bit weights of a model of so many `parameters` cannot be loaded, "" if they
    can. `free` are the bytes of memory for them, by default those of this machine's first GPU, or
    without one its main memory."""
    available = free_device_memory() if free is None else free
    needed = int(HEADROOM * BYTES_PER_WEIGHT["GPU" if gpus() else "CPU"] * parameters)
    if needed <= available:
        return ""
    return f"the 16-bit weights take {format_memory(needed)}, {format_memory(available)} are free"


def parameters_of(name: str, revision: str | None) -> int:
    """Return how many weights a model has, from its `config.json` alone."""
    import torch

    from retune.loaders import load_config, new_model

    config = load_config(name, revision)
    vars(config).pop("quantization_config", None)
    with torch.device("meta"):
        return sum(tensor.numel() for tensor in new_model(config, torch.float32).parameters())
