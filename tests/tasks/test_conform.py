"""The gate before any GPU time: what could not be served as trained is named, with the fix."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from expectations import conform as conforming
from expectations.verdicts import Rejected, require
from retune import llamacpp
from retune.architecture import Architecture, Layer
from retune.chat import CHATML, END, chatml_tokenizer
from retune.llamacpp import converter
from retune.loaders import new_model
from retune.outputs import Step, read_output
from retune.recipe import Model, Recipe, RecipeError
from retune.recipe.gates import EXPECTATIONS
from retune.records import Check, Conformance, Pins
from retune.sources import pin
from retune.tool_text import AS_TEXT
from tasks.conform import gguf_child
from tasks.conform.checks import CHATS, mergeable, tokenizer_checks, without_recurrence
from tasks.conform.examination import ExaminationReport, examine
from tasks.conform.parity import gguf_checks, header_checks, quantizable
from tasks.conform.readings import reading
from tasks.conform.task import conform
from tasks.conform.texts import PER_KIND, texts
from tasks.conform.tiny import save_tiny, save_twin, shrink
from tests.architectures import GRANITE_4_MICRO, GRANITE_4_TINY
from tests.retune.conftest import bpe_tokenizer

try:
    llamacpp.locate()
except llamacpp.LlamaCppNotFound as missing:
    pytestmark = pytest.mark.skip(reason=str(missing))

STEP = Step(stage="conform", key={"test": 1})
LINEAR = Architecture(layers=(Layer(path="model.layers.0.self_attn.q_proj", weights=1),))


def make_base(folder: Path, regex: str, normalizer: dict | None, template: str | None) -> Path:
    """Write what the check reads of a base: its configuration and a ChatML tokenizer, no weights."""
    from tokenizers import Tokenizer
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    core = json.loads(bpe_tokenizer(regex).to_str())
    core["normalizer"] = normalizer
    core["model"]["ignore_merges"] = regex == converter.LLAMA3_REGEX
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(core)),
        bos_token="<|endoftext|>",
        eos_token=END,
        pad_token="<|endoftext|>",
    )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    # The shape of Llama 3.1 8B; rotary factors that fit heads of 128 alone.
    LlamaConfig(
        vocab_size=len(tokenizer),
        num_key_value_heads=8,
        max_position_embeddings=131_072,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 5e5,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"), converter.LLAMA3_REGEX, None, CHATML)


def tokenizer_of(base: Path):
    return chatml_tokenizer(str(base), None, "map_eos")


def recipe(base: Path | str, **settings) -> Recipe:
    values = {"name": "r", "model": {"base": str(base)}, "dataset": {"source": "d.jsonl"}}
    return Recipe.parse(values | settings, "r")


def failures(checks) -> dict[str, str]:
    """Return what the judge says of the failed checks and how to mend them, by name."""
    verdicts = [conforming.verdict(check, recipe("b")) for check in checks if not check.passed]
    return {verdict.expected: f"{verdict}. {verdict.fix}" for verdict in verdicts}


def run(base: Path, home: Path, monkeypatch, **settings) -> Conformance:
    """Run the stage on `base` as the flow does."""
    from prefect.logging import disable_run_logger

    monkeypatch.setenv("RETUNE_HOME", str(home))
    with disable_run_logger():
        pins = Pins(dataset="d", model=pin(str(base), None, "model", "model.base"))
        return conform.fn(recipe(base, **settings), pins, STEP)


def report_of(output: Conformance) -> dict:
    report = json.loads((output.folder / "report.json").read_text())
    assert output.metrics["checks"] == len(report["checks"])
    assert output.metrics["texts"] == sum(report["parity"]["texts"].values())
    return report


def judged(report: ExaminationReport, folder: Path, monkeypatch):
    """Return the verdicts on an output with this report."""
    monkeypatch.setenv("RETUNE_HOME", str(folder))
    output = Conformance(step=STEP, started=datetime.now(UTC), seconds=0)
    output.folder.mkdir(parents=True)
    (output.folder / "report.json").write_text(report.model_dump_json())
    return conforming.judgement(output, recipe("b"))


def test_a_sound_base_passes_without_weights(base, tmp_path, monkeypatch):
    assert not list(base.glob("*.safetensors"))
    output = run(base, tmp_path, monkeypatch)
    report = report_of(output)
    assert all(check["passed"] for check in report["checks"])
    assert sum(report["parity"]["texts"].values()) >= 10_000
    assert report["parity"]["differing"] == []
    verdicts = conforming.judgement(output, recipe(base)).verdicts
    assert all(verdict.passed for verdict in verdicts)
    of_adapter = len(EXPECTATIONS["conform"])
    assert len({verdict.name for verdict in verdicts}) == len(report["checks"]) + of_adapter
    layers = report["architecture"]["layers"]
    assert len(layers) == 32 * 7  # as many as the base has, not the tiny model
    assert sum(layer["weights"] for layer in layers) == 32 * 177_209_344


@pytest.mark.proof  # a whole examination
def test_a_composing_normalizer_differs_on_decomposed_text_alone(tmp_path, monkeypatch):
    base = make_base(tmp_path / "base", converter.QWEN2_REGEX, {"type": "NFC"}, CHATML)
    output = run(base, tmp_path, monkeypatch)
    report = report_of(output)
    assert conforming.judgement(output, recipe(base)).failed == []
    assert report["parity"]["decomposed"] > 10
    assert report["parity"]["differing"] == []


@pytest.mark.proof  # a whole examination
def test_llamacpp_has_no_say_if_there_will_be_no_gguf(tmp_path, monkeypatch):
    base = make_base(tmp_path / "base", r"\p{N}{1,2}|[^\p{N}]", None, CHATML)
    report = examine(Model(base=str(base)), None, gguf=None)
    assert report.checks
    assert all(check.passed for check in report.checks)
    assert report.parity is None
    output = run(base, tmp_path, monkeypatch, merging={"save_method": "lora"})
    assert (
        ExaminationReport.model_validate_json((output.folder / "report.json").read_text()) == report
    )
    require(conforming.judgement(output, recipe(base)))


def test_what_a_base_says_forges_no_line_of_the_error(tmp_path, monkeypatch):
    said = "\x1b[32mall is well\n- EOS: passed\u202e"
    check = Check(name="it can be read", passed=False, seen=said, fix="repair it")
    report = ExaminationReport(
        base="b\x07",
        chat_tokens="add",
        tokenizer="t",
        checks=[check],
        parity=None,
        architecture=LINEAR,
    )
    with pytest.raises(Rejected) as error:
        require(judged(report, tmp_path, monkeypatch))
    assert str(error.value).splitlines() == [
        r"b\x07 as base model rejected: 1 critical expectation failed over 4 checks",
        r"- expected: it can be read; seen: \x1b[32mall is well",
        r"  - EOS: passed\u202e",
        "Repair it.",
        "It cannot be trained and served as the recipe wants.",
    ]


def test_an_adapter_on_names_of_another_architecture_is_refused(base, tmp_path, monkeypatch):
    """Before any GPU time; the report is the same for every recipe."""
    output = run(base, tmp_path, monkeypatch, merging={"save_method": "lora"})
    attention = {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj"]}
    with pytest.raises(Rejected, match=r"training\.target_modules=auto for all of them") as error:
        require(conforming.judgement(output, recipe(base, training=attention)))
    assert error.match("conform.trained_share: warning")
    warned = {"severities": {"conform.trained_share": "warning"}}
    require(conforming.judgement(output, recipe(base, training=attention, gates=warned)))
    full = {"method": "full", "master_weights": "bfloat16"}
    whole = recipe(
        base, training=full, model={"base": str(base), "load_in_4bit": False}, gates=warned
    )
    assert conforming.judgement(output, whole).failed == []


@pytest.mark.parametrize(
    ("stored", "passed"),
    [
        ({"quant_method": "mxfp4"}, False),
        ({"quant_method": "fp8"}, False),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, False),
        ({"load_in_4bit": True}, True),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, True),
        (None, True),
    ],
)
def test_weights_that_merge_cannot_read_are_told_before_training(base, tmp_path, stored, passed):
    folder = shutil.copytree(base, tmp_path / "base")
    settings = json.loads((folder / "config.json").read_text()) | {"quantization_config": stored}
    (folder / "config.json").write_text(json.dumps(settings))
    check = mergeable(str(folder), None)
    assert check.passed is passed
    assert stored is None or passed or str(stored["quant_method"]) in check.seen


def test_an_unknown_tokenizer_is_named_with_all_other_failures(tmp_path, monkeypatch):
    template = CHATML.replace("<|im_end|>", "<|stop|>")
    base = make_base(tmp_path / "base", r"\p{N}{1,2}|[^\p{N}]", None, template)
    output = run(base, tmp_path, monkeypatch)
    with pytest.raises(Rejected) as error:
        require(conforming.judgement(output, recipe(base)))
    for words in (
        f"tokenizer of {base}: llama.cpp has no name for how this tokenizer splits text",
        "Choose a model.base that llama.cpp supports",
        "EOS ends an assistant's turn; seen: an answer is followed by '<|stop|>\\n'",
    ):
        assert words in str(error.value)
    assert read_output(STEP, Conformance).metrics == output.metrics
    assert (output.folder / "report.json").is_file()


def test_severities_decide_which_checks_block(tmp_path, monkeypatch):
    base = make_base(tmp_path / "base", r"\p{N}{1,2}|[^\p{N}]", None, CHATML)
    output = run(base, tmp_path, monkeypatch)
    (failed,) = conforming.judgement(output, recipe(base)).failed
    told = recipe(base, gates={"severities": {f"conform.{failed.name}": "warning"}})
    judgement = conforming.judgement(output, told)
    assert judgement.failed == []
    assert failed.name in {verdict.name for verdict in judgement.verdicts if not verdict.passed}
    with pytest.raises(
        RecipeError, match=r"conform.nothing names no check .*; there are: .*one_bos"
    ):
        conforming.judgement(
            output, recipe(base, gates={"severities": {"conform.nothing": "info"}})
        )


@pytest.mark.parametrize(
    ("template", "name", "words"),
    [
        ("{% for m in messages %}", "the template renders a single turn", "refuses it"),
        (
            "{{ raise_exception('no') }}",
            "the template renders a single turn",
            "remove it: ChatML's",
        ),
        ("{{ messages[-1]['content'] }}", "the template renders several turns", "is not in"),
        (
            CHATML.replace("assistant\\n' }}{% endif", "' }}{% endif"),
            "the template renders a single turn",
            "asked would be",
        ),
        (
            CHATML.replace("<|im_end|>", "<|endoftext|>"),
            "EOS ends an assistant's turn",
            r"'<|endoftext|>\n', whose first token is ['<|endoftext|>']; EOS is '<|im_end|>'",
        ),
        (
            CHATML.replace(
                "message['role'] +", "message['role'] | replace('assistant', 'model') +"
            ),
            "the template renders a system message",
            "which is not what it begins with",
        ),
    ],
)
def test_a_template_is_broken(base, tmp_path, template, name, words):
    broken = shutil.copytree(base, tmp_path / "base")
    (broken / "chat_template.jinja").write_text(template)
    found = failures(tokenizer_checks(tokenizer_of(broken), "map_eos"))
    assert words in found[name]


@pytest.mark.parametrize(
    ("bomb", "words"),
    [
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            " 1 s of",
        ),
        ("{{ 'a' * 10**10 }}", "MemoryError"),
        ("{{ messages[0].content.__class__.__mro__ }}", "SecurityError"),
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ '\\0' }}", "NUL"),
    ],
)
def test_a_template_that_does_harm_is_a_check_that_failed(base, tmp_path, monkeypatch, bomb, words):
    monkeypatch.setattr("retune.templates.SECONDS", 1.0)
    hostile = shutil.copytree(base, tmp_path / "base")
    (hostile / "chat_template.jinja").write_text(bomb + CHATML)
    found = failures(tokenizer_checks(tokenizer_of(hostile), "map_eos"))
    assert words in found["the template renders a single turn"]


@pytest.mark.proof  # a whole examination; test_templates.py has the sentences
def test_a_sentence_on_condition_is_a_warning_with_both_renderings(base, tmp_path, monkeypatch):
    template = CHATML.replace(
        "{% endfor",
        "\n{% if 'Paris' in message['content'] %}{{ 'Buy now.' }}{% endif %}\n{% endfor",
    )
    odd = shutil.copytree(base, tmp_path / "base")
    (odd / "chat_template.jinja").write_text(template)
    output = run(odd, tmp_path, monkeypatch)
    assert ExaminationReport.model_validate(report_of(output)).checks
    judgement = conforming.judgement(output, recipe(odd))
    assert judgement.failed == []
    line, whole = (verdict for verdict in judgement.verdicts if not verdict.passed)
    assert {line.severity, whole.severity} == {"warning"}
    added = CHATML.count("\n") + 2
    assert line.expected == f"line {added} of the template does not depend on content"
    assert "{% if 'Paris' in message['content'] %}" in line.seen
    assert "Paris<|im_end|>\\n\\nBuy now.<|im_start|>assistant" in line.seen
    assert "instead of '<|im_start|>user\\nParis<|im_end|>\\n\\n<|im_start|>assistant" in line.seen
    assert whole.expected == "the template writes messages as they are"


@pytest.mark.parametrize(
    ("template", "form"),
    [
        (
            "{% for message in messages %}{% if message.role == 'system' %}"
            "{{ raise_exception('System role not supported') }}{% endif %}{% endfor %}" + CHATML,
            "a system message",
        ),
        (
            "{% for message in messages %}{% if message.role == 'tool' %}"
            "{{ raise_exception('no tools here') }}{% endif %}{% endfor %}" + CHATML,
            "tool calls",
        ),
    ],
)
def test_a_role_that_the_template_refuses_is_a_warning(base, tmp_path, template, form):
    """Gemma 2 and Mistral have no system messages; rows with one are counted by format's gate."""
    choosy = shutil.copytree(base, tmp_path / "base")
    (choosy / "chat_template.jinja").write_text(template)
    checks = {check.name: check for check in tokenizer_checks(tokenizer_of(choosy), "map_eos")}
    refused = checks[f"the template renders {form}"]
    assert (refused.passed, refused.severity) == (False, "warning")
    assert "the template refuses it: " in refused.seen
    critical = {n for n, c in checks.items() if not c.passed and c.severity == "critical"}
    assert critical == set()


DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\\nYou are kind.<|im_end|>\\n' }}"
    "{% endif %}" + CHATML
)


def test_a_system_message_of_the_templates_own_is_told(base, tmp_path):
    name = "the template adds no system message"
    own = shutil.copytree(base, tmp_path / "base")
    checks = {check.name: check for check in tokenizer_checks(tokenizer_of(own), "map_eos")}
    assert checks[name].passed
    (own / "chat_template.jinja").write_text(DEFAULT_SYSTEM)
    checks = {check.name: check for check in tokenizer_checks(tokenizer_of(own), "map_eos")}
    assert (checks[name].passed, checks[name].severity) == (False, "info")
    assert "begin with 'You are kind.'" in checks[name].seen


@pytest.mark.parametrize(
    ("template", "wrong"),
    [
        (CHATML, set()),
        # Its header ends where the content begins, so that the line break is learned, not the end.
        (CHATML.replace("+ '<|im_end|>' + '\\n'", "+ '\\n'"), {*CHATS}),
        # No header by which the assistant's turns could be told from the user's.
        (CHATML.replace("message['role'] + '\\n'", "'assistant\\n'"), {*CHATS}),
    ],
)
def test_answers_and_their_ends_are_learned_and_nothing_else(base, tmp_path, template, wrong):
    folder = shutil.copytree(base, tmp_path / "base")
    (folder / "chat_template.jinja").write_text(template)
    checks = list(tokenizer_checks(tokenizer_of(folder), "map_eos", "responses"))
    about = [check for check in checks if check.name.startswith("answers are learned")]
    assert len(about) == len(CHATS)
    assert {c.name.removeprefix("answers are learned in ") for c in about if not c.passed} == wrong
    assert not any(
        check.name.startswith("answers are learned")
        for check in tokenizer_checks(tokenizer_of(folder), "map_eos", "all")
    )


def test_a_tokenizer_that_splits_a_control_token_is_caught(base):
    tokenizer = tokenizer_of(base)
    lower = {"type": "Lowercase"}
    changed = json.loads(tokenizer.backend_tokenizer.to_str()) | {"normalizer": lower}
    for token in changed["added_tokens"]:
        token["special"] = False
    from tokenizers import Tokenizer

    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(changed))
    found = failures(tokenizer_checks(tokenizer, "add"))
    assert "model.chat_tokens" in found["ChatML's tokens are control tokens"]
    assert "lossless" in found["the template renders a single turn"]


def test_two_bos_are_one_too_many(base, tmp_path):
    """The tokenizer's post-processor and the template both write it."""
    from tokenizers import processors

    both = shutil.copytree(base, tmp_path / "base")
    tokenizer = tokenizer_of(base)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    tokenizer.save_pretrained(both)
    assert not failures(tokenizer_checks(tokenizer_of(both), "map_eos"))
    (both / "chat_template.jinja").write_text("{{ bos_token }}" + CHATML)
    found = failures(tokenizer_checks(tokenizer_of(both), "map_eos"))
    assert "written by tokenizer and template" in found["one BOS"]
    assert "Remove bos_token from chat_template" in found["one BOS"]


def test_a_gguf_without_template_and_with_another_eos_is_caught(base, tmp_path):
    from gguf import GGUFWriter

    writer = GGUFWriter(tmp_path / "out.gguf", "llama")
    writer.add_eos_token_id(0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    found = failures(header_checks(tmp_path / "out.gguf", reading(tokenizer_of(base))))
    assert "seen: None. Save chat_template.jinja" in found["the GGUF carries the chat template"]
    assert "seen: 0; the tokenizer's is 2" in found["the GGUF's EOS is the tokenizer's"]


def test_what_llamacpp_reads_otherwise_is_shown_with_both_ids(base, tmp_path, monkeypatch):
    """The GGUF has BOS on, training had none, and its tokenizer knows no merges."""
    from tokenizers import Tokenizer

    tokenizer = tokenizer_of(base)
    save_tiny(Model(base=str(base)), None, tokenizer, tmp_path / "tiny")
    llamacpp.convert(tmp_path / "tiny", tmp_path / "out.gguf", add_bos=True)
    plain = json.loads(tokenizer.backend_tokenizer.to_str())
    plain["model"]["merges"] = plain["model"]["merges"][:20]
    plain["model"]["ignore_merges"] = False
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(plain))
    checks, parity = gguf_checks(tmp_path / "out.gguf", reading(tokenizer))
    report = ExaminationReport(
        base="b",
        chat_tokens="add",
        tokenizer="t",
        checks=checks,
        parity=parity,
        architecture=LINEAR,
    )
    with pytest.raises(Rejected) as error:
        require(judged(report, tmp_path / "home", monkeypatch))
    assert error.match(
        r"(?s).*llama.cpp makes the prompts that are trained; seen: \d+ tokens instead of"
    )
    # Odd texts are told, not held against it.
    (told,) = [check for check in checks if check.severity == "warning" and not check.passed]
    assert "in Hugging Face's tokenizer and" in told.seen
    assert f"of {PER_KIND} each" in told.seen
    assert sum(parity.differing_texts.values()) > len(parity.differing)
    first = parity.differing[0]
    assert first.hugging_face != first.llama_cpp
    assert first.hugging_face == tokenizer(first.text, add_special_tokens=False).input_ids


def test_a_tiny_model_has_a_layer_of_each_kind():
    """llama.cpp loads no LFM2 without attention, and its first layers are convolutions."""
    from transformers import Gemma3TextConfig, Lfm2Config, LlamaConfig

    kinds = ["conv", "conv", *4 * ["full_attention", "conv"]]
    lfm2 = Lfm2Config(layer_types=kinds, num_hidden_layers=len(kinds))
    shrink(lfm2)
    assert lfm2.num_hidden_layers == 3
    assert lfm2.layer_types == ["conv", "conv", "full_attention"]
    gemma = Gemma3TextConfig()
    shrink(gemma)
    assert gemma.layer_types == [*5 * ["sliding_attention"], "full_attention"]
    plain = LlamaConfig()
    shrink(plain)
    assert plain.num_hidden_layers == 2


def test_a_tiny_mixture_chooses_as_the_large_one_does():
    """Behind its dense layers, two of four experts in groups; llama.cpp's way to weight them shows."""
    from transformers import DeepseekV3Config, Glm4MoeLiteConfig, Lfm2MoeConfig, Llama4TextConfig

    grouped = DeepseekV3Config()
    assert grouped.first_k_dense_replace == 3
    shrink(grouped)
    assert grouped.first_k_dense_replace < grouped.num_hidden_layers
    assert (grouped.n_routed_experts, grouped.num_experts_per_tok) == (4, 2)
    assert (grouped.n_group, grouped.topk_group) == (2, 1)
    listed = Glm4MoeLiteConfig()
    shrink(listed)
    assert listed.mlp_layer_types == ["dense", "sparse"]
    behind = Lfm2MoeConfig(num_dense_layers=2)
    shrink(behind)
    assert behind.num_dense_layers == 1 < behind.num_hidden_layers
    single = Llama4TextConfig()
    shrink(single)
    assert single.num_experts_per_tok == 1


def test_a_tiny_model_has_as_many_heads_of_keys_as_of_queries_if_its_base_has():
    """So llama.cpp's converter takes apart what DeepSeek's latent attention makes both of."""
    from transformers import DeepseekV3Config, LlamaConfig

    latent, grouped = DeepseekV3Config(), LlamaConfig(num_key_value_heads=8)
    shrink(latent)
    assert latent.num_key_value_heads == latent.num_attention_heads
    assert latent.n_group < latent.n_routed_experts  # or llama.cpp does not load it
    shrink(grouped)
    assert grouped.num_key_value_heads == 1


def test_why_a_model_cannot_be_quantized_is_told(tmp_path, monkeypatch):
    def fail(*_):
        reason = "warning: blk.0.attn_k_b.weight - ncols 16 not divisible by 32"
        raise llamacpp.LlamaCppFailed(f"status 1: much\n{reason}\nllama_quantize: failed")

    monkeypatch.setattr(llamacpp, "quantized_size", fail)
    check = quantizable(tmp_path / "tiny.gguf")
    assert not check.passed
    assert "ncols 16 not divisible by 32; llama_quantize: failed" in check.seen


def test_the_texts_are_many_valid_and_the_same_each_time(base):
    tokenizer = tokenizer_of(base)
    made = texts(tokenizer)
    assert made == texts(tokenizer)
    assert {len(of_kind) for of_kind in made.values()} == {PER_KIND}
    for of_kind in made.values():
        assert len(set(of_kind)) > PER_KIND / 2
        "".join(of_kind).encode()
    assert any("\u200d" in text for text in made["emoji"])
    assert sum(END in text for text in made["control tokens in text"]) > 100
    assert all(chat[-1]["role"] == "assistant" for chat in CHATS.values())


def test_the_twin_has_the_weights_of_the_tiny_model_and_its_own_padding(base, tmp_path):
    """Rows of random numbers, but for what the model trained of it takes for padding."""
    from safetensors.torch import load_file

    tokenizer, model = tokenizer_of(base), Model(base=str(base))
    tiny = save_tiny(model, None, tokenizer, tmp_path / "tiny")
    save_twin(model, None, tokenizer, tmp_path / "twin", tiny)
    save_twin(model, None, tokenizer, tmp_path / "anew")
    small = load_file(tmp_path / "tiny" / "model.safetensors")
    twin = load_file(tmp_path / "twin" / "base" / "model.safetensors")
    rows = "model.embed_tokens.weight"
    assert not small[rows][tokenizer.pad_token_id].any()
    assert twin[rows][tokenizer.pad_token_id].any()
    differing = {name for name in small | twin if not small[name].equal(twin[name])}
    assert differing == {rows}
    for folder in ("base", "tokenizer"):
        texts = [
            {path.name: path.read_text() for path in (tmp_path / name / folder).glob("*.json*")}
            for name in ("twin", "anew")
        ]
        assert texts[0] == texts[1]
        assert texts[0]


TOOLS_NAME = "the template writes `tools` as rows have them"
CALLS_NAME = "the template writes `tool_calls` as rows have them"


@pytest.mark.parametrize(
    ("template", "differing"),
    [
        (CHATML, {}),
        # Of before: what is no content is lost.
        (
            CHATML.removeprefix(AS_TEXT),
            {
                TOOLS_NAME: "'<|im_start|>user\\nHow warm is it?<|im_end|>",
                CALLS_NAME: "<|im_start|>assistant\\n<|im_end|>",
            },
        ),
        # Another way for one of the two.
        (CHATML.replace("'\\n</tool_call>'", "'</tool_call>'"), {CALLS_NAME: "}}</tool_call>"}),
        (CHATML.replace("(tool | tojson)", "(tool | string)"), {TOOLS_NAME: "{'type': 'function'"}),
    ],
)
def test_tools_that_are_written_otherwise_than_in_rows_are_told(
    base, tmp_path, template, differing
):
    own = shutil.copytree(base, tmp_path / "base")
    (own / "chat_template.jinja").write_text(template)
    checks = {check.name: check for check in tokenizer_checks(tokenizer_of(own), "map_eos")}
    for name in (TOOLS_NAME, CALLS_NAME):
        assert checks[name].passed == (name not in differing), checks[name].seen
        assert checks[name].severity == "info"  # most rows have no tools
    for name, made in differing.items():
        rendered, _, expected = checks[name].seen.partition(" instead of ")
        assert made in rendered
        assert made not in expected


def test_rows_that_a_template_refuses_are_not_held_against_its_tools(base, tmp_path):
    strict = "{% for message in messages %}{% if message.role in ('tool', 'system') %}"
    strict += "{{ raise_exception('no') }}{% endif %}{% endfor %}"
    own = shutil.copytree(base, tmp_path / "base")
    (own / "chat_template.jinja").write_text(strict + CHATML.removeprefix(AS_TEXT))
    checks = {check.name: check for check in tokenizer_checks(tokenizer_of(own), "map_eos")}
    assert checks[TOOLS_NAME].passed
    assert checks[CALLS_NAME].passed


@pytest.mark.parametrize(
    ("config", "settings", "passes"),
    [
        ("FalconH1Config", {}, False),
        ("JambaConfig", {}, False),
        ("Mamba2Config", {"num_heads": 4, "head_dim": 32, "hidden_size": 64}, False),
        ("BambaConfig", {"attn_layer_indices": [1], "num_hidden_layers": 3}, False),
        ("NemotronHConfig", {}, False),
        ("Qwen3NextConfig", {}, False),
        ("GraniteMoeHybridConfig", {"layer_types": ["mamba"] * 31 + ["attention"]}, True),
        ("Lfm2Config", {}, True),  # convolutions look back a few tokens, and are no recurrence
        ("GptOssConfig", {}, True),
        ("LlamaConfig", {}, True),
    ],
)
def test_recurrent_layers_are_refused_by_name(tmp_path, config, settings, passes):
    import transformers

    made = getattr(transformers, config)(**settings)
    made.save_pretrained(tmp_path)
    check = without_recurrence(str(tmp_path), None)
    assert check.passed == passes
    assert passes or f"{made.model_type} has recurrent layers" in check.seen
    assert "Granite" in check.fix


def test_a_mixture_without_experts_stays_without():
    """Granite 4's dense models have a mixture's configuration."""
    from transformers import GraniteMoeHybridConfig

    settings = {"num_local_experts": 0, "num_experts_per_tok": 0, "shared_intermediate_size": 8192}
    config = GraniteMoeHybridConfig(layer_types=["attention"] * 32, **settings)
    shrink(config)
    assert (config.num_local_experts, config.num_experts_per_tok) == (0, 0)
    assert config.shared_intermediate_size == config.intermediate_size < 8192


@pytest.mark.parametrize("sizes", [GRANITE_4_TINY, GRANITE_4_MICRO])
def test_granite_4_as_published_can_be_made_tiny(tmp_path, sizes):
    """What its recurrent layers make of a width is as wide as their heads together, or transformers
    refuses the configuration."""
    import torch
    from transformers import AutoConfig, GraniteMoeHybridConfig

    GraniteMoeHybridConfig(**sizes | {"vocab_size": 64}).save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    shrink(config)
    config.save_pretrained(tmp_path)
    model = new_model(AutoConfig.from_pretrained(tmp_path), torch.float32)
    assert model(torch.tensor([[1, 2, 3]])).logits.shape == (1, 3, 64)
    assert sum(weights.numel() for weights in model.parameters()) < 2_000_000
    assert set(config.layer_types) == {"linear_attention", "full_attention"}


def test_granites_layers_have_the_names_that_the_converter_knows(tmp_path):
    from transformers import GraniteMoeHybridConfig, LlamaConfig

    kinds = ["mamba", "mamba", "attention", "mamba"]
    GraniteMoeHybridConfig(num_hidden_layers=4, layer_types=kinds).save_pretrained(tmp_path)
    assert converter.layer_names(tmp_path) == {"layer_types": kinds}
    LlamaConfig().save_pretrained(tmp_path)
    assert converter.layer_names(tmp_path) == {}


def test_a_reading_that_fails_is_not_held_against_the_base(monkeypatch):
    """The converter beside it came to its end; conform says what went wrong, as of its own faults."""
    ended = {"probes": []}
    monkeypatch.setattr(converter, "convert", lambda job, begin: begin("no tokenizer") or ended)
    found = gguf_child.convert(None)
    assert found["probes"] == []
    assert "AttributeError: 'str' object has no attribute" in found["failure"]
    assert "reading" not in found
