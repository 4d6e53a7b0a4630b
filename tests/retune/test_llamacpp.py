"""A tiny random Llama goes through the real llama.cpp: it must read and weigh as trained."""

import json
import os
import re
import shutil
import subprocess
import time
import unicodedata
from contextlib import suppress

import pytest

from retune import llamacpp
from retune.llamacpp import conversion, converter, installation, process
from retune.probes import PROBES
from retune.recipe.methods import METHODS
from tests.retune.conftest import CHATML, TEXT, bpe_tokenizer
from tests.tasks.conftest import make_tokenizer

SIX = ("q2_k", "q3_k_m", "q4_k_m", "q5_k_m", "q6_k", "q8_0")
# The type that most matrices of each method have; the rest get a larger one by llama.cpp's recipe.
TYPES = {
    "q2_k": {"Q2_K", "Q3_K", "Q6_K"},
    "q3_k_m": {"Q3_K", "Q4_K", "Q5_K", "Q6_K"},
    "q4_k_m": {"Q4_K", "Q6_K"},
    "q5_k_m": {"Q5_K", "Q6_K"},
    "q6_k": {"Q6_K"},
    "q8_0": {"Q8_0"},
}

try:
    llamacpp.locate()
except llamacpp.LlamaCppNotFound as missing:
    pytestmark = pytest.mark.skip(reason=str(missing))


def test_the_gguf_holds_what_the_checkpoint_holds(gguf, checkpoint):
    from gguf import GGUFReader, TokenType

    fields = GGUFReader(gguf).fields
    assert fields["tokenizer.chat_template"].contents() == CHATML
    assert fields["tokenizer.ggml.add_bos_token"].contents() is False
    assert fields["tokenizer.ggml.eos_token_id"].contents() == 2
    types = fields["tokenizer.ggml.token_type"].contents()
    assert types[:4] == [TokenType.CONTROL] * 3 + [TokenType.NORMAL]
    assert fields["general.name"].contents() == "Tiny"

    found = llamacpp.facts(gguf)
    assert found.has_chat_template
    assert found.parameters * found.bits_per_weight / 8 < found.size == gguf.stat().st_size
    assert found.tensor_types == {"BF16": 16, "F32": 5}


def test_llamacpp_reads_text_as_the_tokenizer_does(gguf, checkpoint):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    texts = [*PROBES, TEXT, "", "\n", " ", "<|im_start|>user\nhi<|im_end|>\n", "a\0b"]
    theirs = llamacpp.tokenize(gguf, texts)
    assert theirs == [tokenizer(text).input_ids for text in texts]
    assert tokenizer.convert_tokens_to_ids("<|im_start|>") in theirs[-2]

    spelled_out = llamacpp.tokenize(gguf, ["<|im_start|>user"], parse_special=False)[0]
    assert len(spelled_out) > 3
    assert not {0, 1, 2} & set(spelled_out)


def test_texts_read_by_several_processes_keep_their_order(gguf, monkeypatch):
    from retune.llamacpp import tokens

    texts = [*PROBES, "", TEXT, "a\nb", ""]
    by_one = llamacpp.tokenize(gguf, texts)
    processes = []
    run = tokens.run
    monkeypatch.setattr(tokens, "run", lambda *a, **kw: processes.append(a) or run(*a, **kw))
    monkeypatch.setattr(tokens, "cores", lambda: 4)
    monkeypatch.setattr(tokens, "CHARACTERS", 10)
    assert llamacpp.tokenize(gguf, texts) == by_one
    assert len(processes) == 4
    assert llamacpp.tokenize(gguf, texts[:1]) == by_one[:1]
    assert llamacpp.tokenize(gguf, []) == []
    assert len(processes) == 6


def test_a_token_without_an_embedding_is_no_probe(tmp_path):
    """As Gemma 3's small models have none for the token of a picture."""
    tokenizer = make_tokenizer(tmp_path)
    tokens = len(tokenizer)
    tokenizer.add_tokens(["<picture>"], special_tokens=True)
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"vocab_size": tokens}}))
    assert llamacpp.embeddings(tmp_path) == tokens
    controls = [one["text"] for one in converter.probes(tokenizer, tokens) if one["control"]]
    assert any("<|im_end|>" in text for text in controls)
    assert not any("<picture>" in text for text in controls)
    assert any("<picture>" in one["text"] for one in converter.probes(tokenizer, tokens + 1))


def test_the_probes_are_composed():
    assert all(unicodedata.is_normalized("NFC", probe) for probe in PROBES)


@pytest.mark.parametrize("method", SIX)
def test_a_quantization_applies_to_every_matrix(gguf, tmp_path, method, caplog):
    out = tmp_path / f"tiny.{method}.gguf"
    llamacpp.quantize(gguf, out, method, threads=1)
    types = llamacpp.facts(out).tensor_types
    assert types.pop("F32") == 5  # the norms
    assert set(types) <= TYPES[method]
    assert sum(types.values()) == 16
    assert not caplog.records
    assert list(tmp_path.iterdir()) == [out]


def test_a_matrix_that_a_method_cannot_divide_is_reported(tmp_path, caplog):
    import gguf as format
    import numpy as np

    source = tmp_path / "odd.gguf"
    writer = format.GGUFWriter(source, "llama")
    for name in ("block_count", "context_length", "embedding_length", "feed_forward_length"):
        getattr(writer, f"add_{name}")(96)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tensor("blk.0.attn_q.weight", np.ones((96, 96), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    llamacpp.quantize(source, tmp_path / "out.gguf", "q4_k_m", threads=1)
    assert "1 of 1 tensors needed another type" in caplog.text


def test_the_methods_are_those_that_llamacpp_lists():
    program = llamacpp.locate().program("llama-quantize")
    usage = subprocess.run([program, "--help"], capture_output=True, text=True, check=False).stdout
    listed = set(re.findall(r"^ +\d+  or  (\w+) *:", usage, re.MULTILINE))
    assert {name.upper() for name in METHODS} == listed
    assert len(METHODS) == len(listed)


def test_llamacpp_says_of_the_same_methods_that_they_need_an_imatrix(gguf):
    program = llamacpp.locate().program("llama-quantize")
    for name, method in METHODS.items():
        command = [program, "--dry-run", gguf, name.upper()]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        needy = "will require an imatrix" in done.stderr + done.stdout
        assert needy == method.needs_imatrix, name


def test_the_size_is_known_beforehand(gguf, tmp_path):
    out = tmp_path / "out.gguf"
    llamacpp.quantize(gguf, out, "q4_k_m", threads=1)
    weights = llamacpp.facts(out)
    expected = weights.parameters * weights.bits_per_weight / 8
    assert llamacpp.quantized_size(gguf, "q4_k_m") == pytest.approx(expected, rel=0.01)
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("chunks", [4, 5, 6, 7, 15])
def test_an_importance_matrix_is_whole_whatever_the_number_of_chunks(gguf, tmp_path, chunks):
    """Four chunks of 512 tokens are read together; where three are left, llama.cpp counts one less."""
    text = tmp_path / "text.txt"
    sentence = TEXT
    tokens = len(llamacpp.tokenize(gguf, [sentence])[0])
    text.write_text(sentence * (chunks * 512 // tokens + 1))
    counted = llamacpp.calibrate(gguf, text, tmp_path / "i.gguf", context=512, threads=1)
    assert counted >= chunks
    assert (tmp_path / "i.gguf").stat().st_size


def test_an_importance_matrix_is_of_the_text_and_changes_a_quant(gguf, text, tmp_path):
    from gguf import GGUFReader

    matrix, out = tmp_path / "imatrix.gguf", tmp_path / "out.gguf"
    chunks = llamacpp.calibrate(gguf, text, matrix, context=64, threads=1)
    # As in training: one token for each special one.
    assert chunks == len(llamacpp.tokenize(gguf, [TEXT])[0]) // 64
    sums = [t for t in GGUFReader(matrix).tensors if t.name.endswith("in_sum2")]
    assert len(sums) == 14  # seven matrices in each of two layers
    assert all((tensor.data > 0).all() for tensor in sums)
    llamacpp.quantize(gguf, out, "q4_k_m", 1)
    without = out.read_bytes()
    llamacpp.quantize(gguf, out, "q4_k_m", 1, matrix)
    assert out.read_bytes() != without
    names = {n: f.contents() for n, f in GGUFReader(out).fields.items() if ".imatrix." in n}
    assert names["quantize.imatrix.file"] == matrix.name
    assert names["quantize.imatrix.dataset"] == text.name  # no folder of this machine
    with pytest.raises(llamacpp.LlamaCppFailed, match="imatrix"):
        llamacpp.quantize(gguf, tmp_path / "refused.gguf", "iq2_xxs", 1)
    matrix.write_bytes(matrix.read_bytes()[:-5000])
    with pytest.raises(llamacpp.LlamaCppFailed, match="llama-quantize"):
        llamacpp.quantize(gguf, tmp_path / "refused.gguf", "iq2_xxs", 1, matrix)
    assert {path.name for path in tmp_path.iterdir()} == {"imatrix.gguf", "out.gguf"}


def test_perplexity_is_that_of_a_random_model(gguf, text, tmp_path):
    logits = tmp_path / "logits"
    found = llamacpp.perplexity(gguf, text, 64, threads=1, logits=logits)
    assert found == pytest.approx(700, rel=0.2)  # it guesses among 700 tokens
    kept = llamacpp.KeptLogits.read(logits)
    assert (kept.context, kept.vocabulary) == (64, 700)
    # Special tokens count as one token each: were they spelled out, there were more chunks.
    assert kept.chunks == len(llamacpp.tokenize(gguf, [TEXT])[0]) // 64


def test_a_smaller_quant_diverges_more(gguf, text, tmp_path):
    logits = tmp_path / "logits"
    source = llamacpp.perplexity(gguf, text, 64, threads=1, logits=logits)
    divergences = []
    for method in ("q8_0", "q2_k"):
        quant = tmp_path / f"{method}.gguf"
        llamacpp.quantize(gguf, quant, method, threads=1)
        divergences.append(llamacpp.divergence(quant, logits, 64, threads=1))
    q8_0, q2_k = divergences
    assert 0 < q8_0.mean < q2_k.mean
    assert 1 >= q8_0.same_top > q2_k.same_top > 0
    assert q8_0.perplexity == pytest.approx(source, rel=0.01)

    with pytest.raises(ValueError, match="kept with a context of 64, not 128"):
        llamacpp.divergence(quant, logits, 128, threads=1)
    logits.write_bytes(b"no logits")
    with pytest.raises(llamacpp.LlamaCppFailed, match="is not a file of logits"):
        llamacpp.divergence(quant, logits, 64, threads=1)


def test_answers_come_in_order_and_end_where_they_were_told_to(gguf):
    asked = ["one", "two " * 40, "three", "four", "five", "one"]
    conversations = [[{"role": "user", "content": content}] for content in asked]
    answered = llamacpp.answers(gguf, conversations, max_tokens=8, threads=1)
    assert answered.tokens_per_second > 0
    found = answered.answers
    assert len(found) == len(asked)
    for answer in found:
        assert not answer.stopped
        assert answer.tokens == 8
        assert answer.text
    assert found[0] == found[-1]
    chatml = "<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\n"
    assert found[0].prompt_tokens == len(llamacpp.tokenize(gguf, [chatml])[0])
    assert llamacpp.answers(gguf, [], max_tokens=8, threads=1).answers == []


def test_bos_and_chat_template_are_as_the_checkpoint_and_its_user_say(checkpoint, tmp_path):
    from gguf import GGUFReader

    bare = shutil.copytree(checkpoint, tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    out = tmp_path / "bare.gguf"
    llamacpp.convert(bare, out, "q8_0", add_bos=True, name="my model 2.0")
    name = GGUFReader(out).fields["general.name"].contents()
    assert name == "my model 2.0"
    assert llamacpp.facts(out).tensor_types == {"Q8_0": 16, "F32": 5}
    assert llamacpp.tokenize(out, ["a"])[0][0] == 0
    assert llamacpp.tokenize(out, ["a"], add_special=False)[0][0] != 0
    with pytest.raises(llamacpp.AnsweringFailed, match="has no chat template"):
        llamacpp.answers(out, [[{"role": "user", "content": "hi"}]], 4, 1)


def test_an_unknown_method_or_dtype_is_answered_with_the_known_ones(gguf, checkpoint, tmp_path):
    with pytest.raises(ValueError, match=r"'q4_k_xl': choose from .*q2_k, .*q8_0"):
        llamacpp.quantize(gguf, tmp_path / "out.gguf", "q4_k_xl", threads=1)
    with pytest.raises(ValueError, match=r"'bfloat16': choose from f32, bf16"):
        llamacpp.convert(checkpoint, tmp_path / "out.gguf", "bfloat16")


def test_missing_files_are_named(tmp_path, gguf):
    missing = tmp_path / "missing"
    for call in (
        lambda: llamacpp.convert(missing, tmp_path / "out"),
        lambda: llamacpp.quantize(missing, tmp_path / "out", "q8_0", 1),
        lambda: llamacpp.perplexity(gguf, missing, 64, 1, tmp_path / "out"),
        lambda: llamacpp.divergence(gguf, missing, 64, 1),
        lambda: llamacpp.tokenize(missing, ["a"]),
        lambda: llamacpp.answers(missing, [[{"role": "user", "content": "a"}]], 1, 1),
        lambda: llamacpp.facts(missing),
    ):
        with pytest.raises(FileNotFoundError, match="missing"):
            call()
    assert not any(tmp_path.iterdir())


def test_a_truncated_gguf_fails_everywhere_and_leaves_nothing(gguf, text, tmp_path):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(gguf.read_bytes()[: gguf.stat().st_size // 2])
    for call in (
        lambda: llamacpp.quantize(cut, tmp_path / "out.gguf", "q8_0", 1),
        lambda: llamacpp.perplexity(cut, text, 64, 1, tmp_path / "out"),
        lambda: llamacpp.answers(cut, [[{"role": "user", "content": "a"}]], 1, 1),
        lambda: llamacpp.facts(cut),
    ):
        with pytest.raises(llamacpp.LlamaCppFailed, match=r"cut\.gguf|not within"):
            call()
    assert list(tmp_path.iterdir()) == [cut]


def test_too_short_a_text_says_how_many_tokens_are_needed(gguf, tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("What is 2 times 3? " * 4)
    with pytest.raises(llamacpp.TextTooShort, match=r"has \d+ tokens; 128 are needed"):
        llamacpp.perplexity(gguf, short, 64, 1, logits=tmp_path / "logits")
    with pytest.raises(llamacpp.TextTooShort, match=r"has \d+ tokens; 128 are needed"):
        llamacpp.calibrate(gguf, short, tmp_path / "imatrix.gguf", 64, 1)
    short.write_text("What is 2 times 3? " * 20)
    with pytest.raises(llamacpp.TextTooShort, match=r"only \d+ tokens .* 100 are needed"):
        llamacpp.perplexity(gguf, short, 64, 1, logits=tmp_path / "logits")
    assert list(tmp_path.iterdir()) == [short]


def test_a_tokenizer_that_llamacpp_has_no_name_for_is_refused(checkpoint, tmp_path):
    other = shutil.copytree(checkpoint, tmp_path / "other")
    bpe_tokenizer(r"\p{N}{1,2}|[^\p{N}]").save(str(other / "tokenizer.json"))
    with pytest.raises(llamacpp.ConversionFailed, match="no name for how this tokenizer splits"):
        llamacpp.convert(other, tmp_path / "out.gguf")
    assert list(tmp_path.iterdir()) == [other]


def test_token_ids_that_differ_stop_a_conversion(gguf):
    """Control tokens are read exactly, and of texts that are odd on purpose most are."""
    ids = llamacpp.tokenize(gguf, ["Hello"])[0]
    right = {"text": "Hello", "ids": ids, "control": False}
    wrong = {"text": "Hello", "ids": [*ids, 7], "control": False}
    for fine in ([right], [right, right, wrong]):
        conversion.check_same_tokens(gguf, fine)
    for bad in ([wrong], [right, wrong, wrong], [right, right, wrong | {"control": True}]):
        with pytest.raises(llamacpp.ConversionFailed, match="would read 'Hello' as the tokens"):
            conversion.check_same_tokens(gguf, bad)


def test_a_header_is_read_without_what_lies_in_its_arrays(gguf, tmp_path):
    from gguf import GGUFReader

    whole, header = GGUFReader(gguf), llamacpp.header(gguf)
    assert header.fields.keys() == whole.fields.keys()
    for name, field in whole.fields.items():
        if field.types[0].name != "ARRAY":
            assert header.fields[name].contents() == field.contents()
    assert [(t.name, t.data_offset, t.n_bytes) for t in header.tensors] == [
        (t.name, t.data_offset, t.n_bytes) for t in whole.tensors
    ]
    cut = tmp_path / "cut.gguf"
    for size in (30, 2_000, 9_000):  # before, within and after the vocabulary
        cut.write_bytes(gguf.read_bytes()[:size])
        with pytest.raises(llamacpp.LlamaCppFailed, match="is not a whole GGUF file"):
            llamacpp.header(cut)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({}, "llama-bpe"),
        ({"model": {"type": "BPE", "ignore_merges": False}}, None),
        ({"normalizer": {"type": "Lowercase"}}, None),
        ({"model": {"type": "Unigram"}}, None),
        ({"pre_tokenizer": None}, None),
        ({"model": {"type": "BPE"}, "pre_tokenizer": converter.GPT2_SPLIT}, "gpt-2"),
        ({"pre_tokenizer": {**converter.GPT2_SPLIT, "add_prefix_space": True}}, None),
    ],
)
def test_a_pre_tokenizer_is_named_only_if_it_is_exactly_that(change, name):
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    pattern = {"Regex": converter.LLAMA3_REGEX}
    cut = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    llama3 = {
        "model": {"type": "BPE", "ignore_merges": True},
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [cut, to_bytes]},
    }
    if name:
        assert converter.pre_tokenizer_name(llama3 | change) == name
    else:
        with pytest.raises(converter.Unsupported):
            converter.pre_tokenizer_name(llama3 | change)


def test_without_a_build_the_fix_is_named(monkeypatch, tmp_path, gguf):
    monkeypatch.delenv("RETUNE_LLAMACPP", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(llamacpp.LlamaCppNotFound, match="run `make llamacpp`"):
        llamacpp.quantize(gguf, tmp_path / "out.gguf", "q8_0", 1)
    monkeypatch.setenv("RETUNE_LLAMACPP", str(tmp_path))
    with pytest.raises(llamacpp.LlamaCppNotFound, match=r"holds no build\.json"):
        llamacpp.locate()


def test_the_newest_build_for_this_machine_is_taken(monkeypatch, tmp_path):
    record = json.loads((llamacpp.locate().root / "build.json").read_text())
    builds = {"old": record, "new": record, "elsewhere": {**record, "machine": "pdp11"}}
    builds["without-a-server"] = record  # as an older recipe made it
    for age, (key, content) in enumerate(builds.items()):
        root = tmp_path / "retune" / f"llama.cpp-{record['version']}-{key}"
        (root / "bin").mkdir(parents=True)
        for name in installation.PROGRAMS:
            (root / "bin" / name).touch()
        (root / "build.json").write_text(json.dumps(content))
        os.utime(root / "build.json", (age, age))
    (root / "bin" / "llama-server").unlink()
    monkeypatch.delenv("RETUNE_LLAMACPP", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert llamacpp.locate().root.name.endswith("-new")
    monkeypatch.setenv("RETUNE_LLAMACPP", str(root))
    with pytest.raises(llamacpp.LlamaCppNotFound, match="an older retune: run `make llamacpp`"):
        llamacpp.locate()


def test_a_full_disk_is_called_that(gguf, text, tmp_path):
    if (
        os.geteuid()
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", tmp_path], check=False
        ).returncode
    ):
        pytest.skip("only root can mount a small disk")
    try:
        for call in (
            lambda: llamacpp.quantize(gguf, tmp_path / "out.gguf", "q8_0", 1),
            lambda: llamacpp.perplexity(gguf, text, 64, 1, logits=tmp_path / "logits"),
            lambda: fill_up_and_calibrate(gguf, text, tmp_path),
        ):
            with pytest.raises(OSError, match="no space left"):
                call()
        assert not any(tmp_path.iterdir())
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def fill_up_and_calibrate(gguf, text, folder):
    filler = folder / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(1000)):
            pass
    try:
        llamacpp.calibrate(gguf, text, folder / "imatrix.gguf", 64, threads=1)
    finally:
        filler.unlink()


def test_a_killed_program_is_reported_with_its_signal():
    with pytest.raises(process.LlamaCppStopped, match=r"sh was killed by SIGKILL .*memory short"):
        process.run(["sh", "-c", "kill -9 $$"])
    with pytest.raises(process.LlamaCppStopped, match="bad_alloc"):
        process.run(["sh", "-c", "echo std::bad_alloc >&2; kill -ABRT $$"])
    with pytest.raises(process.LlamaCppFailed, match="killed by SIGSEGV") as fault:
        process.run(["sh", "-c", "kill -SEGV $$"])
    assert not isinstance(fault.value, process.LlamaCppStopped)  # likely the file's fault


def test_settings_of_llamacpp_in_the_environment_have_no_effect(monkeypatch, gguf):
    monkeypatch.setenv("LLAMA_ARG_MODEL", str(gguf))
    assert process.run(["sh", "-c", "echo model: $LLAMA_ARG_MODEL"]).stdout == "model:\n"


def test_a_program_that_does_not_end_is_ended() -> None:
    began = time.monotonic()
    with pytest.raises(llamacpp.LlamaCppFailed, match=r"sleep took longer than 0\.5 s"):
        process.run(["sleep", "60"], seconds=0.5)
    assert time.monotonic() - began < 30
