"""What clients of a served model send as structures reaches it as the text of the rows it learned."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from retune import llamacpp
from retune.chat import CHATML
from retune.llamacpp.answering import OPTIONS, AnsweringFailed
from retune.llamacpp.server import serving
from retune.templates import outcomes
from tasks.fetch.conversations import read_row
from tests.tasks.conftest import make_tokenizer

Chat = list[dict[str, Any]]

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": 'Say how warm it is in a "city" – <b>today</b> & tomorrow\'s.\n',
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Łódź, 東京 …", "enum": ["Łódź", "b"]},
                "days": {"type": ["integer", "null"], "default": 3, "items": [], "of": {}},
            },
            "required": ["city"],
        },
    },
}
CLOCK = {
    "type": "function",
    "function": {
        "name": "now",
        "description": "Tell the time.",
        "parameters": {"type": "object", "properties": {}},
    },
}
ARGUMENTS = {
    "z": "Łódź: \"a\", {b} \\ / \n\t\x01 'c' 👋🏽 <x> & \x7f",
    "a": [1, -2, 1.5, True, False, None, [], {}, [{}], ""],
    "n": {"b": {"c": "d, e: f"}, "a": []},
}
Q, ASK = {"role": "user", "content": "How warm is it?"}, {"role": "user", "content": "And now?"}
RESULT = {"role": "tool", "tool_call_id": "1", "content": '{"celsius":21}'}
ANSWER = {"role": "assistant", "content": "21 °C."}
BRIEF = {"role": "system", "content": "Be brief."}


def call(name: str, arguments: Any) -> dict[str, Any]:
    return {"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}}


def calling(*calls: dict[str, Any], content: str | None = None) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(calls)}


ONE = calling(call("weather", ARGUMENTS))
TWO = calling(call("weather", {"city": "b"}), call("now", {}), content="Let me see.\n")
CONVERSATIONS: dict[str, tuple[Chat, list[dict[str, Any]] | None]] = {
    "tools": ([Q], [WEATHER]),
    "tools and a system message": ([BRIEF, Q], [WEATHER, CLOCK]),
    "tools and an empty system message": ([{"role": "system", "content": ""}, Q], [CLOCK]),
    "a system message with tools": ([{"role": "system", "content": "<tools>"}, Q], [CLOCK]),
    "a system message that comes later": ([Q, ANSWER, BRIEF, ASK, BRIEF], [CLOCK]),
    "a call": ([Q, ONE, RESULT], [WEATHER]),
    "a call without tools": ([BRIEF, Q, ONE, RESULT, ANSWER, ASK], None),
    "several calls behind content": ([Q, TWO, RESULT, RESULT, ANSWER, ASK], [CLOCK, WEATHER]),
    "several calls alone": ([Q, calling(*TWO["tool_calls"], content=""), RESULT], [CLOCK]),
    "calls twice": ([Q, ONE, RESULT, TWO, RESULT, RESULT], [WEATHER]),
}
AS_TEXT = {
    "as OpenAI has it": json.dumps(ARGUMENTS, ensure_ascii=False, separators=(",", ":")),
    "as Python writes it": json.dumps(ARGUMENTS),
    "on many lines": json.dumps(ARGUMENTS, indent=2).replace("/", "\\/"),
    "empty": " {} ",
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    made = make_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    made.chat_template = CHATML
    return made


def trained(chat: Chat, tools: list[dict[str, Any]] | None) -> Chat:
    """Return the conversation as a row that says the same reaches training."""
    reading = read_row({"messages": chat, "tools": tools})
    assert reading.problem is None
    return [{"role": role, "content": content} for role, content, _ in reading.messages]


def prompt(chat: Chat) -> str:
    """Return ChatML as it always was."""
    turns = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in chat]
    return f"{''.join(turns)}<|im_start|>assistant\n"


def served(tokenizer, chat: Chat, tools: list[dict[str, Any]] | None) -> str:
    return tokenizer.apply_chat_template(
        chat, tools=tools, tokenize=False, add_generation_prompt=True
    )


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_transformers_renders_structures_as_they_were_trained(tokenizer, name):
    chat, tools = CONVERSATIONS[name]
    rows = trained(chat, tools)
    assert served(tokenizer, chat, tools) == prompt(rows)
    assert served(tokenizer, rows, None) == prompt(rows)
    assert outcomes(tokenizer, [chat], add_generation_prompt=True, tools=tools) == [prompt(rows)]


@pytest.mark.parametrize("name", AS_TEXT)
def test_arguments_may_be_json_text(tokenizer, name):
    for turn in (
        calling(call("weather", AS_TEXT[name])),
        calling(call("a", AS_TEXT[name]), call("b", AS_TEXT[name]), content="x"),
    ):
        assert served(tokenizer, [Q, turn], None) == prompt(trained([Q, turn], None))


@pytest.mark.parametrize(
    "turn",
    [
        calling({"name": "now", "arguments": {"a": 1}}),
        calling({"function": {"name": "now"}}),
        calling(call("now", None)),
        calling(call("now", "no {json")),
        calling(call("é", "")),
        {"role": "assistant", "tool_calls": [call("now", {})]},
        {"role": "assistant", "content": "none", "tool_calls": []},
        {"role": "assistant", "content": "none", "tool_calls": None},
    ],
)
def test_calls_may_be_less_than_openais(tokenizer, turn):
    assert served(tokenizer, [Q, turn], None) == prompt(trained([Q, turn], None))


@pytest.mark.parametrize("tools", [None, [], [WEATHER["function"], CLOCK]])
def test_schemas_may_be_bare(tokenizer, tools):
    assert served(tokenizer, [BRIEF, Q], tools) == prompt(trained([BRIEF, Q], tools))


@pytest.fixture(scope="module")
def server(checkpoint: Path, tmp_path_factory):
    """llama.cpp's server with a model that brings the template, as the merged model would."""
    try:
        llamacpp.locate()
    except llamacpp.LlamaCppNotFound as missing:
        pytest.skip(str(missing))
    folder = tmp_path_factory.mktemp("tools")
    merged = shutil.copytree(checkpoint, folder / "merged")
    (merged / "chat_template.jinja").write_text(CHATML)
    gguf = folder / "tiny.gguf"
    llamacpp.convert(merged, gguf)
    # Chat parsing is on: llama.cpp then looks in the template for the form of a call.
    options = [option for option in OPTIONS if option != "--skip-chat-parsing"]
    options += ["--model", str(gguf), "--ctx-size", "512", "--threads", "1"]
    with serving(options, AnsweringFailed, 120) as running:
        yield running


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_llama_cpp_renders_structures_as_they_were_trained(server, name):
    chat, tools = CONVERSATIONS[name]
    body = {"messages": chat} | ({"tools": tools} if tools else {})
    assert server.post("/apply-template", body)["prompt"] == prompt(trained(chat, tools))


def test_llama_cpp_reads_arguments_that_are_json_text(server):
    for text in AS_TEXT.values():
        chat = [Q, calling(call("weather", text)), RESULT]
        rendered = server.post("/apply-template", {"messages": chat})["prompt"]
        assert rendered == prompt(trained(chat, None))
