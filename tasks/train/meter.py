"""What training uses: GPU readings, energy, hours, and the share of the machine's peak (MFU).

Readings come from NVML, for the GPUs that are visible to this process; there are none on a CPU.
"""

import json
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from retune.files import write_whole
from retune.loaders import head_size
from retune.models import compute_dtype, device
from tasks.train.distributed import spans_hosts

CEILING_SIZE = {"cuda": 8192, "cpu": 1024}


class Usage:
    """Time and energy of a training over all its processes, killed ones included.

    Kept in a JSON file, one record per process: `seconds`, `gpus`, and `kwh` (None where the
    driver does not count it).
    """

    def __init__(self, file: Path, gpus: int) -> None:
        self._file = file
        self._before: list[dict[str, Any]] = []
        with suppress(FileNotFoundError, ValueError):
            self._before = json.loads(file.read_text())
        self._gpus, self._start = gpus, time.monotonic()
        self._joules = energy()

    def record(self) -> None:
        """Write to the file what was used until now."""
        write_whole(self._file, json.dumps([*self._before, self._now()]))

    def _now(self) -> dict[str, Any]:
        before, joules = self._joules, energy()
        return {
            "seconds": time.monotonic() - self._start,
            "gpus": self._gpus,
            # Of the GPUs of other hosts nothing is read here.
            "kwh": None
            if before is None or joules is None or spans_hosts()
            else (joules - before) / 3.6e6,
        }

    def gpu_hours(self) -> float:
        """Return hours × GPUs; a machine without a GPU counts as one."""
        # Asked after each step, it does not read the energy: the driver takes 16 ms for that (H200).
        now = {"seconds": time.monotonic() - self._start, "gpus": self._gpus}
        records = [*self._before, now]
        return sum(record["seconds"] * max(1, record["gpus"]) for record in records) / 3600

    def totals(self, price_per_hour: float | None) -> dict[str, float]:
        """Return `gpu_hours`, and `energy_kwh` and `cost` where they are known."""
        records = [*self._before, self._now()]
        totals = {"gpu_hours": self.gpu_hours()}
        if all(record["kwh"] is not None for record in records):
            totals["energy_kwh"] = sum(record["kwh"] for record in records)
        if price_per_hour is not None:
            totals["cost"] = totals["gpu_hours"] * price_per_hour
        return totals


@cache
def _handles() -> list[Any]:
    import torch

    if device() == "cpu":
        return []
    try:
        import pynvml

        pynvml.nvmlInit()
        uuids = [torch.cuda.get_device_properties(n).uuid for n in range(torch.cuda.device_count())]
        return [pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}") for uuid in uuids]
    except Exception:  # no NVML on this machine: training goes on without readings
        return []


def energy() -> float | None:
    """Return the joules that the visible GPUs have used since their driver started."""
    handles = _handles()
    if not handles:
        return None
    import pynvml

    with suppress(pynvml.NVMLError):  # older cards do not count it
        return sum(map(pynvml.nvmlDeviceGetTotalEnergyConsumption, handles)) / 1000
    return None


def readings() -> dict[str, float]:
    """Return the GPUs' state by metric name: means, but watts and GiB are sums."""
    handles = _handles()
    if not handles:
        return {}
    import pynvml

    values: dict[str, float] = {}
    with suppress(pynvml.NVMLError):
        utilisation = [pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu for gpu in handles]
        temperatures = [pynvml.nvmlDeviceGetTemperature(gpu, 0) for gpu in handles]
        values["gpu/utilisation_percent"] = sum(utilisation) / len(utilisation)
        values["gpu/temperature_celsius"] = sum(temperatures) / len(temperatures)
        values["gpu/memory_gib"] = (
            sum(pynvml.nvmlDeviceGetMemoryInfo(gpu).used for gpu in handles) / 2**30
        )
        values["gpu/power_watts"] = sum(map(pynvml.nvmlDeviceGetPowerUsage, handles)) / 1000
    return values


def matmul_ceiling() -> float:
    """Return the FLOP/s of a large matrix product here, in the precision that is trained in."""
    import torch

    kind = device()
    size = CEILING_SIZE[kind]
    matrix = torch.randn(size, size, device=kind, dtype=compute_dtype())
    times = []
    for _ in range(8):
        start = time.perf_counter()
        matrix @ matrix
        if kind == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 2 * size**3 / sorted(times)[len(times) // 2]


def flops_per_token(model: Any, square_tokens: float) -> float:
    """Return the floating-point operations that training on one token needs, recomputation left
    out: 2 per weight forward, 2 backward for the activations, 2 more if the weight is trained,
    and attention's, for a mean conversation of `square_tokens` (Chowdhery et al. 2022, PaLM,
    appendix B, halved for the causal mask).
    """
    import torch

    total = 0.0
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            weights = module.in_features * module.out_features  # stored size differs in 4 bits
            total += weights * (6 if module.weight.requires_grad else 4)
    config = model.config.get_text_config()
    routed = getattr(config, "num_experts_per_tok", None) or 0
    for name, parameter in model.named_parameters():
        if "expert" in name and parameter.dim() == 3:  # all experts', of which a token meets few
            each = parameter.numel() // len(parameter)
            total += routed * each * (6 if parameter.requires_grad else 4)
    width = config.num_attention_heads * head_size(config)
    return total + 6 * config.num_hidden_layers * width * square_tokens


def peak_memory_gib() -> float:
    """Return this process's peak memory in GiB: the GPU's, or main memory without a GPU."""
    import resource

    import torch

    if device() == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
