"""Calls of tools as the model families write them."""

import json
import time

import pytest

from retune.suites.calls import tool_calls

CALL = ("get_weather", {"city": "Oslo"})
HERMES = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


@pytest.mark.parametrize(
    "text",
    [
        HERMES,
        f"I will look.\n{HERMES}",
        HERMES.removesuffix("</tool_call>"),
        HERMES.replace('{"city": "Oslo"}', json.dumps('{"city": "Oslo"}')),
        '{"name": "get_weather", "parameters": {"city": "Oslo"}}',
        '<|python_tag|>{"name": "get_weather", "parameters": {"city": "Oslo"}}<|eom_id|>',
        '{"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}',
        '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Oslo"}, "id": "a1b2c3d4e"}]',
        '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Oslo"}}]</s>',
        '[TOOL_CALLS]get_weather[ARGS]{"city": "Oslo"}',
        '[TOOL_CALLS]get_weather{"city": "Oslo"}',
    ],
)
def test_one_call_in_each_way_of_writing_it(text):
    assert [tuple(call) for call in tool_calls(text)] == [CALL]


@pytest.mark.parametrize(
    "text",
    [
        f"{HERMES}\n{HERMES}",
        '{"name": "get_weather", "parameters": {"city": "Oslo"}}; '
        '{"name": "get_weather", "parameters": {"city": "Oslo"}}',
        '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Oslo"}}, '
        '{"name": "get_weather", "arguments": {"city": "Oslo"}}]',
        '[TOOL_CALLS]get_weather[ARGS]{"city": "Oslo"}[TOOL_CALLS]get_weather[ARGS]{"city": "Oslo"}',
    ],
)
def test_several_calls(text):
    assert [tuple(call) for call in tool_calls(text)] == [CALL, CALL]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The weather in Oslo is fine.",
        '{"name": "Ada"}',  # an answer in JSON
        '{"name": "get_weather", "parameters": {}} would tell',
        "<tool_call>get_weather(Oslo)</tool_call>",
        '<tool_call>{"name": "get_weather", "arguments": ["Oslo"]}</tool_call>',
        '<tool_call>{"name": "a", "arguments": {}} and more</tool_call>',
        '<tool_call>{"name": 5, "arguments": {}}</tool_call>',
        "[TOOL_CALLS]",
        "[TOOL_CALLS]two words{}",
        "[TOOL_CALLS][1, 2]",
    ],
)
def test_what_is_no_call(text):
    assert tool_calls(text) == []


def test_arguments_may_hold_anything_nested():
    inner = {"filter": {"any": [{"a": [1, {"b": None}]}]}, "text": 'say "</tools>" and {x}'}
    text = f"<tool_call>{json.dumps({'name': 'find', 'arguments': inner})}</tool_call>"
    assert tool_calls(text)[0].arguments == inner


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>{" * 20_000,
        '<tool_call>{"a":' * 20_000,
        "[TOOL_CALLS][" * 20_000,
        "[" * 100_000,
        '{"a":' * 100_000,
        "{};" * 100_000,
    ],
)
def test_it_takes_linear_time(text):
    began = time.process_time()
    assert tool_calls(text) == []
    assert time.process_time() - began < 2
