"""The Modelfile's template, read by the rules of Go's text/template, against the tokenizer's own."""

import json
import re
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path

import jinja2
import pytest

from retune.chat import CHATML
from retune.escaping import visible
from retune.modelfile import PROBES, TOOL_PROBE, Chat, hub_files, modelfile
from tests.nasty import NASTY
from tests.tasks.conftest import make_tokenizer

# Templates as their makers ship them; TRL keeps copies.
SHIPPED = Path(find_spec("trl").submodule_search_locations[0]) / "chat_templates"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def template_of(text: str) -> str:
    return re.search(r'TEMPLATE """(.*?)"""', text, re.DOTALL)[1]


def go(template: str, chat: Chat) -> str:
    """Return what Go makes of the template, its actions put into Jinja's words one by one.

    The same Modelfiles and conversations went through Ollama's own parser and template package.
    """
    names = {".Role": "m.role", ".Content": "m.content", "$i": "loop.index0"}
    operators = {"eq": "==", "ne": "!="}
    open_blocks = []

    def condition(text: str) -> str:
        if text.startswith("and "):
            return " and ".join(map(condition, re.findall(r"\((.+?)\)", text)))
        operator, left, right = text.split()
        return f"{names[left]} {operators[operator]} {right}"

    def in_jinja(action: re.Match) -> str:
        word, _, rest = action[1].partition(" ")
        if word == "range":
            assert rest == "$i, $_ := .Messages"
            open_blocks.append("endfor")
            return "{% for m in messages %}"
        if word == "if":
            open_blocks.append("endif")
            return f"{{% if {condition(rest)} %}}"
        if word in ("else", "end"):
            return f"{{% {'else' if word == 'else' else open_blocks.pop()} %}}"
        return f"{{{{ {names[word]} }}}}"

    jinja = re.sub(r"\{\{ (.+?) \}\}", in_jinja, template)
    return jinja2.Environment(keep_trailing_newline=True).from_string(jinja).render(messages=chat)


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
def test_no_modelfile_where_it_would_be_wrong(tokenizer, was: str, becomes: str) -> None:
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
