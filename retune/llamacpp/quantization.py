"""Quantize a GGUF."""

import logging
import re
from pathlib import Path

from retune.llamacpp.installation import locate
from retune.llamacpp.process import LlamaCppFailed, appearing_whole, existing, last_lines, run
from retune.recipe.methods import METHODS

logger = logging.getLogger(__name__)

FINAL_SIZE = re.compile(r"quant size += +([\d.]+) MiB")


def quantize(
    source: Path, out: Path, method: str, threads: int, imatrix: Path | None = None
) -> None:
    """Quantize the GGUF `source` (best bf16 or f32) by one of METHODS into `out`.

    `imatrix` is an importance matrix of `source`, which some methods need
    (see `retune.recipe.methods`). The bytes are the same for any number of threads. Raises
    ValueError for an unknown method, FileNotFoundError, NoSpaceLeft, or LlamaCppFailed.
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
        finished = run(command, writes_to=out.parent, cwd=imatrix and imatrix.parent)
    # Rows of a length that the method has no blocks for get a larger type; the file is sound.
    if fallback := re.search(r"(\d+) of (\d+) tensor\(s\) required fallback", finished.stderr):
        logger.warning("%s: %s of %s tensors needed another type", method, *fallback.groups())


def quantized_size(source: Path, method: str) -> int:
    """Return the bytes of weights that `source` would have by `method`; reads only its header.

    Raises as `quantize` does.
    """
    _require_known(method)
    existing(source, "the GGUF to quantize")
    finished = run([locate().program("llama-quantize"), "--dry-run", source, method.upper()])
    size = FINAL_SIZE.search(finished.stderr + finished.stdout)
    if not size:
        raise LlamaCppFailed(f"llama-quantize gave no size for {method}: {last_lines(finished)}")
    return round(float(size[1]) * 2**20)


def _require_known(method: str) -> None:
    if method not in METHODS:
        raise ValueError(
            f"unknown quantization method {method!r}: choose from {', '.join(METHODS)}"
        )
