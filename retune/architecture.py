"""Which layers of a model get an adapter: what a recipe names, or all that can have one.

One answer for conform, which sees a model without weights, and for every backend that trains.
"""

import re
from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict

AUTO = "auto"
# A bare one of these stands for all experts where Unsloth finds any.
UNSLOTH_EXPERTS = {"gate_proj", "up_proj", "down_proj", "gate_up_proj", "w1", "w2", "w3"}
Names = Literal["auto"] | tuple[str, ...]


class Layer(BaseModel):
    """A matrix of the decoder, or those of all experts of a layer; `weights` is how many it has.

    `barred` says why it gets no adapter, if it gets none; of experts that are layers of their own
    only those that are named do.
    """

    model_config = ConfigDict(frozen=True)

    path: str
    weights: int
    is_expert: bool = False
    barred: str = ""

    @property
    def kind(self) -> str:
        """The path without the numbers of layers: `self_attn.q_proj`."""
        return re.split(r"\.\d+\.", self.path)[-1]


class Architecture(BaseModel):
    """The decoder's layers in their order. `others` may be named as well: convolutions, embeddings
    and the output head; `elsewhere` are further modules whose paths end as a layer's: in a vision
    tower, say."""

    layers: tuple[Layer, ...]
    others: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()

    def all_linear(self) -> tuple[Layer, ...]:
        """Return what `auto` trains."""
        return tuple(layer for layer in self.layers if not layer.barred and not layer.is_expert)

    def selected(self, names: Names) -> tuple[Layer, ...]:
        """Return the layers that get an adapter."""
        if names == AUTO:
            return self.all_linear()
        return tuple(
            layer for layer in self.layers if not layer.barred and _is_named(layer.path, names)
        )

    def untrained(self, names: Names) -> tuple[Layer, ...]:
        """Return the decoder's layers that get none."""
        chosen = set(self.selected(names))
        return tuple(layer for layer in self.layers if layer not in chosen)

    def share(self, names: Names) -> float:
        """Return the share of what `auto` trains that `names` do, by weights."""
        return weights(set(self.all_linear()) & set(self.selected(names))) / (
            weights(self.all_linear()) or 1
        )

    def unknown(self, names: Names) -> tuple[str, ...]:
        """Return the names of nothing that an adapter can be put on."""
        if names == AUTO:
            return ()
        known = [*(layer.path for layer in self.layers if not layer.barred), *self.others]
        return tuple(name for name in names if not any(_is_named(path, [name]) for path in known))

    def modules(self, names: Names) -> list[str]:
        """Return `target_modules` for PEFT, which takes every module whose path ends with a name.

        The last part of a path stands for all modules that end with it, where all of them are meant.
        """
        chosen = {layer.path for layer in self.selected(names)}
        if names != AUTO:
            chosen |= {path for path in self.others if _is_named(path, names)}
        every = {layer.path for layer in self.layers} | set(self.others) | set(self.elsewhere)
        ambiguous = {leaf(path) for path in every - chosen}
        if any(layer.is_expert for layer in self.layers):
            ambiguous |= UNSLOTH_EXPERTS
        return sorted({path if leaf(path) in ambiguous else leaf(path) for path in chosen})


def weights(layers: Iterable[Layer]) -> int:
    return sum(layer.weights for layer in layers)


def kinds(layers: Iterable[Layer]) -> list[str]:
    """Return the kinds of the layers, each once, in their order."""
    return list(dict.fromkeys(layer.kind for layer in layers))


def leaf(path: str) -> str:
    """Return the last part of a path."""
    return path.rpartition(".")[2]


def _is_named(path: str, names: Iterable[str]) -> bool:
    return any(path == name or path.endswith(f".{name}") for name in names)
