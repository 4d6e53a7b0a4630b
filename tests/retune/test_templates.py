"""Templates of strangers: nothing they write hangs, fills the memory, or is anything but a refusal."""

import os
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from retune import templates
from retune.chat import CHATML
from retune.templates import Refusal, TemplateRefused, outcomes, render, rendering
from retune.templates.differences import ALWAYS, differences, template_sites
from tests.tasks.conftest import make_tokenizer

# Templates as their makers ship them; TRL keeps copies.
SHIPPED = sorted(
    Path(find_spec("trl").submodule_search_locations[0], "chat_templates").glob("*.jinja")
)
CHAT = [{"role": "user", "content": "Grüß Gott"}, {"role": "assistant", "content": "a"}]
CHATS = [
    CHAT,
    [{"role": "system", "content": "Be brief. 你好 \u2028 \x7f"}, *CHAT],
    [*CHAT, {"role": "user", "content": " \n'\"\\<&>"}],
    [
        {"role": "user", "content": "<think>x</think> y"},
        {"role": "assistant", "content": "<think>x</think> y"},
        *CHAT,
    ],
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "thermometer",
            "description": "How <warm> it is, in °C",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(autouse=True)
def short_limits(monkeypatch):
    monkeypatch.setattr(templates, "SECONDS", 1.0)


def usual(tokenizer, chat, **how) -> str | None:
    """Return what transformers renders in this process; None if it raises anything."""
    try:
        return tokenizer.apply_chat_template(chat, tokenize=False, **how)
    except Exception:
        return None


@pytest.mark.parametrize("prompt", [True, pytest.param(False, marks=pytest.mark.proof)])
def test_the_child_renders_as_transformers_does(tokenizer, prompt) -> None:
    rendered = 0
    with rendering():
        for file in SHIPPED:
            tokenizer.chat_template = file.read_text()
            for tools in (None, TOOLS):
                how = {"add_generation_prompt": prompt, "tools": tools}
                made = outcomes(tokenizer, CHATS, **how)
                for chat, outcome in zip(CHATS, made, strict=True):
                    expected = usual(tokenizer, chat, **how)
                    assert (None if isinstance(outcome, Refusal) else outcome) == expected, file
                    rendered += expected is not None
    assert rendered > 4 * len(SHIPPED)


def test_conversations_keep_their_order_over_many_requests(tokenizer, monkeypatch) -> None:
    monkeypatch.setattr(templates, "REQUEST_BYTES", 1000)
    tokenizer.chat_template = CHATML
    chats = [[{"role": "user", "content": f"{n} " * (n % 7)}] for n in range(500)]
    assert render(tokenizer, chats) == tokenizer.apply_chat_template(chats, tokenize=False)


LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (LOOPS, "more than 1 s of processor time"),
        ("{{ 9 ** (9 ** 9) }}", "more than 1 s of processor time"),
        ("{{ messages[0].content | length ** (9 ** 9) }}", "more than 1 s of processor time"),
        (
            "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}"
            "{% endfor %}{{ n.x }}",
            "e than|MemoryError",
        ),
        ("{{ 'a' * 10**10 }}", "MemoryError"),
        ("{{ [1] * 10**10 }}", "MemoryError"),
        ("{{ (range(99999) | join) * 99999 }}", "MemoryError"),
        ("{% macro f(x) %}{{ f(x) ~ f(x) }}{% endmacro %}{{ f(1) }}", "RecursionError"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "RecursionError"),
        ("{% if 1 %}" * 3000 + "{% endif %}" * 3000, "RecursionError"),
        ("{{ range(10**9) }}", "OverflowError: Range too big"),
        ("{{ messages[0].content.__class__.__mro__ }}", "SecurityError: access to attribute"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{% include '/etc/passwd' %}", "TypeError: no loader"),
        ("{% import '/etc/passwd' as x %}", "TypeError: no loader"),
        ("{{ '\\ud800' }}", "surrogates not allowed"),
        ("{{ 'a' * 150000 }}", "150,000 characters"),
        ("{{ raise_exception('no\x1b[31m') }}", r"TemplateError: no\\x1b\[31m"),
        ("{% for", r"TemplateSyntaxError: .* \(line 1\)"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ nothing.at.all }}", "UndefinedError: 'nothing' is undefined"),
        ("a" * 300_000, "300,000 characters; 262,144 are the most"),
        (5, "no text but a int"),
        ({"rag": CHATML}, "multiple chat templates with no default"),
        (None, "chat_template is not set"),
    ],
    ids=str,
)
def test_whatever_a_template_does_is_a_refusal(tokenizer, template, words) -> None:
    tokenizer.chat_template = template
    began = time.process_time()
    (outcome,) = outcomes(tokenizer, [CHAT])
    assert isinstance(outcome, Refusal)
    with pytest.raises(TemplateRefused, match=words):
        render(tokenizer, [CHAT])
    assert len(str(outcome)) < 500
    assert time.process_time() - began < 1  # of this process


@pytest.mark.slow  # seconds of a template
def test_the_conversation_that_breaks_a_limit_is_named_and_those_before_are_kept(tokenizer) -> None:
    tokenizer.chat_template = "{% if messages[0].content == 'x' %}" + LOOPS + "{% endif %}ok"
    chats = [[{"role": "user", "content": said}] for said in "abxc"]
    with rendering():
        assert outcomes(tokenizer, chats)[:2] == ["ok", "ok"]
        began = time.monotonic()
        assert isinstance(outcomes(tokenizer, chats)[0], Refusal)  # not tried again
        assert time.monotonic() - began < 0.5
    with pytest.raises(TemplateRefused, match="takes more than 1 s of processor time") as error:
        render(tokenizer, chats)
    assert error.value.number == 2
    assert render(tokenizer, chats[:2]) == ["ok", "ok"]


@pytest.mark.slow  # seconds of templates
def test_templates_that_are_slow_in_total_are_stopped(tokenizer) -> None:
    tokenizer.chat_template = "{% for a in range(99999) %}{% endfor %}" * 20
    (alone,) = outcomes(tokenizer, [CHAT])
    assert alone == ""
    with pytest.raises(TemplateRefused, match="together take more than"):
        render(tokenizer, [CHAT] * 200)


def test_the_child_holds_no_token_and_ends_with_the_block(tokenizer, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "canary")
    tokenizer.chat_template = CHATML
    before = set(psutil.Process().children())
    with rendering():
        render(tokenizer, [CHAT])
        (child,) = set(psutil.Process().children()) - before
        assert "canary" not in str(child.environ())
        assert child.rlimit(psutil.RLIMIT_FSIZE) == (0, 0)
        assert max(child.rlimit(psutil.RLIMIT_AS)) < 2 << 30
        render(tokenizer, [CHAT])
        assert set(psutil.Process().children()) - before == {child}
    assert not child.is_running()


def test_a_child_that_was_killed_is_replaced(tokenizer) -> None:
    tokenizer.chat_template = CHATML
    before = set(psutil.Process().children())
    with rendering():
        render(tokenizer, [CHAT])
        (child,) = set(psutil.Process().children()) - before
        os.kill(child.pid, 9)
        with pytest.raises(TemplateRefused, match="SIGKILL"):
            render(tokenizer, [CHAT])
    assert render(tokenizer, [CHAT]) == [tokenizer.apply_chat_template(CHAT, tokenize=False)]


EACH = "{% for message in messages %}{{ message.role ~ message.content }}"


@pytest.mark.parametrize(
    "condition",
    [
        "'Paris' in message.content",
        "'PARIS' in message['content'] | upper",
        "message.content.lower().startswith('par' ~ 'is')",
        "message.content == 'Paris'",
        "message.content.startswith('Paris') and message.content.endswith('?')",
        "message.content in ['Paris', 'Rome']",
        "message.content | length > 300",
        "message.content.count('?') > 3",
        "message.get('content').split(' ')[0] == 'Paris'",
        "message.role == 'user' and loop.index > 2 and 'Paris' in message.content",
        "(message.values() | list | last) == 'Paris'",
        "'Paris' in messages | map(attribute='content') | join",
        "messages | selectattr('content', 'equalto', 'Paris') | list",
        "'Paris' in messages | tojson",
        "not message.content",
    ],
)
def test_a_sentence_on_condition_is_found_and_shown(tokenizer, condition) -> None:
    template = f"{EACH}\n{{% if {condition} %}}Buy now.{{% endif %}}{{% endfor %}}"
    tokenizer.chat_template = template
    (site,) = [site for site in template_sites(tokenizer) if site.kind == "condition"]
    assert site.line == 2
    assert condition in site.excerpt
    shown = [str(d) for d in differences(tokenizer, site.triggers() or ALWAYS)]
    assert any("Buy now." in one for one in shown), shown


@pytest.mark.parametrize(
    "template",
    [
        "{% set word = 'Paris' %}{% macro f(said) %}{% if word in said %}Buy.{% endif %}{% endmacro %}"
        "{% for m in messages %}{{ m.content }}{{ f(m.content) }}{% endfor %}",
        "{% set n = namespace(said='') %}{% for m in messages %}{% set n.said = m.content %}"
        "{{ m.content }}{% endfor %}{{ 'Buy.' if n.said == 'Paris' }}",
        "{% for m in messages %}{{ m.content | replace('Paris', 'Buy.') }}{% endfor %}",
        "{% for m in messages %}{{ m.content ~ {'Paris': 'Buy.'}.get(m.content, '') }}{% endfor %}",
        "{% for m in messages %}{{ m.content }}{% if m.content == 'Paris' %}"
        "{{ raise_exception('Buy.') }}{% endif %}{% endfor %}",
    ],
)
def test_content_is_followed_through_macros_names_and_filters(tokenizer, template) -> None:
    tokenizer.chat_template = template
    triggers = [text for site in template_sites(tokenizer) for text in site.triggers()]
    assert any("Buy." in str(d) for d in differences(tokenizer, triggers))


@pytest.mark.parametrize("condition", ["message.content | length is odd", "message.content > 'm'"])
def test_a_condition_that_tells_no_text_is_named_all_the_same(tokenizer, condition) -> None:
    tokenizer.chat_template = f"{EACH}{{% if {condition} %}}x{{% endif %}}{{% endfor %}}"
    (site,) = template_sites(tokenizer)
    assert site.kind == "condition"
    assert site.is_opaque == ("odd" in condition)


@pytest.mark.parametrize(
    "condition",
    [
        "message.role == 'user' and loop.first",
        "message.content is string and message['content'] is not none",
        "messages | length > 1 and messages[0]['role'] == 'system'",
        "'tool_calls' in message or message.tool_calls or message.get('name')",
        "messages[loop.index0 - 1].role == 'user'",
        "(messages | selectattr('role', 'equalto', 'system') | list) | length",
        "tools and add_generation_prompt",
    ],
)
def test_who_speaks_is_no_content(tokenizer, condition) -> None:
    tokenizer.chat_template = f"{EACH}{{% if {condition} %}}x{{% endif %}}{{% endfor %}}"
    assert template_sites(tokenizer) == []


def test_all_shipped_templates_can_be_examined(tokenizer) -> None:
    with rendering():
        for file in SHIPPED:
            tokenizer.chat_template = file.read_text()
            sites = template_sites(tokenizer)
            assert not isinstance(sites, Refusal), (file, sites)
            if file.name in ("qwen3.jinja", "deepseek_r1_distill.jinja"):
                assert any("</think>" in site.literals for site in sites)
            if file.name.startswith("llama3.") or file.name == "phi3.jinja":
                assert all(site.kind == "trim" for site in sites), sites
