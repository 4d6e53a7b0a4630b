"""Quantize a GGUF."""

import logging
import re
from pathlib import Path

from retune.llamacpp.installation import locate
from retune.llamacpp.process import LlamaCppFailed, appearing_whole, existing, last_lines, run

logger = logging.getLogger(__name__)

# What llama.cpp refuses to make without an importance matrix.
NEED_IMATRIX = (
    *("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq2_m", "iq3_xxs", "iq3_xs", "q2_k_s"),
)
# What llama.cpp offers, less COPY (not a method); the slowest first, in CPU time with an importance
# matrix: from 600 s for each billion weights (iq2_xs) over 90 (q4_k_m) to 6 (q8_0).
METHODS = (
    *(
        "iq2_xs",
        "iq2_s",
        "iq2_m",
        "iq1_m",
        "iq3_xs",
        "iq2_xxs",
        "iq3_xxs",
        "iq3_s",
        "iq3_m",
        "iq1_s",
    ),
    *("iq4_nl", "iq4_xs", "q5_k_s", "q4_k_s", "q5_k_m", "q5_k", "q4_k_m", "q4_k", "q2_k", "q2_k_s"),
    *("q4_1", "q5_1", "q3_k_l", "q3_k_m", "q3_k", "q3_k_s", "q6_k", "q4_0", "q5_0", "mxfp4_moe"),
    *("tq1_0", "tq2_0", "q1_0", "q2_0", "q8_0", "f32", "bf16", "f16"),
)
FINAL_SIZE = re.compile(r"quant size += +([\d.]+) MiB")


def quantize(
    source: Path, out: Path, method: str, threads: int, imatrix: Path | None = None
) -> None:
    """Quantize the GGUF `source` (best bf16 or f32) by one of METHODS into `out`.

    `imatrix` is an importance matrix of `source`; NEED_IMATRIX names the methods that cannot do
    without. The bytes are the same for any number of threads. Raises ValueError for an unknown
    method, FileNotFoundError, NoSpaceLeft, or LlamaCppFailed.
    """
    _require_known(method)
    existing(source, "the GGUF to quantize")
    options: list[str] = []
    if imatrix:
        # The name given is written into the file: no folder of this machine belongs there.
        options = ["--imatrix", existing(imatrix, "the importance matrix").name]
    quantizer = locate().program("llama-quantize")
    with appearing_whole(out) as partial:
        command: list[str | Path] = [quantizer, *options, source.absolute(), partial.absolute()]
        command += [method.upper(), str(threads)]
        done = run(command, writes_to=out.parent, cwd=imatrix and imatrix.parent)
    # Rows of a length that the method has no blocks for get a larger type; the file is sound.
    if fallback := re.search(r"(\d+) of (\d+) tensor\(s\) required fallback", done.stderr):
        logger.warning("%s: %s of %s tensors needed another type", method, *fallback.groups())


def quantized_size(source: Path, method: str) -> int:
    """Return the bytes of weights that `source` would have by `method`; reads only its header.

    Raises as `quantize` does.
    """
    _require_known(method)
    existing(source, "the GGUF to quantize")
    done = run([locate().program("llama-quantize"), "--dry-run", source, method.upper()])
    found = FINAL_SIZE.search(done.stderr + done.stdout)
    if not found:
        raise LlamaCppFailed(f"llama-quantize gave no size for {method}: {last_lines(done)}")
    return round(float(found[1]) * 2**20)


def _require_known(method: str) -> None:
    if method not in METHODS:
        raise ValueError(
            f"unknown quantization method {method!r}: choose from {', '.join(METHODS)}"
        )
