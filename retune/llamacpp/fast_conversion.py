"""What llama.cpp's converter does once a token or a few rows at a time, done for all of them at once.

The files that it writes are the same, byte by byte; of a vocabulary of 150,000 tokens with its merges
this is half of the time. Call these once its packages come first on the path.
"""

import json
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ELEMENTS = (
    1 << 20
)  # of rows that are quantized together, 4 bytes each, of which there are some copies
FEW = 64  # items of an array that are not worth it
SPACE = chr(ord(" ") + 256)  # as merges that join texts by a space spell one


def grouping_rows() -> None:
    """Quantize rows in groups of ELEMENTS instead of 16 rows, which of a narrow model are a few kB."""
    import numpy as np
    from gguf import quants

    def over_groups(func: Any, arr: Any, otype: Any, oshape: tuple[int, ...]) -> Any:
        rows = arr.reshape((-1, arr.shape[-1]))
        out = np.empty(shape=oshape, dtype=otype)
        groups = max(1, rows.size // max(ELEMENTS, 16 * rows.shape[-1]))
        parts = [func(group).ravel() for group in np.array_split(rows, groups)]
        np.concatenate(parts, axis=0, out=out.reshape(-1))
        return out

    quants._apply_over_grouped_rows = over_groups


def cutting_floats() -> None:
    """Write as bf16 what was bf16 by leaving out the halves of floats that are zero."""
    import numpy as np
    from gguf.quants import BF16

    by_rounding = BF16.quantize_blocks

    def cut(blocks: Any) -> Any:
        halves = np.ascontiguousarray(blocks).view("<u2").reshape(*blocks.shape[:-1], -1, 2)
        if halves[..., 0].any() or np.isnan(blocks).any():
            return by_rounding(blocks)
        return np.ascontiguousarray(halves[..., 1]).view(np.uint8)

    if sys.byteorder == "little":
        BF16.quantize_blocks = cut  # type: ignore[method-assign]


def packing_arrays() -> None:
    """Write arrays of texts and of whole numbers without a call for each of their items."""
    from gguf import GGUFEndian, GGUFValueType, GGUFWriter, TokenType

    by_item = GGUFWriter._pack_val
    whole = {int, TokenType}

    def packed(self: Any, val: Any, vtype: Any, add_vtype: bool, sub_type: Any = None) -> bytes:
        body = None
        if vtype == GGUFValueType.ARRAY and isinstance(val, list) and len(val) > FEW:
            order = "<" if self.endianess == GGUFEndian.LITTLE else ">"
            kinds = set(map(type, val))
            if kinds <= whole and sub_type in (None, GGUFValueType.INT32):
                sub_type, body = GGUFValueType.INT32, struct.pack(f"{order}{len(val)}i", *val)
            elif kinds <= {str, bytes} and sub_type in (None, GGUFValueType.STRING):
                sub_type, body = GGUFValueType.STRING, _texts(val, struct.Struct(f"{order}Q"))
        if body is None:
            return by_item(self, val, vtype, add_vtype, sub_type)
        head = self._pack("I", vtype) if add_vtype else b""
        return b"".join((head, self._pack("I", sub_type), self._pack("Q", len(val)), body))

    GGUFWriter._pack_val = packed  # type: ignore[method-assign]


def _texts(texts: Sequence[str | bytes], size: struct.Struct) -> bytes:
    encoded = [text.encode() if isinstance(text, str) else text for text in texts]
    sizes = list(map(len, encoded))
    heads = {length: size.pack(length) for length in set(sizes)}
    parts = [b""] * (2 * len(encoded))
    parts[::2], parts[1::2] = [heads[length] for length in sizes], encoded
    return b"".join(parts)


@contextmanager
def reading_once(folder: Path, tokenizer: Any, structure: dict[str, Any]) -> Iterator[None]:
    """Give whoever reads the tokenizer in `folder` this one, and its `tokenizer.json` as `structure`."""
    from gguf import SpecialVocab
    from transformers import AutoTokenizer

    from_files = AutoTokenizer.from_pretrained
    of_file = SpecialVocab._try_load_from_tokenizer_json
    slim = folder.with_name(f"{folder.name}-without-vocabulary")

    def given(name: Any, *arguments: Any, **options: Any) -> Any:
        return tokenizer if Path(name) == folder else from_files(name, *arguments, **options)

    def special_tokens(self: Any, path: Path) -> bool:
        if path != folder or not (folder / "tokenizer.json").exists():
            return of_file(self, path)
        _write_slim(slim, folder, structure)
        merges = structure["model"].get("merges")
        if self.load_merges and merges:
            self.merges = _joined(merges)
        return of_file(self, slim)

    vocabulary = tokenizer.get_vocab()
    tokenizer.get_vocab = lambda: vocabulary
    AutoTokenizer.from_pretrained = given  # type: ignore[method-assign, assignment]
    SpecialVocab._try_load_from_tokenizer_json = special_tokens  # type: ignore[method-assign]
    try:
        yield
    finally:
        del tokenizer.get_vocab
        AutoTokenizer.from_pretrained = from_files  # type: ignore[method-assign]
        SpecialVocab._try_load_from_tokenizer_json = of_file  # type: ignore[method-assign]


def _write_slim(slim: Path, folder: Path, structure: dict[str, Any]) -> None:
    """Make `slim` a folder as `folder` is, but for the vocabulary in `tokenizer.json`."""
    if slim.exists():
        return
    slim.mkdir()
    for path in folder.iterdir():
        if path.name != "tokenizer.json":
            (slim / path.name).symlink_to(path.absolute())
    model = {**structure["model"], "vocab": {}, "merges": []}
    (slim / "tokenizer.json").write_text(json.dumps({**structure, "model": model}))


def _joined(merges: Sequence[str | Sequence[str]]) -> list[str]:
    """Return merges as texts of two parts, as the converter joins them."""
    if isinstance(merges[0], str):
        return [str(merge) for merge in merges]
    pairs = [" ".join(pair) for pair in merges]
    spaced = (n for n, text in enumerate(pairs) if text.count(" ") > 1)
    for n in spaced:
        pairs[n] = " ".join(part.replace(" ", SPACE) for part in merges[n])
    return pairs
