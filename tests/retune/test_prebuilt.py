"""Without a compiler: the stand-ins on xllamacpp against llama.cpp's own programs."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from retune import llamacpp
from retune.llamacpp import converter
from retune.llamacpp.installation import prebuilt_version
from retune.llamacpp.prebuilt import library
from tasks.conform import parity
from tests.retune.conftest import TEXT

try:
    BUILT = llamacpp.locate()
except llamacpp.LlamaCppNotFound as missing:
    pytest.skip(str(missing), allow_module_level=True)
if BUILT.route != "built":
    pytest.skip("llama.cpp's programs are not built", allow_module_level=True)

SIX = ("q2_k", "q3_k_m", "q4_k_m", "q5_k_m", "q6_k", "q8_0")


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """A prebuilt installation with the converter of the built one."""
    root = tmp_path_factory.mktemp("prebuilt")
    for path in BUILT.root.iterdir():
        if path.name not in ("bin", "build.json"):
            (root / path.name).symlink_to(path)
    record = json.loads((BUILT.root / "build.json").read_text())
    record |= {"route": "prebuilt", "xllamacpp": prebuilt_version()}
    (root / "build.json").write_text(json.dumps(record))
    return root


@pytest.fixture
def prebuilt(folder, monkeypatch) -> Callable[[], None]:
    """A function after which retune takes the prebuilt route."""
    return lambda: monkeypatch.setenv("RETUNE_LLAMACPP", str(folder))


def make_gguf(
    path: Path,
    architecture: str = "llama",
    layers: int = 16,
    heads: tuple[int, int] = (4, 2),
    columns: int = 256,
    tied: bool = False,
    joined: bool = False,
    experts: int = 0,
) -> Path:
    """Write a bf16 model with all matrices of `layers` layers, 8 rows each; random numbers."""
    import gguf

    writer = gguf.GGUFWriter(path, architecture)
    for name in ("context_length", "embedding_length", "feed_forward_length", "vocab_size"):
        getattr(writer, f"add_{name}")(columns)
    writer.add_block_count(layers)
    writer.add_head_count(heads[0])
    writer.add_head_count_kv(heads[1])
    writer.add_layer_norm_rms_eps(1e-5)
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(1)
    random = np.random.default_rng(0)

    def add(name: str) -> None:
        values = random.standard_normal((8, columns), np.float32)
        packed = gguf.quantize(values, gguf.GGMLQuantizationType.BF16)
        writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.BF16)

    attention = ("attn_qkv",) if joined else ("attn_q", "attn_k", "attn_v")
    for layer in range(layers):
        for matrix in (*attention, "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
            add(f"blk.{layer}.{matrix}.weight")
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", np.ones(columns, np.float32))
    for matrix in ("token_embd", "output")[: 1 if tied else 2]:
        add(f"{matrix}.weight")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def make_imatrix(path: Path, source: Path) -> Path:
    from gguf import GGUFReader

    from retune.llamacpp.prebuilt import importance

    random = np.random.default_rng(1)
    tensors = [tensor for tensor in GGUFReader(source).tensors if "blk" in tensor.name]
    sums = {tensor.name: random.random(int(tensor.shape[0])) for tensor in tensors}
    importance.write(str(path), "text", 2, 64, sums)
    return path


@pytest.fixture(scope="module")
def matrices(tmp_path_factory) -> Path:
    return make_gguf(tmp_path_factory.mktemp("matrices") / "bf16.gguf")


@pytest.fixture(scope="module")
def imatrix(matrices) -> Path:
    return make_imatrix(matrices.with_name("imatrix.gguf"), matrices)


def test_quantized_files_are_the_same_byte_by_byte(matrices, imatrix, tmp_path, prebuilt):
    jobs = [(method, None) for method in SIX] + [
        (method, imatrix) for method in (*SIX[:3], "iq2_xs")
    ]
    out, theirs = tmp_path / "out.gguf", []
    for method, weights in jobs:
        llamacpp.quantize(matrices, out, method, 1, weights)
        theirs.append(out.read_bytes())
    prebuilt()
    for (method, weights), expected in zip(jobs, theirs, strict=True):
        llamacpp.quantize(matrices, out, method, 2, weights)
        assert out.read_bytes() == expected, (method, weights)


@pytest.mark.parametrize(
    "shape",
    [
        {"layers": 17},
        {"layers": 9, "heads": (8, 1), "tied": True},
        {"layers": 3, "columns": 288},
        {"layers": 80, "heads": (8, 1)},
        {"architecture": "qwen2", "layers": 80, "heads": (4, 4)},
        {"architecture": "phi3", "joined": True},
    ],
    ids=str,
)
def test_every_method_gives_each_tensor_the_same_type(shape, tmp_path):
    from gguf import GGUFReader

    from retune.llamacpp.prebuilt import quantizer

    source = make_gguf(tmp_path / "source.gguf", **shape)
    matrix = make_imatrix(tmp_path / "imatrix.gguf", source)
    reader = GGUFReader(source)
    importance = quantizer.Importance.read(str(matrix))
    for method in set(llamacpp.METHODS) - {"q2_0"}:
        for given, options in ((None, ()), (importance, ("--imatrix", matrix))):
            command = [*BUILT.program("llama-quantize"), *options, "--dry-run", source, method]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                assert "no tensor type fallback is defined" in done.stderr + done.stdout
                with pytest.raises(ValueError, match="no type in place of"):
                    quantizer.plan(reader, method, given)
                continue
            said = r"\] +(\S+) +- \[.*type = +(\S+), size =.*?(?:\((\w+)\))?$"
            theirs = re.findall(said, done.stdout + done.stderr, re.MULTILINE)
            ours = [
                (it.tensor.name, it.tensor.tensor_type.name.lower(), it.target.type.name.lower())
                for it in quantizer.plan(reader, method, given)
            ]
            expected = [(name, old.lower(), (new or old).lower()) for name, old, new in theirs]
            assert ours == expected, (method, options)


def test_sizes_and_unfitting_rows_are_told(matrices, tmp_path, prebuilt, caplog):
    odd = make_gguf(tmp_path / "odd.gguf", layers=1, columns=288)
    expected = llamacpp.quantized_size(matrices, "q4_k_m")
    prebuilt()
    assert llamacpp.quantized_size(matrices, "q4_k_m") == expected
    llamacpp.quantize(odd, tmp_path / "out.gguf", "q4_k_m", 1)
    assert "8 of 10 tensors needed another type" in caplog.text


def test_what_cannot_be_done_is_refused_and_leaves_nothing(matrices, tmp_path, prebuilt):
    experts = make_gguf(tmp_path / "experts.gguf", layers=1, experts=4)
    other = make_gguf(tmp_path / "other.gguf", layers=1, architecture="falcon")
    small = tmp_path / "small.gguf"
    prebuilt()
    llamacpp.quantize(make_gguf(tmp_path / "one.gguf", layers=1), small, "q8_0", 1)
    before = set(tmp_path.iterdir())
    for source, method, why in (
        (experts, "q8_0", r"'llama' with experts can't be quantized, .* run `make llamacpp`"),
        (other, "q8_0", "architecture 'falcon' can't be quantized"),
        (matrices, "q2_0", "q2_0 can't be made"),
        (matrices, "iq2_xs", "iq2_xs needs an imatrix"),
        (small, "q4_0", "is Q8_0 already"),
    ):
        with pytest.raises(llamacpp.LlamaCppFailed, match=why):
            llamacpp.quantize(source, tmp_path / "out.gguf", method, 1)
    assert set(tmp_path.iterdir()) == before


def test_conform_says_what_cannot_be_quantized(matrices, tmp_path, prebuilt):
    other = make_gguf(tmp_path / "other.gguf", layers=1, architecture="falcon")
    assert parity.quantizable(matrices).passed
    prebuilt()
    check = parity.quantizable(other)
    assert not check.passed
    assert "architecture 'falcon' can't be quantized" in check.seen
    assert parity.quantizable(matrices).seen.endswith(f"(xllamacpp {prebuilt_version()} prebuilt)")


def test_texts_are_read_alike(gguf, prebuilt):
    texts = [*converter.PROBES, TEXT, "", "\n", "<|im_start|>user\nhi<|im_end|>\n", "a\0b"]
    special, plain = (
        llamacpp.tokenize(gguf, texts, parse_special=parse) for parse in (True, False)
    )
    prebuilt()
    assert llamacpp.tokenize(gguf, texts) == special
    assert llamacpp.tokenize(gguf, texts, parse_special=False) == plain


def test_measures_agree(gguf, text, tmp_path, prebuilt):
    """The two llama.cpp are of different ages and compilers: sums are rounded differently."""
    logits, quant = tmp_path / "logits", tmp_path / "q2_k.gguf"
    llamacpp.quantize(gguf, quant, "q2_k", 1)
    theirs = llamacpp.perplexity(gguf, text, 64, 1, keep_logits=logits)
    their_divergence = llamacpp.divergence(quant, logits, 64, 1)
    prebuilt()
    ours = llamacpp.perplexity(gguf, text, 64, 1, keep_logits=tmp_path / "ours")
    assert ours.value == pytest.approx(theirs.value, rel=1e-3)
    assert ours.standard_error == pytest.approx(theirs.standard_error, rel=1e-2)
    assert (ours.chunks, ours.tokens) == (theirs.chunks, theirs.tokens)
    for kept in (logits, tmp_path / "ours"):  # both routes read the files of both
        found = llamacpp.divergence(quant, kept, 64, 1)
        assert found.perplexity_ratio == pytest.approx(their_divergence.perplexity_ratio, rel=1e-3)
        assert found.mean == pytest.approx(their_divergence.mean, rel=0.01)
        assert found.median == pytest.approx(their_divergence.median, rel=0.01)
        assert found.p99 == pytest.approx(their_divergence.p99, rel=0.05)
        assert found.maximum == pytest.approx(their_divergence.maximum, rel=0.05)
        assert found.standard_error == pytest.approx(their_divergence.standard_error, rel=0.05)
        assert found.same_top == pytest.approx(their_divergence.same_top, abs=0.02)
    # 16 bits per logit: a model does not quite agree with itself.
    assert llamacpp.divergence(gguf, tmp_path / "ours", 64, 1).mean < 1e-6


def test_importance_matrices_agree(gguf, text, tmp_path, prebuilt):
    from gguf import GGUFReader

    theirs, ours = tmp_path / "theirs.gguf", tmp_path / "ours.gguf"
    chunks = llamacpp.calibrate(gguf, text, theirs, 64, 1)
    prebuilt()
    assert llamacpp.calibrate(gguf, text, ours, 64, 1) == chunks
    expected = {tensor.name: tensor.data for tensor in GGUFReader(theirs).tensors}
    found = {tensor.name: tensor.data for tensor in GGUFReader(ours).tensors}
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-2, err_msg=name)


def test_the_line_from_checkpoint_to_answers(checkpoint, text, tmp_path, prebuilt):
    prebuilt()
    source, matrix, quant = (tmp_path / name for name in ("bf16.gguf", "imatrix.gguf", "q3.gguf"))
    llamacpp.convert(checkpoint, source)
    measured = llamacpp.perplexity(source, text, 64, 1, keep_logits=tmp_path / "logits")
    llamacpp.calibrate(source, text, matrix, 64, 1)
    llamacpp.quantize(source, quant, "q3_k_m", 1, matrix)
    far = llamacpp.divergence(quant, tmp_path / "logits", 64, 1)
    assert 0 < far.mean < 0.1
    assert far.perplexity == pytest.approx(measured.value, rel=0.1)
    asked = [[{"role": "user", "content": "one"}]]
    assert llamacpp.answers(quant, asked, max_tokens=4, threads=1).answers[0].tokens == 4


def test_a_library_with_other_structs_is_refused():
    params = library.library().llama_context_default_params()
    library.require_defaults(params, "1.0")
    params.n_batch = params.n_ctx  # as if a field had been put in before
    with pytest.raises(SystemExit, match=r"xllamacpp 1\.0 is not laid out .* requirements\.lock"):
        library.require_defaults(params, "1.0")


def test_a_built_one_is_preferred_and_the_route_is_named(folder, monkeypatch, tmp_path):
    root = tmp_path / "retune" / "llama.cpp-0.94.0-xllamacpp"
    monkeypatch.delenv("RETUNE_LLAMACPP", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    root.mkdir(parents=True)
    (root / "build.json").write_text((folder / "build.json").read_text())
    found = llamacpp.locate()
    assert (found.root, found.route) == (root, "prebuilt")
    assert str(found) == f"xllamacpp {prebuilt_version()} prebuilt"
    built = root.with_name("llama.cpp-0.94.0-older")
    built.mkdir()
    (built / "build.json").write_text((BUILT.root / "build.json").read_text())
    assert (llamacpp.locate().root, str(llamacpp.locate())) == (built, "0.94.0 built")


def test_it_is_for_the_xllamacpp_that_is_here(folder, monkeypatch, tmp_path):
    record = json.loads((folder / "build.json").read_text()) | {"xllamacpp": "2020.1.1"}
    (tmp_path / "build.json").write_text(json.dumps(record))
    monkeypatch.setenv("RETUNE_LLAMACPP", str(tmp_path))
    with pytest.raises(llamacpp.LlamaCppNotFound, match=r"another xllamacpp.*run `make llamacpp`"):
        llamacpp.locate()
