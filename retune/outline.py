"""The layers of a model, as it is in memory or as its `config.json` describes it.

For child processes and conform; imports torch and transformers where they are used.
"""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from retune.architecture import Architecture, Layer, leaf
from retune.loaders import load_config, new_model
from retune.storage import names_in_files

if TYPE_CHECKING:
    from transformers import PreTrainedModel

EXPERTS = re.compile(r"\bexperts\b")
# Where PEFT refuses it: kernels read these weights past their modules, and past an adapter.
MAMBA_TYPES = {"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"}
MAMBA_LAYERS = {"out_proj", "conv1d"}
OTHER_FORM = "files hold it in another form, which an adapter cannot be merged in"


def outline(base: str, revision: str | None) -> Architecture:
    """Return the layers of a model on the Hub or in a folder; only its `config.json` is read."""
    import torch

    config = load_config(base, revision)
    vars(config).pop("quantization_config", None)
    with torch.device("meta"):
        return architecture(new_model(config, torch.float32))


def architecture(model: "PreTrainedModel") -> Architecture:
    """Return the layers of a model in memory, in whatever precision."""
    from torch.nn import Embedding
    from torch.nn.modules.conv import _ConvNd

    modules = dict(model.named_modules())
    head, decoder = model.get_output_embeddings(), model.get_decoder()
    inside = next((path for path, module in modules.items() if module is decoder), "")
    taken = _taken_names(model)
    layers: list[Layer] = []
    others: list[str] = []
    for path, module in modules.items():
        if module is head:
            others.append(path)
        elif not path.startswith(inside):
            continue
        elif size := _linear_weights(module):
            layers.append(_linear(path, size, taken))
        elif isinstance(module, Embedding | _ConvNd):
            others.append(path)
        else:
            layers += _fused_experts(path, module)
    paths = {*(layer.path for layer in layers), *others}
    layers = list(_barred_in_other_form(model, layers))
    leaves = set(map(leaf, paths))
    elsewhere = [path for path in modules if path not in paths and leaf(path) in leaves]
    return Architecture(layers=tuple(layers), others=tuple(others), elsewhere=tuple(elsewhere))


def _barred_in_other_form(model: "PreTrainedModel", layers: list[Layer]) -> Iterator[Layer]:
    """Yield the layers; those that files hold joined, split or turned could not be merged there."""
    import torch

    linear = [layer for layer in layers if not layer.barred]
    empty = {f"{layer.path}.weight": torch.empty(4, 4, device="meta") for layer in linear}
    known = names_in_files(model, empty)
    for layer in layers:
        lost = not layer.barred and f"{layer.path}.weight" not in known
        yield layer.model_copy(update={"barred": OTHER_FORM}) if lost else layer


def _linear(path: str, size: int, taken: dict[str, str]) -> Layer:
    is_expert, barred = bool(EXPERTS.search(path)), taken.get(leaf(path), "")
    return Layer(path=path, weights=size, is_expert=is_expert, barred=barred)


def _linear_weights(module: Any) -> int:
    """Return how many weights a linear layer has, in 4 bits or not; 0 for another module."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, Linear):
        return module.in_features * module.out_features
    return module.weight.numel() if isinstance(module, Conv1D) else 0


def _fused_experts(path: str, module: Any) -> Iterator[Layer]:
    """Yield the matrices of all experts of a layer where they are one tensor."""
    if "expert" not in f"{path}.{type(module).__name__}".lower():
        return
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.dim() == 3:
            yield Layer(
                path=f"{path}.{name}",
                weights=parameter.numel(),
                is_expert=True,
                barred="the experts of a layer are one tensor, which gets no adapter",
            )


def _taken_names(model: Any) -> dict[str, str]:
    """Return the last parts of paths that PEFT keeps from getting an adapter, with the reason.

    Of mixtures that transformers 4 had as one layer per expert, it takes the names of those layers
    for the experts', wherever they stand: a dense layer's and a shared expert's, too.
    """
    kind = getattr(model.config, "model_type", "")
    taken = _names_of_experts(model, kind)
    if kind in MAMBA_TYPES:
        taken |= dict.fromkeys(MAMBA_LAYERS, "PEFT puts no adapter there")
    return taken


def _names_of_experts(model: Any, kind: str) -> dict[str, str]:
    settings = vars(model.config.get_text_config())
    if not any("expert" in name and not name.startswith("_") for name in settings):
        return {}  # PEFT takes a core 5 s to import
    from peft.utils import transformers_weight_conversion as peft

    pattern = peft._MODEL_TO_CONVERSION_PATTERN.get(kind, "")
    experts = peft._MOE_TARGET_MODULE_MAPPING.get(pattern, {})
    return dict.fromkeys(experts, "PEFT takes its name for that of the experts")
