"""Which type each tensor of a dense model gets by a quantization method.

A method is named after the type of most matrices; some that harm more get a larger one. The rules
are those of `llama_tensor_get_type` in llama.cpp's `src/llama-quant.cpp` (b10605), less what is for
models with experts and for single architectures.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from gguf import GGML_QUANT_SIZES, LlamaFileType
from gguf import GGMLQuantizationType as T

UNPACKED = (T.F32, T.F16, T.BF16)
ALIASES = {"q3_k": "q3_k_m", "q4_k": "q4_k_m", "q5_k": "q5_k_m"}
# The type of most matrices, where it is not what the method is called.
BASES = {
    "iq2_s": T.IQ2_XS,
    "iq2_m": T.IQ2_S,
    "iq3_xs": T.IQ3_S,
    "iq3_m": T.IQ3_S,
    # Experts would get MXFP4.
    "mxfp4_moe": T.Q8_0,
}
TINY = ("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs")
SMALL = ("iq2_s", "iq2_m")
# For rows that are no multiple of the type's block of 256 weights.
FALLBACKS = {
    **dict.fromkeys((T.IQ1_S, T.IQ1_M, T.IQ2_XXS, T.IQ2_XS, T.IQ2_S), T.IQ4_NL),
    **dict.fromkeys((T.IQ3_XXS, T.IQ3_S, T.IQ4_XS), T.IQ4_NL),
    **dict.fromkeys((T.Q2_K, T.Q3_K, T.TQ1_0, T.TQ2_0), T.Q4_0),
    **{T.Q4_K: T.Q5_0, T.Q5_K: T.Q5_1, T.Q6_K: T.Q8_0},
}
KINDS = {
    # Matched anywhere in the name, in this order, as llama.cpp does.
    "attn_qkv.weight": "attn_v",
    "attn_v.weight": "attn_v",
    "attn_k.weight": "attn_k",
    "attn_q.weight": "attn_q",
    "attn_output.weight": "attn_output",
    "ffn_up": "ffn_up",
    "ffn_gate": "ffn_up",  # the same rules
    "ffn_down": "ffn_down",
}


@dataclass(frozen=True)
class Shape:
    """What the rules ask of a model; `group` is the number of query heads per key head.

    `tied` embeddings are the output matrix, too; `importance` says if an importance matrix is given.
    """

    architecture: str
    layers: int
    group: int
    tied: bool
    importance: bool

    @property
    def seventy_billion(self) -> bool:
        """Whether llama.cpp takes it for a 70B model."""
        shared = self.architecture == "llama" and self.group > 1
        return self.layers == 80 and (shared or self.architecture == "qwen2")


@dataclass(frozen=True)
class Place:
    """Where a matrix stands in a model: `index` among the `count` of its kind."""

    shape: Shape
    index: int
    count: int

    @property
    def early(self) -> bool:
        return self.index < self.count // 8

    @property
    def late(self) -> bool:
        return self.index >= 7 * self.count // 8

    @property
    def favoured(self) -> bool:
        """In the first or last eighth, or each third between."""
        return self.early or self.late or (self.index - self.count // 8) % 3 == 2


Rule = Callable[[Place], T | None]


def _always(type_: T) -> Rule:
    return lambda place: type_


def _if_early(type_: T) -> Rule:
    return lambda place: type_ if place.early else None


def _if_favoured(type_: T) -> Rule:
    return lambda place: type_ if place.favoured else None


def _if_shared(type_: T, otherwise: T | None = None) -> Rule:
    """For keys and values that four or more heads share: small matrices that matter much."""
    return lambda place: type_ if place.shape.group >= 4 else otherwise


def _early_if_blind(type_: T, otherwise: T | None = None) -> Rule:
    """For use without an importance matrix."""
    return lambda place: None if place.shape.importance else type_ if place.early else otherwise


def _early_if_seen(type_: T) -> Rule:
    return lambda place: type_ if place.shape.importance and place.early else None


# By kind of matrix and method; None or no rule: the method's own type.
RULES: dict[str, dict[str, Rule]] = {
    "output": {
        **dict.fromkeys((*TINY, *SMALL, "iq3_xxs"), _always(T.Q5_K)),
        **dict.fromkeys(("q8_0", "mxfp4_moe"), _always(T.Q8_0)),
    },
    "token_embd": {
        **dict.fromkeys(TINY, _always(T.Q2_K)),
        **dict.fromkeys((*SMALL, "iq3_xxs"), _always(T.IQ3_S)),
        **dict.fromkeys(("tq1_0", "tq2_0"), _always(T.Q4_K)),
    },
    "attn_v": {
        **dict.fromkeys(TINY, _if_shared(T.Q4_K, T.Q2_K)),
        **dict.fromkeys(SMALL, _if_shared(T.Q4_K, T.IQ3_S)),
        "q2_k": _if_shared(T.Q4_K, T.Q3_K),
        **dict.fromkeys(("q2_k_s", "iq3_xs", "iq3_s"), _if_shared(T.Q4_K)),
        "iq3_xxs": lambda place: (
            T.Q4_K if place.shape.group >= 4 else None if place.shape.importance else T.IQ3_S
        ),
        "iq3_m": _always(T.Q4_K),
        "q3_k_m": lambda place: T.Q5_K if place.index < 2 else T.Q4_K,
        "q3_k_l": _always(T.Q5_K),
        **dict.fromkeys(("iq4_nl", "iq4_xs"), _if_shared(T.Q5_K)),
        "q4_k_s": lambda place: T.Q5_K if place.index < 4 else None,
        **dict.fromkeys(("q4_k_m", "q5_k_m"), _if_favoured(T.Q6_K)),
    },
    "attn_k": {"iq3_xs": _always(T.IQ3_XXS), "iq3_xxs": _always(T.IQ2_S)},
    "attn_q": {"iq3_xs": _always(T.IQ3_XXS), "iq3_xxs": _always(T.IQ2_S)},
    "attn_output": {
        **dict.fromkeys(("iq1_s", "iq1_m"), _always(T.IQ2_XXS)),
        **dict.fromkeys((*SMALL, "iq3_xxs"), _always(T.IQ3_S)),
        "q2_k": _always(T.Q3_K),
        **dict.fromkeys(("q3_k_m", "iq3_m"), _always(T.Q4_K)),
        "q3_k_l": _always(T.Q5_K),
    },
    "ffn_down": {
        **dict.fromkeys(TINY, _if_early(T.Q2_K)),
        **dict.fromkeys(SMALL, _if_early(T.IQ3_S)),
        "q2_k": _always(T.Q3_K),
        **dict.fromkeys(("q2_k_s", "iq3_m"), _if_early(T.Q4_K)),
        "iq3_xxs": _early_if_blind(T.Q4_K, T.Q3_K),
        "q3_k_m": lambda place: T.Q5_K if place.index < place.count // 16 else T.Q4_K,
        "q3_k_l": _always(T.Q5_K),
        **dict.fromkeys(("iq4_nl", "iq4_xs"), _early_if_blind(T.Q5_K)),
        "q4_k_s": _if_early(T.Q5_K),
        **dict.fromkeys(("q4_k_m", "q5_k_m"), _if_favoured(T.Q6_K)),
        "q4_0": _early_if_seen(T.Q4_1),
        "q5_0": _early_if_seen(T.Q5_1),
    },
    "ffn_up": {
        "iq3_xs": lambda place: None if place.early or place.late else T.IQ3_XXS,
    },
}


@dataclass(frozen=True)
class Target:
    """What a tensor becomes; `fell_back` if its rows don't fit the type that the method wants."""

    type: T
    fell_back: bool = False


def base_type(method: str) -> T:
    """Return the type that `method` gives to most matrices; raises KeyError if it is unknown."""
    return BASES.get(method) or T[re.sub("_k_[sml]$", "_k", method).upper()]


def file_type(method: str) -> LlamaFileType:
    """Return the number that stands for `method` in a GGUF; raises KeyError if it is unknown."""
    name = ALIASES.get(method, method).upper()
    return LlamaFileType.ALL_F32 if name == "F32" else LlamaFileType[f"MOSTLY_{name}"]


def is_quantized(name: str, dimensions: int) -> bool:
    """Return whether methods apply to the tensor `name`: to matrices, if not of norms."""
    return dimensions >= 2 and name.endswith("weight") and not name.endswith("_norm.weight")


def kind_of(name: str, tied: bool) -> str:
    """Return under which key of RULES to look for the tensor `name`."""
    if name == "output.weight" or (tied and name == "token_embd.weight"):
        return "output"
    if name == "token_embd.weight":
        return "token_embd"
    return next((kind for part, kind in KINDS.items() if part in name), "other")


def target(method: str, kind: str, place: Place, columns: int) -> Target:
    """Return what a matrix of some `kind` with rows of `columns` weights becomes.

    Raises ValueError if llama.cpp has no type for such rows.
    """
    method = ALIASES.get(method, method)
    base = base_type(method)
    if base in UNPACKED:
        return Target(base)
    if kind == "output" and columns % block(base):
        return fitting(T.Q8_0, columns)
    rule = RULES.get(kind, {}).get(method)
    wanted = (rule(place) if rule else None) or (T.Q6_K if kind == "output" else base)
    # In the 70B models eight heads share a matrix: a larger type costs next to nothing.
    if kind == "attn_v" and place.shape.seventy_billion and method not in (*TINY, *SMALL):
        wanted = T.Q5_K if wanted in (T.Q3_K, T.Q4_K) else wanted
    return fitting(wanted, columns)


def fitting(wanted: T, columns: int) -> Target:
    """Return `wanted`, or the type that llama.cpp takes where rows of `columns` don't fit it."""
    if columns % block(wanted) == 0:
        return Target(wanted)
    if wanted not in FALLBACKS:
        raise ValueError(f"llama.cpp has no type in place of {wanted.name} for rows of {columns}")
    other = FALLBACKS[wanted]
    return Target(T.F16 if columns % block(other) else other, fell_back=True)


def block(type_: T) -> int:
    """Return how many weights of a row are packed together."""
    return GGML_QUANT_SIZES[type_][0]
