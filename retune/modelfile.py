"""Ollama's Modelfile of a GGUF: the template trained with, in the language that Ollama speaks.

Ollama has no Jinja. Its templates are Go's text/template over `.Tools` and `.Messages`, each with
`.Role`, `.Content` and `.ToolCalls` (https://docs.ollama.com/template), and it falls back on the bare
prompt, or guesses.
"""

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from retune.chat import END, START
from retune.templates import Refusal, outcomes, rendering
from retune.templates.differences import ALWAYS, Deviation, differences, template_sites
from retune.tool_text import BEFORE_SCHEMAS, BEHIND_SCHEMAS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Chat = list[dict[str, str]]

ANSWER = "an answer"
# What both templates must agree on: with and without a system message, several turns, white space at
# the edges (some templates strip it), text that means something to either language.
PROBES: tuple[Chat, ...] = (
    [{"role": "user", "content": "Is 9.11 larger than 9.9?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Grüß Gott 👋🏽"}],
    [
        {"role": "user", "content": "  \n{{ .Role }} {% if x %} \"''\" \\n\n"},
        {"role": "assistant", "content": " 42\t"},
        {"role": "user", "content": ""},
    ],
    [
        {"role": "system", "content": ""},
        {"role": "user", "content": "<b>&amp;</b>"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "three"},
        {"role": "user", "content": "four"},
    ],
)
TOOL_PROBE: Chat = [
    {"role": "user", "content": "How warm is it?"},
    {"role": "assistant", "content": '<tool_call>\n{"name": "thermometer"}\n</tool_call>'},
    {"role": "tool", "content": '{"celsius": 21}'},
]
# What `retune.tool_text` makes of schemas and calls, as far as Go can: its JSON has spaces between
# arguments, and in a schema down to parameters that are lists or objects.
SCHEMA_IN_GO = r"""
{{ with .Function }}{"type": "function", "function": {"name": {{ json .Name }}
{{- if .Description }}, "description": {{ json .Description }}{{ end }}
{{- with .Parameters }}, "parameters": {{ "{" }}"type": {{ json .Type }}, "properties": {{ "{" }}
{{- $comma := "" }}{{ range $key, $_ := .Properties }}{{ $comma }}{{ json $key }}: {{ $comma = ", " }}
{{- if eq (json .Type) `"string"` `"integer"` `"number"` `"boolean"` }}{{ "{" }}"type": {{ json .Type }}
{{- if .Description }}, "description": {{ json .Description }}{{ end }}
{{- if .Enum }}, "enum": [
{{- range $n, $_ := .Enum }}{{ if $n }}, {{ end }}{{ json . }}{{ end }}]{{ end }}}
{{- else }}{{ json . }}{{ end }}{{ end }}}
{{- if .Required }}, "required": [
{{- range $n, $_ := .Required }}{{ if $n }}, {{ end }}{{ json . }}{{ end }}]{{ end }}}{{ end }}}}{{ end }}
""".strip()
# What Ollama knows a call by in an answer is the text behind `if .ToolCalls`, up to a brace; it looks
# behind no other condition.
CALLS_IN_GO = r"""
{{ if and .Content (len .ToolCalls) }}
{{ end }}{{ if .ToolCalls }}{{ range $n, $_ := .ToolCalls }}<tool_call>
{{ with .Function }}{"name": {{ json .Name }}, "arguments": {{ "{" }}{{ $comma := "" }}
{{- range $key, $_ := .Arguments }}{{ $comma }}{{ json $key }}: {{ json . }}{{ $comma = ", " }}{{ end }}}}
</tool_call>{{ end }}{{ if gt (len (slice $m.ToolCalls $n)) 1 }}
{{ end }}{{ end }}{{ end }}
""".strip()
TOOLS_IN_GO = (
    f"{BEFORE_SCHEMAS}{{{{ range $.Tools }}}}\n{SCHEMA_IN_GO}{{{{ end }}}}{BEHIND_SCHEMAS}"
)
# Tools are told in the first system message, or before the conversation if it has none.
NOTHING_TOLD_IN_GO = (
    '{{ $system := false }}{{ range .Messages }}{{ if eq .Role "system" }}{{ $system = true }}{{ end }}'
    "{{ end }}{{ $told := not .Tools }}"
)
TELLS_IN_GO = '{{ $tells := and (not $told) (or (eq .Role "system") (not $system)) }}'
SYSTEM_IN_GO = (
    '{{ if or $tells (eq .Role "system") }}{{ $said := "" }}{{ if eq .Role "system" }}'
    "{{ $said = .Content }}{{ end }}"
    + ("{{ $said }}{{ if $tells }}{{ if $said }}\n\n{{ end }}" + TOOLS_IN_GO).join(
        (f"{START}system\n", f"{{{{ $told = true }}}}{{{{ end }}}}{END}\n")
    )
    + "{{ end }}"
)
COMMENT = """\
# Tools and calls are written as in training, but for what Ollama makes of them before: parameters and
# arguments are sorted by name, of a parameter type, description and enum are kept, lists and objects
# in them have no spaces, and <, > and & in JSON become \\u003c, \\u003e and \\u0026.
"""


@dataclass(frozen=True)
class _ChatML:
    """ChatML as one tokenizer's template writes it.

    `default` stands before conversations without a system message; `tool` stands before and after
    what a tool said.
    """

    default: str
    tool: tuple[str, str]

    def in_go(self, knows_tools: bool) -> str:
        """Return the template for Ollama, of tools only what their results are if not `knows_tools`."""
        is_first = '(eq $i 0) (ne .Role "system")'
        before, behind = _around("{{ .Role }}")
        body = f"{before}{{{{ .Content }}}}{CALLS_IN_GO if knows_tools else ''}{behind}"
        if self.tool != _around("tool"):
            tool = "{{ .Content }}".join(self.tool)
            body = f'{{{{ if eq .Role "tool" }}}}{tool}{{{{ else }}}}{body}{{{{ end }}}}'
        if knows_tools:
            body = f'{SYSTEM_IN_GO}{{{{ if ne .Role "system" }}}}{body}{{{{ end }}}}'
            is_first += " (not $tells)"
        if self.default:
            body = f"{{{{ if and {is_first} }}}}{self.default}{{{{ end }}}}{body}"
        if knows_tools:
            body = f"{TELLS_IN_GO}{body}"
        told = NOTHING_TOLD_IN_GO if knows_tools else ""
        return f"{told}{{{{ range $i, $m := .Messages }}}}{body}{{{{ end }}}}{START}assistant\n"

    def prompt(self, chat: Chat) -> str:
        """Return what the template makes of `chat` in Ollama."""
        text = "" if chat[0]["role"] == "system" else self.default
        for message in chat:
            role = message["role"]
            text += message["content"].join(self.tool if role == "tool" else _around(role))
        return f"{text}{START}assistant\n"


def modelfile(gguf_name: str, tokenizer: "PreTrainedTokenizerBase") -> str | None:
    """Return the Modelfile of the GGUF next to it; None if Ollama cannot render what was trained.

    The template is tried on conversations against the tokenizer's own. It leaves BOS out: llama.cpp
    adds that, as the GGUF says. Sampling is the user's choice, and the context's size Ollama's, by
    the machine's memory. Of several tool results in a row each is a turn of its own.
    """
    with rendering():
        chatml = _chatml(tokenizer)
        if chatml is None or not all(map(_can_be_quoted, (chatml.default, *chatml.tool))):
            return None
        knows_tools = _rendered(tokenizer, TOOL_PROBE) is not None
        probes = [*PROBES, TOOL_PROBE] if knows_tools else PROBES
        if not all(_agree(chatml, tokenizer, probe) for probe in probes):
            return None
        if not _writes_content_as_it_is(tokenizer):
            return None
    template = f'TEMPLATE """{chatml.in_go(knows_tools)}"""'
    comment = COMMENT if knows_tools else ""
    return f'FROM ./{gguf_name}\n{comment}{template}\nPARAMETER stop "{END}"\n'


def hub_files(text: str) -> dict[str, str]:
    """Return a Modelfile as the files by which `ollama run hf.co/...` does the same.

    See "Custom Chat Template and Parameters" in https://huggingface.co/docs/hub/ollama.
    """
    _, template, rest = text.split('"""')
    stops = re.findall(r'PARAMETER stop "(.+)"', rest)
    return {"template": template, "params": json.dumps({"stop": stops})}


def _chatml(tokenizer: "PreTrainedTokenizerBase") -> _ChatML | None:
    """Read what is the tokenizer's own in its ChatML off its renderings; None if it is none."""
    # A date in the default system message would be that of this day for ever.
    if "strftime_now" in (tokenizer.chat_template or "strftime_now"):
        return None
    plain = _rendered(tokenizer, PROBES[0]) or ""
    default, user, _ = plain.partition(f"{START}user\n")
    if not user:
        return None
    *_, call, result = TOOL_PROBE
    rendering = (_rendered(tokenizer, TOOL_PROBE) or "").rpartition(call["content"])[2]
    before, content, after = rendering.removeprefix(f"{END}\n").partition(result["content"])
    tool = (before, after) if content else _around("tool")
    return _ChatML(default, tool)


def _agree(chatml: _ChatML, tokenizer: "PreTrainedTokenizerBase", probe: Chat) -> bool:
    """Tell whether both make the same prompt, which the trained answer follows up to `END`."""
    prompt = chatml.prompt(probe)
    conversation = _rendered(tokenizer, [*probe, {"role": "assistant", "content": ANSWER}]) or ""
    return (
        prompt == _rendered(tokenizer, probe, add_generation_prompt=True)
        and conversation.startswith(prompt)
        and conversation.removeprefix(prompt).partition(ANSWER)[2].startswith(END)
    )


def _writes_content_as_it_is(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Tell whether no text was found that the template does more with than to write it.

    Go's template does not look at content. Where Jinja's does and tells no text to try it with, the
    two cannot be said to agree.
    """
    sites = template_sites(tokenizer)
    if isinstance(sites, Refusal) or any(site.is_opaque for site in sites):
        return False
    triggers = [text for site in sites for text in site.triggers()]
    # How the answer itself is written is no matter of the prompt.
    deviations = [d for d in differences(tokenizer, [*ALWAYS, *triggers]) if d.probe.is_prompt]
    return all(map(_is_reasoning, deviations))


def _is_reasoning(difference: Deviation) -> bool:
    """Tell whether a template cut reasoning out of an earlier answer, as Qwen 3's does.

    Programs do that themselves, by these same marks, before they send a conversation back.
    """
    probe = difference.probe
    return probe.role == "assistant" and "</think>" in probe.content


def _rendered(
    tokenizer: "PreTrainedTokenizerBase", chat: Chat, add_generation_prompt: bool = False
) -> str | None:
    """Return `chat` as text, without BOS; None if the template refuses such a conversation."""
    (text,) = outcomes(tokenizer, [chat], add_generation_prompt=add_generation_prompt)
    return None if isinstance(text, Refusal) else text.removeprefix(tokenizer.bos_token or "")


def _around(role: str) -> tuple[str, str]:
    return f"{START}{role}\n", f"{END}\n"


def _can_be_quoted(text: str) -> bool:
    """Tell whether `text` means itself in a Go template in a Modelfile's quotes.

    Ollama's parser drops characters that cannot be printed. A brace at the end would become part of
    the action that follows.
    """
    printable = text.replace("\n", "").replace("\t", "").isprintable()
    return printable and "{{" not in text and not text.endswith("{") and '"""' not in text
