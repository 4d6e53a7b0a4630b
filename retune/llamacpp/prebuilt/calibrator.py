"""Stand-in for `llama-imatrix`, run as a script: how large the inputs of each matrix are on a text."""

import argparse
import ctypes
import sys
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType

from retune.llamacpp.prebuilt import importance
from retune.llamacpp.prebuilt.library import EvalCallback, Model, Refused, library
from retune.llamacpp.prebuilt.texts import chunks_of

FEWEST_ROWS = 16  # llama-imatrix leaves out the products of fewer tokens


class Collector:
    """Sums, by matrix and column, the squares of what is multiplied with it.

    llama.cpp calls it for each step of its computation: first to ask, then with the result.
    """

    def __init__(self) -> None:
        self.sums: dict[str, np.ndarray] = {}
        self.failure: Exception | None = None
        self._name_of = library().ggml_op_name

    def __call__(self, result: Any, ask: bool, _: Any) -> bool:
        try:
            return self.wants(result.contents) if ask else self.add(result.contents)
        except Exception as error:  # ctypes would print it and go on
            self.failure = error
            return False

    def wants(self, result: Any) -> bool:
        """Whether `result` is the product of a layer's matrix and enough tokens."""
        operation = self._name_of(result.op)
        if operation == b"MUL_MAT_ID":
            raise NotImplementedError(
                "models with experts can't be calibrated without llama-imatrix"
            )
        if operation != b"MUL_MAT":
            return False
        matrix, inputs = result.src[0].contents, result.src[1].contents
        floats = inputs.type == GGMLQuantizationType.F32
        return matrix.name.startswith(b"blk.") and floats and inputs.ne[1] >= FEWEST_ROWS

    def add(self, result: Any) -> bool:
        """Add the inputs of a product; True lets llama.cpp go on."""
        inputs = result.src[1].contents
        size = inputs.ne[3] * inputs.nb[3]
        memory = (ctypes.c_char * size).from_address(inputs.data)
        shape, strides = tuple(inputs.ne)[::-1], tuple(inputs.nb)[::-1]
        values = np.ndarray(shape, np.float32, memory, strides=strides)
        name = result.src[0].contents.name.decode()
        squares = np.square(values, dtype=np.float64).sum(axis=(0, 1, 2))
        self.sums[name] = self.sums.get(name, 0) + squares
        return True


def main() -> None:
    """Write the importance matrix of a model on a text, both named by llama-imatrix's arguments."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-m", type=Path, required=True)
    parser.add_argument("-f", type=Path, required=True)
    parser.add_argument("-o", required=True)
    parser.add_argument("-c", type=int, required=True)
    parser.add_argument("-t", type=int, required=True)
    for always in ("--no-ppl", "--no-escape", "--parse-special"):
        parser.add_argument(always, action="store_true", required=True)
    arguments = parser.parse_args()
    model = Model(arguments.m)
    try:
        chunks = chunks_of(model, arguments.f, arguments.c)
    except Refused as error:
        sys.exit(str(error))
    collector = Collector()
    for _ in model.logits(chunks, 0, arguments.t, EvalCallback(collector)):
        if collector.failure:
            sys.exit(str(collector.failure))
    importance.write(arguments.o, str(arguments.f), len(chunks), arguments.c, collector.sums)


if __name__ == "__main__":
    main()
