"""Files of importance matrices, as llama-imatrix writes and llama-quantize reads them."""

from dataclasses import dataclass

import numpy as np
from gguf import GGUFReader, GGUFWriter

from retune.llamacpp.prebuilt.library import Refused


@dataclass(frozen=True)
class Importance:
    """An importance matrix: its file, what it was measured on, and by tensor a value per column."""

    path: str
    dataset: str
    chunks: int
    rows: dict[str, np.ndarray]

    @classmethod
    def read(cls, path: str) -> "Importance":
        """Read `path`; raises Refused if it is not whole, or a value no number."""
        try:
            reader = GGUFReader(path)
        except ValueError as error:
            raise Refused(f"{path} is no whole importance matrix: {error}") from error
        tensors = {tensor.name: tensor.data for tensor in reader.tensors}
        names = [name.removesuffix(".in_sum2") for name in tensors if name.endswith(".in_sum2")]
        rows = {}
        for name in names:
            sums, count = tensors[f"{name}.in_sum2"], tensors[f"{name}.counts"]
            rows[name] = np.ravel(np.where(count > 0, sums / np.maximum(count, 1), 1))
            if not np.isfinite(rows[name]).all():
                raise Refused(f"{path} has values for {name} that are not finite")
        datasets = reader.fields["imatrix.datasets"].contents()
        return cls(path, datasets[0], reader.fields["imatrix.chunk_count"].contents(), rows)


def write(path: str, dataset: str, chunks: int, context: int, sums: dict[str, np.ndarray]) -> None:
    """Write the `sums` of squared inputs by tensor and column over `chunks` of `context` tokens."""
    writer = GGUFWriter(path, "imatrix")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", [dataset])
    writer.add_uint32("imatrix.chunk_count", chunks)
    writer.add_uint32("imatrix.chunk_size", context)
    for name in sorted(sums):
        writer.add_tensor(f"{name}.in_sum2", sums[name].astype(np.float32))
        writer.add_tensor(f"{name}.counts", np.full(1, chunks * context, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
