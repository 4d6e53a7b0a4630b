"""What the converter does faster comes out as it did, byte by byte."""

import numpy as np
import pytest

from retune.llamacpp import fast_conversion


@pytest.fixture
def gguf(monkeypatch):
    """The package, with what the test replaces put back."""
    import gguf
    from gguf import quants

    monkeypatch.setattr(gguf.GGUFWriter, "_pack_val", gguf.GGUFWriter._pack_val)
    monkeypatch.setattr(quants, "_apply_over_grouped_rows", quants._apply_over_grouped_rows)
    monkeypatch.setattr(quants.BF16, "quantize_blocks", quants.BF16.quantize_blocks)
    return gguf


TEXTS = [f"Łódź {n}" * (n % 7) for n in range(300)]


@pytest.mark.parametrize("order", ["LITTLE", "BIG"])
@pytest.mark.parametrize(
    "array",
    [
        TEXTS,
        [text.encode() for text in TEXTS],
        list(range(-150, 150)),
        [True, False] * 100,
        [n / 3 for n in range(300)],
        ["a", "b"],
        [["a"] * 3] * 100,
    ],
)
def test_arrays_are_packed_alike(gguf, order, array, tmp_path):
    kind = gguf.GGUFValueType.ARRAY
    writer = gguf.GGUFWriter(tmp_path / "x", "llama", endianess=gguf.GGUFEndian[order])
    before = writer._pack_val(array, kind, add_vtype=True)
    fast_conversion.packing_arrays()
    assert writer._pack_val(array, kind, add_vtype=True) == before


def test_kinds_of_tokens_are_packed_alike_and_mixed_arrays_are_refused(gguf, tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "x", "llama")
    kinds = [gguf.TokenType.NORMAL, gguf.TokenType.CONTROL] * 100
    given = {"vtype": gguf.GGUFValueType.ARRAY, "add_vtype": True}
    before = writer._pack_val(kinds, **given)
    fast_conversion.packing_arrays()
    assert writer._pack_val(kinds, **given) == before
    with pytest.raises(ValueError, match="same type"):
        writer._pack_val([1, "a"] * 100, **given)


@pytest.mark.parametrize("kind", ["BF16", "Q8_0"])
@pytest.mark.parametrize("shape", [(5, 64), (1000, 128), (3, 40, 64)])
@pytest.mark.parametrize("was_bf16", [True, False])
def test_rows_are_quantized_alike(gguf, monkeypatch, kind, shape, was_bf16):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    if was_bf16:
        values = (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    if kind == "BF16":
        values.flat[:3] = np.inf, -np.inf, np.nan
    qtype = gguf.GGMLQuantizationType[kind]
    before = gguf.quants.quantize(values, qtype)
    monkeypatch.setattr(fast_conversion, "ELEMENTS", 4096)
    fast_conversion.cutting_floats()
    fast_conversion.grouping_rows()
    after = gguf.quants.quantize(values, qtype)
    assert after.shape == before.shape
    assert after.tobytes() == before.tobytes()


def test_merges_are_joined_as_the_converter_joins_them():
    pairs = [["a", "b"], ["a b", "c"], [" ", " "], ["Ġ", "x"]]
    by_character = [
        " ".join("".join(fast_conversion.SPACE if c == " " else c for c in part) for part in pair)
        for pair in pairs
    ]
    assert fast_conversion._joined(pairs) == by_character
    assert fast_conversion._joined(["a b", "b c"]) == ["a b", "b c"]
