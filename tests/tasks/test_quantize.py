"""A small model that has learned its answers becomes GGUF files; sabotaged ones are caught by name."""

import json
import math
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from expectations import gguf_files as judge
from expectations.verdicts import Judgement, Rejected, Verdict, require
from retune import llamacpp
from retune.disk_space import NoSpaceLeft
from retune.files import size
from retune.held_out import Question, measured_rows
from retune.machine import MachineUnfit
from retune.outputs import Step
from retune.recipe import Recipe, RecipeError
from retune.records import Chats, Gguf, Merged, Pins, Scores
from tasks.quantize import fan_out
from tasks.quantize import task as stage
from tasks.quantize.measures import measure, summed_up
from tests.tasks.conftest import make_base, write_chats

try:
    llamacpp.locate()
except llamacpp.LlamaCppNotFound as missing:
    pytestmark = pytest.mark.skip(reason=str(missing))

STEPS, ROUNDS = 100, 10
HELD_OUT = 64


def recipe_of(**quantization) -> Recipe:
    return Recipe.parse(
        {
            "name": "tiny",
            "model": {"base": "b"},
            "dataset": {"source": "s"},
            "evaluation": {"max_new_tokens": 8},
            "quantization": {"context": 32, "answer_rows": 24, "threads": 2} | quantization,
        }
    )


RECIPE = recipe_of()
PINS = Pins(dataset="sha256:0", model="sha256:0")


class Learned:
    """The outputs of format, evaluate and merge for a model that answers everything right."""

    def __init__(self) -> None:
        self.chats = write_chats(Step(stage="format", key={}), 320, HELD_OUT)
        self.merged = record(Merged, "merge")
        make_base(self.merged.path, hidden=256)  # k-quants take no narrower matrix
        self.scores = record(Scores, "evaluate")
        answers = teach(self.merged.path, self.chats)
        self.scores.answers.write_text(json.dumps(answers))
        self.source = self.convert("good")
        require(self.judged())

    def convert(self, name: str, recipe: Recipe = RECIPE) -> Gguf:
        step = Step(stage="convert", key={"name": name})
        return stage.convert.fn(self.merged, self.chats, recipe, PINS, step)

    def judged(self, source: Gguf | None = None) -> Judgement:
        return judge.source(source or self.source, self.scores, RECIPE)

    def failures(self, gguf: Gguf) -> list[Verdict]:
        """Return what speaks against a quant."""
        return judge.quant(gguf, self.source, RECIPE).failed

    def quantize(self, method: str, imatrix=None, recipe: Recipe = RECIPE) -> Gguf:
        step = Step(stage="quantize", key={"method": method, "recipe": recipe.model_dump()})
        shutil.rmtree(step.folder, ignore_errors=True)
        return stage.quantize.fn(self.source, imatrix, self.chats, method, recipe, PINS, step)


def record(kind, name: str):
    made = kind(step=Step(stage=name, key={}), started=datetime.now(UTC), seconds=0)
    made.folder.mkdir(parents=True)
    return made


def teach(folder: Path, chats: Chats) -> list[dict]:
    """Train the model in `folder` on the chats, and return its answers as evaluate writes them."""
    import pyarrow.parquet as pq
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from retune.held_out import questions
    from retune.models import padded

    tokenizer = AutoTokenizer.from_pretrained(chats.tokenizer)
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rows = pq.read_table(chats.train, columns=["input_ids"])["input_ids"].to_pylist()
    distinct = [list(ids) for ids in sorted(set(map(tuple, rows)))]
    batch = padded(distinct, tokenizer.pad_token_id)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    asked = questions(chats.held_out, HELD_OUT, 64)
    texts = [
        tokenizer.apply_chat_template(q.prompt, tokenize=False, add_generation_prompt=True)
        for q in asked
    ]
    ids = tokenizer(texts, add_special_tokens=False).input_ids
    prompts = padded(ids, tokenizer.pad_token_id, left=True)
    # How many steps it takes depends on the last bits of the machine's arithmetic.
    for _ in range(ROUNDS):
        for _ in range(STEPS):
            model(**batch, labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        model.to(torch.bfloat16).save_pretrained(folder)
        given = model.float().generate(**prompts, max_new_tokens=8, do_sample=False)
        given = given[:, prompts["input_ids"].shape[1] :]
        ends = [tokenizer.eos_token_id in ids for ids in given.tolist()]
        words = tokenizer.batch_decode(given, skip_special_tokens=True)
        if all(ends) and all(q.matches(text) for q, text in zip(asked, words, strict=True)):
            break
    else:
        pytest.fail(f"the model did not learn its rows: {words}")
    return [
        {"row": q.row, "text": text, "stopped": end}
        for q, text, end in zip(asked, words, ends, strict=True)
    ]


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    from prefect.logging import disable_run_logger

    with pytest.MonkeyPatch.context() as patch, disable_run_logger():
        patch.setenv("RETUNE_HOME", str(tmp_path_factory.mktemp("quantize")))
        yield Learned()


@pytest.fixture(scope="module")
def imatrix(learned):
    step = Step(stage="calibrate", key={})
    return stage.calibrate.fn(learned.source, learned.chats, RECIPE, PINS, step)


def test_the_16_bit_gguf_answers_as_the_model_did(learned, tmp_path):
    metrics = learned.source.metrics
    assert metrics["exact_match"] == metrics["stopped"] == metrics["same_prompts"] == 1
    assert metrics["tokens_per_second"] > 0
    assert metrics["perplexity"] > 1
    assert learned.source.files == ("tiny-BF16.Modelfile",)
    assert learned.source.params["eos"] == learned.source.params["eos_learned"] == "3 (<|im_end|>)"
    given = json.loads(learned.source.answers.read_text())
    assert len(given) == RECIPE.quantization.answer_rows
    assert all(one["stopped"] and one["text"] == one["expected"] for one in given)
    judged = learned.judged()
    assert judged.metrics == {"same_answers": 1}
    assert judged.write(tmp_path) == ("differing_answers.json",)
    assert json.loads((tmp_path / "differing_answers.json").read_text()) == []


@pytest.mark.parametrize("method", ["q8_0", "q4_k_m", "q2_k_s"])
def test_a_sound_quant_ships(learned, imatrix, method):
    gguf = learned.quantize(method, imatrix)
    assert not learned.failures(gguf)
    assert not gguf.failure
    assert gguf.sha256 != learned.source.sha256
    assert gguf.params == {
        **{"method": method, "llama.cpp": str(llamacpp.locate())},
        **{"answered_by": "CPU"},
    }
    assert gguf.bytes < learned.source.bytes
    assert gguf.metrics["bits_per_weight"] < 16
    assert 0 < gguf.metrics["kl_divergence"] < 1
    assert gguf.metrics["stopped"] > 0.9
    assert {"same_top_token", "perplexity", "exact_match", "tokens_per_second"} <= set(gguf.metrics)
    modelfile = (gguf.folder / f"tiny-{method.upper()}.Modelfile").read_text()
    assert modelfile.startswith(f"FROM ./{gguf.file}\n")


def test_a_model_that_is_surely_wrong_loses_nothing_by_a_fine_quant(learned, tmp_path):
    """Of likelihoods below e^-16 llama.cpp keeps that bound, where the quant's own are as they are."""
    from gguf import GGUFReader

    sure, quant, logits = (tmp_path / name for name in ("sure.gguf", "q8_0.gguf", "logits"))
    shutil.copyfile(learned.source.path, sure)
    by_name = {tensor.name: tensor for tensor in GGUFReader(sure, "r+").tensors}
    by_name["output_norm.weight"].data[:] *= 8
    text = tmp_path / "shuffled.txt"
    words = (learned.source.folder / "held_out.txt").read_text().split()
    text.write_text(" ".join(sorted(words)))
    perplexity = llamacpp.perplexity(sure, text, 32, threads=2, logits=logits)
    llamacpp.quantize(sure, quant, "q8_0", 2)
    measured = measure(quant, logits, perplexity, RECIPE.quantization)
    assert measured["perplexity"] > math.exp(16)  # else nothing is kept short
    assert measured["perplexity_ratio"] == measured["perplexity"] / perplexity
    assert abs(math.log(measured["perplexity_ratio"])) < 0.2


def test_the_importance_matrix_is_made_of_what_is_not_measured_on(learned, imatrix):
    from gguf import GGUFReader

    measured = (learned.source.folder / "held_out.txt").read_text()
    calibrated = (imatrix.folder / "held_out.txt").read_text()
    assert measured_rows(learned.chats.held_out, RECIPE.quantization) == HELD_OUT // 2
    assert measured.count("user") == calibrated.count("user") == HELD_OUT // 2
    tokens = sum(map(len, llamacpp.tokenize(learned.source.path, [calibrated], add_special=False)))
    assert (
        imatrix.metrics["chunks"] == (tokens - 1) // 32
    )  # one for each control token; not the last \\n
    names = {tensor.name for tensor in GGUFReader(imatrix.path).tensors}
    assert "blk.1.ffn_down.weight.in_sum2" in names
    with_it, without = (learned.quantize("q2_k", each) for each in (imatrix, None))
    assert with_it.sha256 != without.sha256


@pytest.mark.parametrize("stage_of", ["convert", "calibrate"])
def test_too_little_held_out_text_names_the_settings(learned, stage_of, monkeypatch):
    monkeypatch.setattr(llamacpp, "convert", copying(learned.source.path))
    recipe = recipe_of(context=512, perplexity_rows=HELD_OUT)
    with pytest.raises(llamacpp.TextTooShort, match=r"tokens; 1024 are needed .*held_out_share"):
        if stage_of == "convert":
            learned.convert("short", recipe)
        else:
            step = Step(stage="calibrate", key={"short": 1})
            stage.calibrate.fn(learned.source, learned.chats, recipe, PINS, step)


def copying(source: Path, change=lambda path: None):
    """Return what stands in for a conversion: the GGUF `source`, with a change."""

    def convert(_model, out, **_):
        shutil.copy(source, out)
        change(out)

    return convert


# Sabotage: of the 16-bit GGUF, then of a quant.


def wrong_eos(fields) -> None:
    value(fields["tokenizer.ggml.eos_token_id"])[0] = 1


def double_bos(fields) -> None:
    value(fields["tokenizer.ggml.add_bos_token"])[0] = True


def no_template(fields) -> None:
    name = fields["tokenizer.chat_template"].parts[1]
    name[:] = bytearray(b"tokenizer.chat_nothing_")[: len(name)]


def another_template(fields) -> None:
    template = fields["tokenizer.chat_template"].parts[-1]
    template[:] = bytearray(bytes(template).replace(b"im_start", b"im_begin"))


def value(field):
    return field.parts[field.data[0]]


@pytest.mark.parametrize(
    ("sabotage", "name", "message"),
    [
        (wrong_eos, "eos", r"a turn with, 3 \(<\|im_end\|>\); seen: 1 \(<\|pad\|>\)"),
        (double_bos, "prompts", r"seen: double BOS.*24 of 24 prompts"),
        pytest.param(
            *(another_template, "prompts", "seen: wrong chat template"), marks=pytest.mark.proof
        ),
    ],
)
def test_a_gguf_that_misreads_the_chat_stops_the_run(learned, monkeypatch, sabotage, name, message):
    sabotage_conversion(learned, monkeypatch, sabotage)
    source = learned.convert(sabotage.__name__)
    judged = learned.judged(source)
    assert name in [verdict.name for verdict in judged.failed]
    with pytest.raises(Rejected, match=message):
        require(judged)
    assert source.path.exists()
    assert source.step.done


def sabotage_conversion(learned, monkeypatch, sabotage) -> None:
    from gguf import GGUFReader

    convert = copying(learned.source.path, lambda path: sabotage(GGUFReader(path, "r+").fields))
    monkeypatch.setattr(llamacpp, "convert", convert)


def test_a_gguf_is_not_asked_what_its_context_has_no_room_for(learned):
    """Held-out conversations may be longer than any that was trained, and than the base can read."""
    short = RECIPE.model.model_copy(update={"max_length": 2})
    source = learned.convert("no question", RECIPE.model_copy(update={"model": short}))
    assert "stopped" not in source.metrics
    failed = learned.judged(source).failed
    assert [verdict.name for verdict in failed] == ["prompts"]
    assert "no held-out conversation fits into model.max_length" in str(failed[0])


def test_a_gguf_that_cannot_be_asked_stops_the_run(learned, monkeypatch):
    sabotage_conversion(learned, monkeypatch, no_template)
    with pytest.raises(llamacpp.AnsweringFailed, match="has no chat template"):
        learned.convert("no_template")
    assert not list(Path(learned.source.folder.parent).glob("*.partial"))


def test_a_gguf_with_another_tensor_stops_the_run(learned, monkeypatch):
    convert = copying(learned.source.path, lambda path: corrupt(path, "blk.0.ffn_down.weight"))
    monkeypatch.setattr(llamacpp, "convert", convert)
    source = learned.convert("tensor")
    judged = learned.judged(source)
    failed = {verdict.name for verdict in judged.failed}
    assert failed
    assert failed <= {"stopped", "exact_match"}
    with pytest.raises(
        Rejected, match=r"24 of 24, but for a share of .* and chance; seen: \d+ of 24 "
    ):
        require(judged)
    assert source.path.exists()


def corrupt(path: Path, name: str) -> None:
    """Reverse the rows of one tensor: sound numbers, in the wrong place."""
    from gguf import GGUFReader

    tensor = next(t for t in GGUFReader(path, "r+").tensors if t.name == name)
    tensor.data[:] = tensor.data[::-1].copy()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-2000]), "it does not load"),
        (lambda path: path.write_bytes(b"GGUF"), "it does not load"),
        (
            lambda path: corrupt(path, "blk.0.ffn_down.weight"),
            r"KL divergence .*at most 0\.15 nats per token; .*"
            r"\(quantization\.gates\.q4_k_m\.max_kl_divergence\)",
        ),
    ],
    ids=["truncated", "cut to nothing", "one tensor corrupted"],
)
def test_a_broken_quant_is_kept_and_marked(learned, imatrix, monkeypatch, damage, reason):
    quantize = llamacpp.quantize

    def damaging(source, out, *arguments):
        quantize(source, out, *arguments)
        damage(out)

    monkeypatch.setattr(llamacpp, "quantize", damaging)
    gguf = learned.quantize("q4_k_m", imatrix)
    failures = learned.failures(gguf)
    assert any(re.search(reason, str(verdict)) for verdict in failures)
    assert bool(gguf.failure) is (reason == "it does not load")
    assert gguf.path.exists()
    assert gguf.step.done
    assert gguf.answers.exists()


def test_a_killed_program_is_no_verdict_on_the_file(learned, monkeypatch):
    def killed(*_):
        raise llamacpp.LlamaCppStopped("killed")

    monkeypatch.setattr(llamacpp, "divergence", killed)
    with pytest.raises(llamacpp.LlamaCppStopped):
        learned.quantize("q8_0")


# The preflights.


def have_free(monkeypatch, count: float) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=count))


@pytest.mark.parametrize("several_parts", [False, True])
def test_no_room_for_the_logits_is_said_before_converting(learned, monkeypatch, several_parts):
    file = learned.merged.path / "config.json"
    config = json.loads(whole := file.read_text())
    if several_parts:  # their configuration names the vocabulary deeper
        file.write_text(json.dumps({"text_config": config}))
    monkeypatch.setattr(llamacpp, "convert", lambda *_, **__: pytest.fail("it began"))
    have_free(monkeypatch, size(learned.merged.path) + 10_000)
    try:
        with pytest.raises(NoSpaceLeft, match=r"logits on 480 held-out tokens .*perplexity_rows"):
            learned.convert("full disk")
    finally:
        file.write_text(whole)


def test_the_preflight_knows_the_sizes_and_starts_with_the_slowest(learned, monkeypatch):
    monkeypatch.setattr(fan_out, "cores", lambda: 16)
    config = recipe_of(methods=["q8_0", "q4_k_m", "q2_k"], threads=None).quantization
    found = fan_out.fan_out(learned.source.path, config.methods, config, Path("/tmp"))
    assert set(found.methods) == set(config.methods)
    assert found.methods[-1] == "q8_0"
    assert found.parallel == 3
    assert found.threads == 6
    out = learned.source.folder.parent / "whole.gguf"
    llamacpp.quantize(learned.source.path, out, "q8_0", 1)
    assert found.sizes[-1] == pytest.approx(out.stat().st_size, rel=0.05)


def test_the_preflight_says_what_fits_on_the_disk(learned, monkeypatch):
    config = recipe_of(methods=["q8_0", "q4_k_m", "q2_k"]).quantization
    sizes = {
        method: llamacpp.quantized_size(learned.source.path, method) for method in config.methods
    }
    have_free(monkeypatch, fan_out.DISK_BESIDE + sizes["q4_k_m"] + sizes["q2_k"])
    with pytest.raises(NoSpaceLeft, match=r"q4_k_m, q2_k would fit, q8_0 .* not.*RETUNE_HOME"):
        fan_out.fan_out(learned.source.path, config.methods, config, Path("/tmp"))


def test_the_preflight_shares_out_the_memory(learned, monkeypatch):
    config = recipe_of(threads=None).quantization
    monkeypatch.setattr(fan_out, "cores", lambda: 16)
    alone = fan_out.fan_out(learned.source.path, config.methods, config, Path("/tmp"))
    monkeypatch.setattr(fan_out, "free_memory", lambda: int(alone.memory * 2.2))
    assert fan_out.fan_out(learned.source.path, config.methods, config, Path("/tmp")).parallel == 2
    monkeypatch.setattr(fan_out, "free_memory", lambda: alone.memory - 1)
    with pytest.raises(MachineUnfit, match="no method fits"):
        fan_out.fan_out(learned.source.path, config.methods, config, Path("/tmp"))


def test_a_method_that_needs_an_imatrix_is_refused_without_one():
    with pytest.raises(RecipeError, match="iq2_xs cannot do without an importance matrix"):
        recipe_of(methods=["iq2_xs", "q8_0"], imatrix="never")
    assert recipe_of(methods=["iq2_xs"]).quantization.calibrates
    assert not recipe_of(methods=["q8_0"]).quantization.calibrates


@pytest.mark.parametrize(
    ("length", "right", "applies"), [(10, 0, True), (400, 0, False), (400, 2, True), (80, 0, True)]
)
def test_free_text_has_no_exact_match(length, right, applies):
    """As evaluate has it; and a quant is measured by what its source was measured by."""
    questions = [Question(row, "s", [], f"{row}{'x' * (length - 1)}") for row in range(8)]
    said = [question.expected if question.row < right else "?" for question in questions]
    answered = llamacpp.Answered(
        [llamacpp.Answer(text, "stop", tokens=1, prompt_tokens=1) for text in said], 1.0
    )
    metrics = summed_up(questions, answered)
    assert metrics.get("exact_match") == (right / 8 if applies else None)
    assert metrics["stopped"] == 1
    for of_source in ({}, {"exact_match": 0.5}):
        source = Gguf.model_construct(metrics=of_source)
        assert ("exact_match" in summed_up(questions, answered, source)) == bool(of_source)
