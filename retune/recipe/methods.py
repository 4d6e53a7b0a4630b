"""The quantization methods of llama.cpp: everything that names, sizes or orders one asks this table."""

from collections.abc import Iterable
from typing import NamedTuple


class Method(NamedTuple):
    """A quantization method.

    `bits` are the nominal ones per weight, `bits_per_weight` those of a whole file, in which
    embeddings and some layers are wider; `needs_imatrix` means that llama.cpp makes no file without
    an importance matrix.
    """

    name: str
    bits: int
    bits_per_weight: float
    needs_imatrix: bool = False


# What llama.cpp offers, less COPY (not a method). The most expensive first, in CPU time with an
# importance matrix: from 600 s for each billion weights (iq2_xs) over 90 (q4_k_m) to 6 (q8_0).
# Whole files: of an 8B Llama 3, as `llama-quantize --help` and llama.cpp's tools/quantize/README.md
# state them; of methods that these give for a block only, that and half a bit.
_EVERY = (
    Method("iq2_xs", 2, 2.59, needs_imatrix=True),
    Method("iq2_s", 2, 2.74, needs_imatrix=True),
    Method("iq2_m", 2, 2.93, needs_imatrix=True),
    Method("iq1_m", 1, 2.15, needs_imatrix=True),
    Method("iq3_xs", 3, 3.50, needs_imatrix=True),
    Method("iq2_xxs", 2, 2.38, needs_imatrix=True),
    Method("iq3_xxs", 3, 3.25, needs_imatrix=True),
    Method("iq3_s", 3, 3.66),
    Method("iq3_m", 3, 3.76),
    Method("iq1_s", 1, 2.00, needs_imatrix=True),
    Method("iq4_nl", 4, 4.68),
    Method("iq4_xs", 4, 4.46),
    Method("q5_k_s", 5, 5.57),
    Method("q4_k_s", 4, 4.67),
    Method("q5_k_m", 5, 5.70),
    Method("q5_k", 5, 5.70),
    Method("q4_k_m", 4, 4.90),
    Method("q4_k", 4, 4.90),
    Method("q2_k", 2, 3.17),
    Method("q2_k_s", 2, 2.97, needs_imatrix=True),
    Method("q4_1", 4, 5.11),
    Method("q5_1", 5, 6.04),
    Method("q3_k_l", 3, 4.31),
    Method("q3_k_m", 3, 4.00),
    Method("q3_k", 3, 4.00),
    Method("q3_k_s", 3, 3.65),
    Method("q6_k", 6, 6.57),
    Method("q4_0", 4, 4.64),
    Method("q5_0", 5, 5.57),
    Method("mxfp4_moe", 4, 4.75),
    Method("tq1_0", 1, 2.19),
    Method("tq2_0", 2, 2.56),
    Method("q1_0", 1, 1.63),
    Method("q2_0", 2, 2.75),
    Method("q8_0", 8, 8.51),
    Method("f32", 32, 32.0),
    Method("bf16", 16, 16.0),
    Method("f16", 16, 16.0),
)
METHODS = {method.name: method for method in _EVERY}

DEFAULT = ("q2_k", "q3_k_m", "q4_k_m", "q5_k_m", "q6_k", "q8_0")  # of a recipe
RECOMMENDED = (
    "q4_k_m"  # to who wants one file: a third of the size at 3 % more perplexity, Llama 3 8B
)
SOURCE = "bf16"  # of the GGUF that quants are made of; f16 would change weights of bf16


def by_cost(names: Iterable[str]) -> list[str]:
    """Return methods by the time that they take, the longest first."""
    return sorted(names, key=list(METHODS).index)
