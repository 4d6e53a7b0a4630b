"""The Modelfile's template, read by the rules of Go's text/template, against the tokenizer's own."""

import json
import re
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path

import pytest

from retune import templates
from retune.chat import CHATML
from retune.escaping import visible
from retune.modelfile import PROBES, TOOL_PROBE, hub_files, modelfile
from tests.go_templates import go
from tests.nasty import NASTY
from tests.retune.test_tool_text import call, calling, trained
from tests.tasks.conftest import make_tokenizer

# Templates as their makers ship them; TRL keeps copies.
SHIPPED = Path(find_spec("trl").submodule_search_locations[0]) / "chat_templates"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def template_of(text: str) -> str:
    return re.search(r'TEMPLATE """(.*?)"""', text, re.DOTALL)[1]


@pytest.mark.parametrize(
    "name", ["ours", "with BOS", "qwen2_5", "qwen2_5_vl", "qwen3", "qwen3_instruct_2507"]
)
def test_ollama_is_given_the_prompts_that_were_trained(tokenizer, name) -> None:
    ours = {"ours": CHATML, "with BOS": "{{ bos_token }}" + CHATML}
    tokenizer.chat_template = ours.get(name) or (SHIPPED / f"{name}.jinja").read_text()
    text = modelfile("demo-Q4_K_M.gguf", tokenizer)
    assert text.startswith("FROM ./demo-Q4_K_M.gguf\n")
    assert text.endswith('\nPARAMETER stop "<|im_end|>"\n')
    assert tokenizer.bos_token not in text  # llama.cpp adds it
    params = '{"stop": ["<|im_end|>"]}'
    assert hub_files(text) == {"template": template_of(text), "params": params}
    for chat in [*PROBES, TOOL_PROBE]:
        trained = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert go(template_of(text), chat) == trained.removeprefix(tokenizer.bos_token)


def test_a_default_system_message_stands_in_for_none(tokenizer) -> None:
    tokenizer.chat_template = (SHIPPED / "qwen2_5.jinja").read_text()
    template = template_of(modelfile("x.gguf", tokenizer))
    own, default = (go(template, chat) for chat in (PROBES[1], PROBES[0]))
    assert "You are Qwen" in default
    assert "You are Qwen" not in own


def test_a_default_system_message_may_hold_what_means_nothing_in_quotes(tokenizer) -> None:
    default = 'FROM other }} " # %} <b>'
    tokenizer.chat_template = CHATML.replace(
        "{% for",
        f"{{% if messages[0].role != 'system' %}}"
        f"{{{{ '<|im_start|>system\\n{default}<|im_end|>\\n' }}}}{{% endif %}}{{% for",
        1,
    )
    template = template_of(modelfile("x.gguf", tokenizer))
    assert default in template


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("message['content'] + '<|im_end|>'", "message['content'] | trim + '<|im_end|>'"),
        ("{{ '<|im_start|>assistant", "{{ '<|im_start|>assistant\\n<think>' }}{{ '"),
        ("<|im_end|>", "<|endoftext|>"),
        ("<|im_start|>", "[INST]"),
        ("{% for", "{{ strftime_now('%d') }}{% for"),
        ("{% for", '{{ \'<|im_start|>system\\n"""<|im_end|>\\n\' }}{% for'),
        ("{% for", "{{ '<|im_start|>system\\n\u200b<|im_end|>\\n' }}{% for"),
        (
            "{% for",
            "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}{% for",
        ),
        (
            "message['role']",
            "(message['role'] if message['role'] != 'tool' else loop.length | string)",
        ),
        # What Go's language or Ollama's parser would read as its own.
        ("{% for", "{{ '<|im_start|>system\\n{' ~ '{ .Secret }}<|im_end|>\\n' }}{% for"),
        ("{% for", "{{ '<|im_start|>system\\na\\rb<|im_end|>\\n' }}{% for"),
        ("{% for", "{{ '<|im_start|>system\\na\\0b<|im_end|>\\n' }}{% for"),
        # A sentence on condition, for one text or for what no list of texts shows.
        ("{% endfor", "{% if 'Paris' in message.content %}{{ 'Buy now.' }}{% endif %}{% endfor"),
        ("{% endfor", "{% if message.content | length is odd %}{{ '' }}{% endif %}{% endfor"),
        ("message['content'] +", "message['content'] | replace('Paris', 'Rome') +"),
        ("{% endfor", "{% if 'Paris' in message.content %}{{ 9**(9**9) }}{% endif %}{% endfor"),
    ],
)
def test_no_modelfile_where_it_would_be_wrong(
    tokenizer, monkeypatch: pytest.MonkeyPatch, was: str, becomes: str
) -> None:
    monkeypatch.setattr(templates, "SECONDS", 1.0)  # for the one that never ends
    assert was in CHATML
    tokenizer.chat_template = CHATML.replace(was, becomes)
    assert modelfile("x.gguf", tokenizer) is None


@pytest.mark.parametrize("text", [*NASTY.values(), "a brace {", "{"], ids=[*NASTY, "end", "brace"])
def test_a_system_message_of_strangers_is_text_or_there_is_no_modelfile(tokenizer, text):
    first = (
        "{% if messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\n' + said + '<|im_end|>\n' }}{% endif %}"
    )
    tokenizer = deepcopy(tokenizer)
    quoted = json.dumps(text) if "\ud800" not in text else json.dumps(visible(text))
    tokenizer.chat_template = f"{{% set said = {quoted} %}}{first}{CHATML}"
    made = modelfile("x.gguf", tokenizer)
    acts = (
        "{{" in text or '"""' in text or not text.replace("\n", "").replace("\t", "").isprintable()
    )
    if acts and "\ud800" not in text:
        assert made is None
    else:
        assert made
        assert made.count('"""') == 2
        chat = [{"role": "user", "content": "hi"}]
        rendered = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert go(template_of(made), chat) == rendered.removeprefix(tokenizer.bos_token)


def test_a_brace_before_an_action_would_become_part_of_it(tokenizer):
    tokenizer = deepcopy(tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'tool' %}"
        "{{ '<|im_start|>tool\n{' + m['content'] + '}<|im_end|>\n' }}{% else %}"
        "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    chat = tokenizer.apply_chat_template([{"role": "tool", "content": "7"}], tokenize=False)
    assert chat == "<|im_start|>tool\n{7}<|im_end|>\n"
    assert modelfile("x.gguf", tokenizer) is None


LOOKUP = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": 'Find a "book" – 本 👋🏽\n',
        "parameters": {
            "type": "object",
            "properties": {
                "kind": {"type": "string", "description": "What it is.", "enum": ["novel", "poem"]},
                "title": {"type": "string"},
                "year": {"type": "integer", "description": "When."},
            },
            "required": ["title", "kind"],
        },
    },
}
NOW = {
    "type": "function",
    "function": {"name": "now", "parameters": {"type": "object", "properties": {}}},
}
FOUND = {"role": "tool", "content": "found {{ it }}"}
ASKS: dict[str, tuple[list[dict], list[dict]]] = {
    "no system message": ([*PROBES[0]], [LOOKUP]),
    "a system message": ([*PROBES[1]], [LOOKUP, NOW]),
    "an empty system message": ([*PROBES[3]], [NOW]),
    "a later system message": ([PROBES[0][0], PROBES[1][0], PROBES[0][0]], [NOW]),
    "a call": ([PROBES[0][0], calling(call("now", {})), FOUND], [NOW]),
    "calls alone": (
        [PROBES[0][0], calling(call("look_up", {"title": "Łódź \"'\n{", "year": 1.5})), FOUND],
        [],
    ),
    "calls behind content": (
        [
            *PROBES[1],
            calling(
                call("look_up", {"a": True, "b": None, "c": [], "d": {}}),
                call("now", {}),
                content="I see.",
            ),
            FOUND,
            {"role": "assistant", "content": "Found."},
            PROBES[0][0],
        ],
        [LOOKUP],
    ),
}


@pytest.mark.parametrize("template", ["ours", "qwen2_5", "qwen3_instruct_2507"])
@pytest.mark.parametrize("name", ASKS)
def test_ollama_is_given_tools_and_calls_as_they_were_trained(tokenizer, template, name):
    shipped = SHIPPED / f"{template}.jinja"
    tokenizer.chat_template = CHATML if template == "ours" else shipped.read_text()
    chat, tools = ASKS[name]
    rows = trained(chat, tools)
    rendered = tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=True)
    template = template_of(modelfile("x.gguf", tokenizer))
    assert go(template, chat, tools) == rendered.removeprefix(tokenizer.bos_token)


def test_what_ollama_changes_of_tools_and_calls_is_said(tokenizer):
    tokenizer.chat_template = CHATML
    text = modelfile("x.gguf", tokenizer)
    parameters = {
        "type": "object",
        "properties": {
            "z": {"type": "array", "items": {"type": "string"}},
            "a": {"type": "integer", "minimum": 1, "description": "1 < a & a > 0"},
        },
    }
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    said = go(template_of(text), [*PROBES[0]], [tool])
    assert (
        '"properties": {"a": {"type": "integer", "description": "1 \\u003c a \\u0026 a \\u003e 0"}, '
        '"z": {"type":"array","items":{"type":"string"}}}}}}\n</tools>'
    ) in said
    chat = [*PROBES[0], calling(call("f", {"z": [1, 2], "a": "<b>"}))]
    assert '"arguments": {"a": "\\u003cb\\u003e", "z": [1,2]}}' in go(template_of(text), chat)
    comment = " ".join(line[2:] for line in text.splitlines() if line.startswith("# T"))
    assert "as in training" in comment


def test_ollama_knows_a_call_by_its_tag(tokenizer):
    """`parseTag` of Ollama: the text behind the first `if` of `.ToolCalls` itself, up to a brace."""
    tokenizer.chat_template = CHATML
    template = template_of(modelfile("x.gguf", tokenizer))
    behind = re.split(r"\{\{ if [^(}]*\.ToolCalls.*?\}\}", template)[1]
    assert re.match(r"(\{\{ range .*?\}\})?<tool_call>\n\{", behind)


def test_a_template_without_tools_has_none_in_ollama(tokenizer):
    tokenizer.chat_template = (
        "{% for message in messages %}{% if message.role == 'tool' %}"
        "{{ raise_exception('no tools here') }}{% endif %}{% endfor %}" + CHATML
    )
    text = modelfile("x.gguf", tokenizer)
    assert "Tool" not in text
    assert "# " not in text
