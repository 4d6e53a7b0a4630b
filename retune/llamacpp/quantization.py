"""Quantize a GGUF."""

import logging
import re
from pathlib import Path

from retune.llamacpp.installation import locate
from retune.llamacpp.process import appearing_whole, existing, run

logger = logging.getLogger(__name__)

# What llama.cpp offers, less COPY (not a method) and what it refuses or ruins without an importance
# matrix (iq1_*, iq2_*, iq3_xxs, q2_k_s).
METHODS = (
    *("q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q3_k", "q4_k_s", "q4_k_m", "q4_k", "q5_k_s", "q5_k_m"),
    *("q5_k", "q6_k", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq3_xs", "iq3_s", "iq3_m"),
    *("iq4_nl", "iq4_xs", "tq1_0", "tq2_0", "mxfp4_moe", "q1_0", "q2_0", "f16", "bf16", "f32"),
)


def quantize(source: Path, out: Path, method: str, threads: int) -> None:
    """Quantize the GGUF `source` (best bf16 or f32) by one of METHODS into `out`.

    The bytes are the same for any number of threads. Raises ValueError for an unknown method,
    FileNotFoundError, NoSpaceLeft, or LlamaCppFailed.
    """
    if method not in METHODS:
        raise ValueError(
            f"unknown quantization method {method!r}: choose from {', '.join(METHODS)}"
        )
    existing(source, "the GGUF to quantize")
    quantizer = locate().program("llama-quantize")
    with appearing_whole(out) as partial:
        done = run([quantizer, source, partial, method.upper(), str(threads)], writes_to=out.parent)
    # Rows of a length that the method has no blocks for get a larger type; the file is sound.
    if fallback := re.search(r"(\d+) of (\d+) tensor\(s\) required fallback", done.stderr):
        logger.warning("%s: %s of %s tensors needed another type", method, *fallback.groups())
