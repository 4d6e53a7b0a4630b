"""Tools as text, in the convention of Hermes and Qwen: a model learns to call by reading and writing.

Schemas stand in the system message between `<tools>` tags, one JSON object per line; a call stands
in the assistant's message between `<tool_call>` tags. Rows are trained so; `AS_TEXT` makes the same
of what clients of a served model send.
"""

import json
from collections.abc import Iterable
from typing import Any

TAG = "<tools>"
# Word for word as in Qwen's chat template, which agrees with Hermes's.
BEFORE_SCHEMAS = """\
# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>"""
BEHIND_SCHEMAS = """
</tools>

For each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>"""


def tools_text(schemas: Iterable[dict[str, Any]]) -> str:
    """Return what a system message says of tools, each an OpenAI function schema, bare or wrapped."""
    lines = [f"\n{json_text(_wrapped(schema))}" for schema in schemas]
    return "".join([BEFORE_SCHEMAS, *lines, BEHIND_SCHEMAS])


def with_tools(system: str, schemas: Iterable[dict[str, Any]]) -> str:
    """Return a system message (empty if there is none) with tools, as it is if it has them already."""
    if TAG in system:
        return system
    return f"{system}\n\n{tools_text(schemas)}" if system else tools_text(schemas)


def call_text(name: str, arguments: Any) -> str:
    """Return one call of a tool."""
    return f"<tool_call>\n{json_text({'name': name, 'arguments': arguments})}\n</tool_call>"


def with_calls(content: str, calls: Iterable[str]) -> str:
    """Return an assistant's text with its calls behind it, each on lines of its own."""
    return "\n".join([content, *calls] if content else calls)


def json_text(value: Any) -> str:
    """Return a value as JSON in the form that `tojson` has in a chat template."""
    return json.dumps(value, ensure_ascii=False, default=str)


def _wrapped(schema: dict[str, Any]) -> dict[str, Any]:
    """Return one schema as OpenAI wraps it, which is what models were shown in training."""
    is_wrapped = "function" in schema or schema.get("type") == "function"
    return schema if is_wrapped else {"type": "function", "function": schema}


def _quoted(text: str) -> str:
    return "'" + text.replace("\n", "\\n") + "'"


# The beginning of a chat template: `tools` and `tool_calls` become text in the messages, by the rules
# above. Without them nothing happens. Arguments that come as JSON text are written as `json_text` does:
# Jinja cannot read JSON, so they are gone through by character. Engines that hand over objects
# (llama.cpp, vLLM) never come there.
AS_TEXT = (
    r"""
{%- if tools or messages | selectattr('tool_calls') | list %}
  {%- set ns = namespace(messages=[], tools='', text='', json='', quoted=false, escape='', high=0) %}
  {%- if tools %}
    {%- for tool in tools %}
      {%- if 'function' in tool or tool['type'] == 'function' %}
        {%- set ns.tools = ns.tools + '\n' + (tool | tojson) %}
      {%- else %}
        {%- set ns.tools = ns.tools + '\n' + ({'type': 'function', 'function': tool} | tojson) %}
      {%- endif %}
    {%- endfor %}
    {%- set ns.tools = BEFORE + ns.tools + BEHIND %}
    {%- set system = messages | selectattr('role', 'equalto', 'system') | list %}
    {%- if not system %}
      {%- set ns.messages = [{'role': 'system', 'content': ns.tools}] %}
      {%- set ns.tools = '' %}
    {%- elif '<tools>' in (system[0]['content'] or '') %}
      {%- set ns.tools = '' %}
    {%- endif %}
  {%- endif %}
  {%- for message in messages %}
    {%- set ns.text = message['content'] or '' %}
    {%- if ns.tools and message['role'] == 'system' %}
      {%- set ns.text = ns.text + ('\n\n' if ns.text else '') + ns.tools %}
      {%- set ns.tools = '' %}
    {%- endif %}
    {%- for call in message['tool_calls'] or [] %}
      {%- set function = call['function'] or call %}
      {%- set arguments = function['arguments'] %}
      {%- if arguments is string and (arguments | trim)[:1] == '{' %}
        {%- set ns.json = '' %}
        {%- for character in arguments | trim %}
          {%- if ns.escape %}
            {%- set ns.escape = ns.escape + character %}
            {%- if ns.escape[1] != 'u' %}
              {%- set ns.json = ns.json + ('/' if character == '/' else ns.escape) %}
              {%- set ns.escape = '' %}
            {%- elif ns.escape | length == 6 %}
              {%- set code = ns.escape[2:] | int(base=16) %}
              {%- if 55296 <= code and code < 56320 %}
                {%- set ns.high = (code - 55296) * 1024 + 65536 %}
              {%- else %}
                {%- set code = code - 56320 + ns.high if ns.high else code %}
                {%- set ns.json = ns.json + ('%c' | format(code) | tojson)[1:-1] %}
                {%- set ns.high = 0 %}
              {%- endif %}
              {%- set ns.escape = '' %}
            {%- endif %}
          {%- elif ns.quoted and character == '\\' %}
            {%- set ns.escape = character %}
          {%- elif ns.quoted or character == '"' %}
            {%- set ns.json = ns.json + character %}
            {%- set ns.quoted = ns.quoted != (character == '"') %}
          {%- elif character in ',:' %}
            {%- set ns.json = ns.json + character + ' ' %}
          {%- elif character not in ' \t\r\n' %}
            {%- set ns.json = ns.json + character %}
          {%- endif %}
        {%- endfor %}
      {%- else %}
        {%- set arguments = {} if arguments is not defined or arguments is none else arguments %}
        {%- set ns.json = arguments | tojson %}
      {%- endif %}
      {%- set ns.json = '{"name": ' + (function['name'] | tojson) + ', "arguments": ' + ns.json + '}' %}
      {%- set ns.text = ns.text + ('\n' if ns.text else '') %}
      {%- set ns.text = ns.text + '<tool_call>\n' + ns.json + '\n</tool_call>' %}
    {%- endfor %}
    {%- set ns.messages = ns.messages + [{'role': message['role'], 'content': ns.text}] %}
  {%- endfor %}
  {%- set messages = ns.messages %}
{%- endif -%}
""".strip()
    .replace("BEFORE", _quoted(BEFORE_SCHEMAS))
    .replace("BEHIND", _quoted(BEHIND_SCHEMAS))
)
