"""Stand-in for `llama-quantize`, run as a script: the same tensors, by the wheel's kernels."""

import argparse
import math
import re
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf import (
    GGML_QUANT_SIZES,
    GGML_QUANT_VERSION,
    GGUFReader,
    GGUFValueType,
    GGUFWriter,
    ReaderTensor,
    dequantize,
)
from gguf import GGMLQuantizationType as T

from retune.llamacpp.prebuilt import DENSE, mixtures
from retune.llamacpp.prebuilt.importance import Importance
from retune.llamacpp.prebuilt.library import Refused, library

CHUNK = 2**20  # weights that a thread packs at a time
# Unless of embeddings or the output matrix.
NEED_IMPORTANCE = (T.IQ3_XXS, T.IQ2_XXS, T.IQ2_XS, T.IQ2_S, T.IQ1_M, T.IQ1_S)
OVERWRITTEN = ("general.architecture", "general.quantization_version", "general.file_type")


@dataclass(frozen=True)
class Planned:
    """A tensor of the source, the type it gets, and its columns' importance if that is known."""

    tensor: ReaderTensor
    target: mixtures.Target
    importance: np.ndarray | None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(size) for size in reversed(self.tensor.shape))

    @property
    def size(self) -> int:
        """Bytes of the packed tensor."""
        weights, size = GGML_QUANT_SIZES[self.target.type]
        return math.prod(self.shape) // weights * size


def plan(reader: GGUFReader, method: str, importance: Importance | None) -> list[Planned]:
    """Return every tensor of the new file in the order in which llama.cpp writes them.

    Raises Refused.
    """
    shape = shape_of(reader, importance is not None)
    tensors = sorted(reader.tensors, key=lambda tensor: (layer_of(tensor.name), tensor.name))
    kinds = {tensor.name: mixtures.kind_of(tensor.name, shape.tied) for tensor in tensors}
    heads, seen = Counter(kinds.values())["attn_v"], Counter[str]()
    planned = []
    for tensor in tensors:
        kind = kinds[tensor.name]
        group = (kind, "ffn_gate" in tensor.name)  # gates and ups have the same rules, not counts
        place = mixtures.Place(shape, seen[group], heads if kind == "attn_v" else shape.layers)
        seen[group] += 1
        target = mixtures.Target(tensor.tensor_type)
        if mixtures.is_quantized(tensor.name, len(tensor.shape)):
            target = mixtures.target(method, kind, place, int(tensor.shape[0]))
        row = row_for(tensor, importance) if target.type != tensor.tensor_type else None
        planned.append(Planned(tensor, target, row))
    return planned


def shape_of(reader: GGUFReader, importance: bool) -> mixtures.Shape:
    """Read what the rules ask of a model; raises Refused for one that they are not for."""

    def setting(name: str, default: Any = None) -> Any:
        field = reader.fields.get(f"{architecture}.{name}")
        return field.contents() if field else default

    architecture = reader.fields["general.architecture"].contents()
    heads = setting("attention.head_count")
    key_heads = setting("attention.head_count_kv", heads)
    if architecture not in DENSE or setting("expert_count") or not isinstance(heads, int):
        raise Refused(
            f"without llama.cpp's own quantizer a model of the architecture {architecture!r}"
            f" {'with experts ' if setting('expert_count') else ''}can't be quantized, only dense"
            f" ones of {', '.join(DENSE)}: install a C++ compiler and run `make llamacpp`"
        )
    return mixtures.Shape(
        architecture=architecture,
        layers=setting("block_count"),
        group=heads // key_heads,
        tied=all(tensor.name != "output.weight" for tensor in reader.tensors),
        importance=importance,
    )


def layer_of(name: str) -> int:
    """Return the layer that a tensor belongs to by its name, or -1."""
    found = re.match(r"blk\.(\d+)\.", name)
    return int(found[1]) if found else -1


def row_for(tensor: ReaderTensor, importance: Importance | None) -> np.ndarray | None:
    """Return the importance of the columns of `tensor`; raises Refused if it is of other columns."""
    row = importance.rows.get(tensor.name) if importance else None
    if row is None or len(row) == tensor.shape[0]:
        return row
    if tensor.name == "token_embd.weight":
        return None
    raise Refused(
        f"the importance matrix has {len(row)} values for {tensor.name}, of another model"
    )


def require_possible(planned: Planned, method: str) -> None:
    """Raise Refused for what llama.cpp would refuse to do with a tensor."""
    tensor, type_ = planned.tensor, planned.target.type
    if type_ == tensor.tensor_type:
        return
    if tensor.tensor_type not in mixtures.UNPACKED:
        raise Refused(f"{tensor.name} is {tensor.tensor_type.name} already: quantize from 16 bits")
    needed = type_ in NEED_IMPORTANCE or (type_ == T.Q2_K and method == "q2_k_s")
    if tensor.name in ("token_embd.weight", "output.weight"):
        return
    if needed and planned.importance is None:
        raise Refused(f"{method} needs an imatrix for {tensor.name}, of type {type_.name}")


def packed(planned: Planned, threads: ThreadPoolExecutor) -> np.ndarray:
    """Return the bytes of the packed tensor; raises Refused if they are broken."""
    if planned.target.type == planned.tensor.tensor_type:
        return planned.tensor.data
    *_, columns = planned.shape
    rows = math.prod(planned.shape) // columns
    source = planned.tensor.data.reshape(rows, -1)
    out = np.empty((rows, planned.size // rows), np.uint8)
    importance = planned.importance
    weights = None if importance is None else np.ascontiguousarray(importance, np.float32)
    kernels, type_ = library(), int(planned.target.type)

    def pack(first: int) -> bool:
        floats = dequantize(source[first : first + step], planned.tensor.tensor_type)
        floats = np.ascontiguousarray(floats, np.float32)
        into = out[first : first + step]
        pointers = (floats.ctypes.data, into.ctypes.data)
        known = weights.ctypes.data if weights is not None else None
        kernels.ggml_quantize_chunk(type_, *pointers, 0, len(floats), columns, known)
        return kernels.ggml_validate_row_data(type_, into.ctypes.data, into.nbytes)

    step = max(1, CHUNK // columns)
    if not all(threads.map(pack, range(0, rows, step))):
        raise Refused(f"quantized data validation failed for {planned.tensor.name}")
    return out


def begin(
    out: str, reader: GGUFReader, tensors: list[Planned], method: str, importance: Importance | None
) -> GGUFWriter:
    """Write all but the tensors' data to `out`: the keys of the source, and what is new."""
    writer = GGUFWriter(out, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name not in OVERWRITTEN:
            inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], inner)
    writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_file_type(mixtures.file_type(method))
    if importance:
        writer.add_string("quantize.imatrix.file", importance.path[:127])
        writer.add_string("quantize.imatrix.dataset", importance.dataset[:127])
        writer.add_uint32("quantize.imatrix.entries_count", len(importance.rows))
        writer.add_uint32("quantize.imatrix.chunks_count", importance.chunks)
    for planned in tensors:
        no_dtype = np.dtype(np.float32)  # raw_dtype decides
        type_ = planned.target.type
        writer.add_tensor_info(planned.tensor.name, planned.shape, no_dtype, planned.size, type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    return writer


def quantize(source: str, method: str, imatrix: str | None, out: str | None, threads: int) -> None:
    """Quantize `source` into `out`, or only say how large it would be; raises Refused."""
    try:
        mixtures.file_type(method), mixtures.base_type(method)
    except KeyError:
        raise Refused(f"{method} can't be made without llama.cpp's own quantizer") from None
    reader = GGUFReader(source)
    importance = Importance.read(imatrix) if imatrix else None
    tensors = plan(reader, method, importance)
    if out:
        for planned in tensors:
            require_possible(planned, method)
        writer = begin(out, reader, tensors, method, importance)
        with ThreadPoolExecutor(threads) as pool:
            for planned in tensors:
                writer.write_tensor_data(packed(planned, pool))
        writer.close()
    size = sum(planned.size for planned in tensors) / 2**20
    print(f"quant size  = {size:8.2f} MiB", file=sys.stderr)
    if fell_back := sum(planned.target.fell_back for planned in tensors):
        print(f"{fell_back} of {len(tensors)} tensor(s) required fallback", file=sys.stderr)


def main() -> None:
    """Read the arguments that retune gives to llama-quantize, and do what they say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--imatrix")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("rest", nargs="+", help="SOURCE OUT METHOD THREADS, or SOURCE METHOD")
    arguments = parser.parse_args()
    if arguments.dry_run:
        source, method = arguments.rest
        out, threads = None, "1"
    else:
        source, out, method, threads = arguments.rest
    try:
        quantize(source, method.lower(), arguments.imatrix, out, int(threads))
    except (ValueError, IndexError, KeyError) as error:  # the latter two by gguf, of a broken file
        sys.exit(f"{source}: {error}")


if __name__ == "__main__":
    main()
