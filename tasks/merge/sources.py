"""What a merged checkpoint is made of: an adapter on a base that stays on disk, or a full fine-tune.

For child processes; imports torch where it is used.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from retune.embeddings import fit_embeddings
from retune.loaders import load_config, new_model
from retune.models import is_adapter, with_adapter
from retune.original import Original
from retune.recipe import Model
from retune.storage import as_saved, names_in_files
from tasks.merge.checkpoint import Checkpoint, CheckpointError, in_4bit

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class Base(Original):
    """The weights that are merged onto, as `merging.onto` calls them.

    `rounded` are the modules whose weights become what QLoRA's 4-bit ones represent.
    """

    weights: Literal["16bit", "dequantized"] = "16bit"
    rounded: tuple[str, ...] = ()


class Source(Protocol):
    """Tensors of the merged model by their names; `config` is the model's, and goes with them."""

    config: Any
    shapes: "dict[str, torch.Size]"

    def read(self, name: str) -> "tuple[torch.Tensor | None, torch.Tensor]":
        """Return the base's tensor, None if nothing was trained in it, and the merged model's; both
        in main memory."""


def open_source(
    trained: Path, base: Base, model: Model, revision: str | None, tokenizer: Path
) -> Source:
    """Return what train wrote to `trained`, an adapter or a whole checkpoint, over `base`.

    `model` at `revision` is what was trained on. Raises AdapterMismatch, CheckpointError.
    """
    if is_adapter(trained):
        return AdaptedBase(trained, base, model, revision, tokenizer)
    return FullFineTune(trained, base)


class FullFineTune:
    """A whole checkpoint that was trained, with the base that it was trained from."""

    def __init__(self, trained: Path, base: Base) -> None:
        self._trained = Checkpoint(str(trained), None, "training.method")
        self._base = Checkpoint(base.name, base.revision, base.setting)
        self.config = load_config(trained)
        self.shapes = {name: self._trained.shape(name) for name in self._trained.names}

    def read(self, name: str) -> "tuple[torch.Tensor | None, torch.Tensor]":
        before = self._base.read(name) if name in self._base.names else None
        return before, self._trained.read(name)


class AdaptedBase:
    """An adapter on a base of which no weight is in memory; PEFT merges one layer at a time.

    PEFT's own arithmetic does it, in 32 bits, whatever it is: LoRA, rsLoRA, DoRA, trained biases,
    `modules_to_save`, trained embedding rows. A tied output embedding is written by itself, and the
    tie cut, if training made it another matrix than the input embedding. Tensors have the names that
    they have in the base's files; those that the model holds in another form, a mixture's experts,
    are copied. Raises AdapterMismatch, CheckpointError.
    """

    def __init__(
        self, adapter: Path, base: Base, model: Model, revision: str | None, tokenizer: Path
    ) -> None:
        import torch

        self._base = Checkpoint(base.name, base.revision, base.setting)
        self._rounded = set(base.rounded)
        self.config = load_config(base.name, base.revision)
        vars(self.config).pop("quantization_config", None)
        with torch.device("meta"):
            plain = new_model(deepcopy(self.config), torch.float32)
        # Else what the base says, by which llama.cpp's converter would choose what to do.
        self.config.architectures = [type(plain).__name__]
        fit_embeddings(plain, model, revision, tokenizer)
        vocabulary = plain.config.get_text_config().vocab_size
        self.config.get_text_config().vocab_size = vocabulary
        self._own_shapes = {name: tensor.shape for name, tensor in plain.state_dict().items()}
        self._tied = dict(plain.all_tied_weights_keys)
        self._files = Layout.of(plain, self._base, self._tied, base.setting)
        self.shapes = self._files.copied | {
            file: self._own_shapes[name] for name, file in self._files.names.items()
        }
        self._own_names = {file: name for name, file in self._files.names.items()}
        _hollow(plain)
        # PEFT holds the adapter where the base is; with low_cpu_mem_usage it does not fill it first.
        tuned = with_adapter(plain, adapter, low_cpu_mem_usage=True, torch_device="cpu")
        self._wrappers = _wrappers(tuned.get_base_model())
        self._brought = {
            name: parameter
            for name, parameter in tuned.get_base_model().named_parameters()
            if name in self._own_shapes and not _is_hollow(parameter)
        }
        self._require_untrained(self._own_shapes.keys() - self._files.names.keys())
        self._untie()

    def read(self, name: str) -> "tuple[torch.Tensor | None, torch.Tensor]":
        if name in self._files.copied:
            return None, self._base.read(name)
        return self._merged(self._own_names[name])

    def _merged(self, name: str) -> "tuple[torch.Tensor | None, torch.Tensor]":
        before = self._stored(name)
        if name in self._brought:
            return before, self._brought[name].data
        path = self._wrapper(name)
        if path is None:
            return None, before
        with self._filled(path, {name: before}):
            merged = _unwrapped(self._wrappers[path], merge=True)
            return before, merged.get_parameter(name.removeprefix(f"{path}.")).data

    def _stored(self, name: str) -> "torch.Tensor":
        """Return the base's tensor, rounded as in training and grown to the model's shape."""
        from torch.nn.functional import pad

        file = self._files.names[name]
        tensor = self._base.read(
            file if file in self._base.names else self._files.names[self._tied[name]]
        )
        if name.removesuffix(".weight") in self._rounded:
            tensor = in_4bit(tensor)
        # The rows that were added are all trained, so the adapter brings them.
        grown = self._own_shapes[name][0] - len(tensor) if tensor.dim() == 2 else 0
        return pad(tensor, (0, 0, 0, grown)) if grown else tensor

    def _require_untrained(self, names: Iterable[str]) -> None:
        """Raise CheckpointError if something was trained in a tensor that is only copied."""
        trained = [name for name in names if name in self._brought or self._wrapper(name)]
        if trained:
            raise CheckpointError(
                f"training.target_modules: the adapter changes {min(trained)}, which the files of "
                f"{self._base.model} hold in another form than it was trained in; set "
                f"training.target_modules=auto, or merging.save_method=lora"
            )

    def _wrapper(self, name: str) -> str | None:
        """Return the path of the module in which PEFT holds what it trained of `name`."""
        path = name
        while path:
            path = path.rpartition(".")[0]
            if path in self._wrappers:
                return path
        return None

    @contextmanager
    def _filled(self, path: str, weights: "dict[str, torch.Tensor]") -> Iterator[None]:
        """Give a wrapped layer copies of the base's weights for a while, in 32 bits."""
        import torch
        from peft.tuners.tuners_utils import BaseTunerLayer

        wrapper = self._wrappers[path]
        parameters = dict(_unwrapped(wrapper, merge=False).named_parameters())
        originals = {leaf: parameter.data for leaf, parameter in parameters.items()}
        for leaf, parameter in parameters.items():
            name, data = f"{path}.{leaf}", originals[leaf]
            if _is_hollow(data):  # else the adapter brought it
                data = weights[name] if name in weights else self._stored(name)
            parameter.data = data.to(torch.float32, copy=True)
        try:
            yield
        finally:  # as before, since it may be asked for again
            for leaf, parameter in parameters.items():
                parameter.data = originals[leaf]
            for module in wrapper.modules():
                if isinstance(module, BaseTunerLayer):
                    module.merged_adapters.clear()

    def _untie(self) -> None:
        """Keep of tied tensors only the first, unless training made them different."""
        import torch

        for name, first in self._tied.items():
            if torch.equal(self._merged(name)[1], self._merged(first)[1]):
                del self.shapes[self._files.names[name]]
            else:
                self.config.tie_word_embeddings = False


@dataclass(frozen=True)
class Layout:
    """Where a base's files have the tensors of its model: `names` in the files by the model's, and
    the `copied` tensors, in files alone, with their shapes."""

    names: dict[str, str]
    copied: "dict[str, torch.Size]"

    @classmethod
    def of(
        cls, model: "PreTrainedModel", base: Checkpoint, tied: Mapping[str, str], setting: str
    ) -> "Layout":
        """Raises CheckpointError if the files name their tensors in another way than transformers."""
        tensors = model.state_dict()
        names = {name: name for name in tensors if name in base.names}
        others = {name: tensor for name, tensor in tensors.items() if name not in names}
        renamed = names_in_files(model, others)
        for name in others.keys() & tied.keys():  # as its twin is called
            names[name] = name if names.get(tied[name]) == tied[name] else renamed.get(name, name)
        names |= {name: file for name, file in renamed.items() if file in base.names}
        rest = {name: tensor for name, tensor in others.items() if name not in names}
        copied = {name: tensor.shape for name, tensor in as_saved(model, rest).items()}
        if lost := copied.keys() - base.names:
            raise CheckpointError(
                f"{setting}: the files of {base.model} hold no tensor {min(lost)} ({len(lost)} of "
                f"{len(names) + len(copied)} are missing), which transformers has in this model; save it "
                f"again with transformers' save_pretrained and name that folder"
            )
        return cls(names, copied)


def _hollow(model: Any) -> None:
    """Replace a model's weights by ones of the same shape in main memory that take no space."""
    import torch

    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                empty = torch.nn.Parameter(_nothing(parameter), requires_grad=False)
                module._parameters[name] = empty


def _nothing(like: "torch.Tensor") -> "torch.Tensor":
    import torch

    return torch.zeros((), dtype=like.dtype).expand(like.shape)


def _is_hollow(parameter: "torch.Tensor") -> bool:
    return parameter.untyped_storage().nbytes() < parameter.nbytes


def _wrappers(model: Any) -> dict[str, Any]:
    """Return PEFT's layers around the model's own, by the path of the latter."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    return {path: module for path, module in model.named_modules() if isinstance(module, kinds)}


def _unwrapped(wrapper: Any, merge: bool) -> Any:
    """Return the layer inside PEFT's, with the adapter merged in if `merge`."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    if not isinstance(wrapper, BaseTunerLayer):
        return wrapper.unload_and_optionally_merge_module(
            merge, safe_merge=False, adapter_names=None
        )
    if merge:
        wrapper.merge()
    return wrapper.get_base_layer()
