"""Every known format becomes messages, row by row and, for plain rows, column by column alike."""

import json
import math

import pyarrow as pa
import pytest

from tasks.fetch.columns import from_columns, from_rows
from tasks.fetch.conversations import read_row
from tasks.fetch.json_files import json_rows
from tasks.fetch.typed_files import batches, piece

Q, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
SPOKEN = [("user", "q"), ("assistant", "a")]
WEATHER = {"name": "weather", "arguments": {"city": "Oslo"}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
SCHEMA = {"type": "function", "function": {"name": "weather", "parameters": {}}}


def messages(**row) -> list[tuple[str, str]]:
    reading = read_row(row)
    assert reading.problem is None
    return [(role, content) for role, content, _ in reading.messages]


def problem(row) -> str:
    reading = read_row(row)
    assert reading.messages is None
    assert reading.problem
    return reading.problem


def called(turn: dict) -> str:
    """Return the text of a single turn of the assistant."""
    ((role, content),) = messages(messages=[turn])
    assert role == "assistant"
    return content


# formats


@pytest.mark.parametrize(
    ("row", "name", "expected"),
    [
        ({"messages": [Q, A]}, "openai", SPOKEN),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            "sharegpt",
            SPOKEN,
        ),
        ({"conversation": [{"from": "human", "value": "q"}]}, "sharegpt", [("user", "q")]),
        ({"conversations": [Q, A]}, "sharegpt", SPOKEN),
        ({"messages": [{"from": "human", "value": "q"}]}, "openai", [("user", "q")]),
        ({"messages": None, "conversations": [Q]}, "sharegpt", [("user", "q")]),
        ({"messages": []}, "openai", []),
        ({"messages": json.dumps([Q, A])}, "openai", SPOKEN),
        ({"messages": [Q, A], "prompt": "p", "prompt_id": 3}, "openai", SPOKEN),  # UltraChat
        ({"instruction": "q", "output": "a"}, "alpaca", SPOKEN),
        ({"instruction": "q", "input": "", "output": "a", "text": "t"}, "alpaca", SPOKEN),
        (
            {"instruction": "q", "input": "i", "output": "a", "system": "s"},
            "alpaca",
            [("system", "s"), ("user", "q\n\ni"), ("assistant", "a")],
        ),
        (
            {"instruction": "q", "output": "a", "history": [["q0", "a0"], ["q1", "a1"]]},
            "alpaca",
            [("user", "q0"), ("assistant", "a0"), ("user", "q1"), ("assistant", "a1"), *SPOKEN],
        ),
        ({"instruction": "q", "output": "a", "history": []}, "alpaca", SPOKEN),
        (  # Dolly
            {"instruction": "q", "context": "c", "response": "a", "category": "x"},
            "alpaca",
            [("user", "q\n\nc"), ("assistant", "a")],
        ),
        ({"prompt": "q", "completion": "a"}, "prompt_completion", SPOKEN),
        ({"prompt": "q", "response": "a"}, "prompt_completion", SPOKEN),
        ({"question": "q", "answer": "a"}, "prompt_completion", SPOKEN),
        (  # OpenOrca
            {"system_prompt": "s", "question": "q", "response": "a"},
            "prompt_completion",
            [("system", "s"), *SPOKEN],
        ),
        ({"prompt": [Q], "completion": [A]}, "prompt_completion", SPOKEN),
        ({"prompt": [Q], "completion": "a"}, "prompt_completion", SPOKEN),
        ({"prompt": "q", "completion": "a", "label": True}, "prompt_completion", SPOKEN),
        ({"messages": [Q], "system": "s"}, "openai", [("system", "s"), ("user", "q")]),
        (
            {"messages": [{"role": "system", "content": "mine"}, Q], "system": "s"},
            "openai",
            [("system", "mine"), ("user", "q")],
        ),
    ],
)
def test_every_format_becomes_messages(row, name, expected):
    reading = read_row(row)
    assert reading.problem is None
    assert reading.format == name
    assert [message[:2] for message in reading.messages] == expected


ALIASES = {
    "user": "user human prompter",
    "assistant": "assistant gpt chatgpt bing bard model bot ai function_call tool_call",
    "system": "system developer",
    "tool": "tool observation function function_response tool_response ipython",
}


@pytest.mark.parametrize("spelling", [str, str.upper, str.title])
@pytest.mark.parametrize(
    ("name", "role"), [(name, role) for role, names in ALIASES.items() for name in names.split()]
)
def test_roles_have_many_names(name, role, spelling):
    for turn in ({"from": spelling(name), "value": "x"}, {"role": spelling(name), "content": "x"}):
        for column in ("conversations", "messages"):
            assert messages(**{column: [turn]}) == [(role, "x")]


def test_unknown_roles_stay_for_the_gate():
    assert messages(messages=[{"role": "Wizard ", "content": "x"}]) == [("Wizard ", "x")]


def test_content_parts_are_one_text():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "image_url": None}, "c"]
    assert messages(messages=[{"role": "user", "content": parts}]) == [("user", "abc")]
    picture = {"type": "image_url", "image_url": {"url": "data:"}}
    row = {"messages": [Q, {"role": "user", "content": [parts[0], picture]}]}
    expected = (
        'part 1 of the content of message 1 of `messages` is not text but of type "image_url": the row '
        "is multimodal, and retune trains on text"
    )
    assert problem(row) == expected


# tools


@pytest.mark.parametrize(
    "turn",
    [
        {"tool_calls": [{"id": "1", "type": "function", "function": WEATHER}]},
        {
            "tool_calls": [{"function": WEATHER | {"arguments": '{"city": "Oslo"}'}}],
            "content": None,
        },
        {"tool_calls": [WEATHER], "content": ""},
        {"tool_calls": json.dumps([WEATHER])},
        {"function_call": WEATHER | {"arguments": '{"city": "Oslo"}'}},
        {"role": "function_call", "content": json.dumps(WEATHER)},
        {"role": "tool_call", "content": json.dumps([WEATHER], indent=2)},
        {"role": "function_call", "content": WEATHER},
        {"from": "function_call", "value": json.dumps({"function": WEATHER})},
    ],
)
def test_a_call_is_written_as_hermes_and_qwen_do(turn):
    assert called({"role": "assistant"} | turn if "from" not in turn else turn) == CALL


def test_calls_follow_the_text_one_block_each():
    now = {"function": {"name": "now", "arguments": "no {json"}}
    turn = {"role": "assistant", "content": "Let me see.", "tool_calls": [WEATHER, now]}
    last = '<tool_call>\n{"name": "now", "arguments": "no {json"}\n</tool_call>'
    assert called(turn) == f"Let me see.\n{CALL}\n{last}"
    bare = {"role": "assistant", "tool_calls": [{"name": "é"}]}
    assert called(bare) == '<tool_call>\n{"name": "é", "arguments": {}}\n</tool_call>'


@pytest.mark.parametrize("text", ["I call weather", '{"city": 1}', "[]", "3", CALL])
def test_a_call_in_another_notation_stays(text):
    assert called({"role": "function_call", "content": text}) == text


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        (
            [{"function": {"arguments": "{}"}}],
            "call 0 of message 0 of `messages` has no function name",
        ),
        ([3], "call 0 of message 0 of `messages` has no function name: 3"),
        ("{", "`tool_calls` of message 0 of `messages` is not JSON"),
        ({"name": "x"}, "`tool_calls` of message 0 of `messages` is an object, not a list"),
    ],
)
def test_a_call_without_a_name_is_a_problem(calls, expected):
    row = {"messages": [{"role": "assistant", "content": "x", "tool_calls": calls}]}
    assert problem(row).startswith(expected)


TOOLS = """\
# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{"type": "function", "function": {"name": "weather", "parameters": {}}}
</tools>

For each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>"""


@pytest.mark.parametrize(
    "tools",
    [[SCHEMA], [SCHEMA["function"]], SCHEMA, json.dumps([SCHEMA]), [json.dumps(SCHEMA)]],
    ids=["wrapped", "bare", "one", "text", "texts"],
)
def test_tools_stand_in_the_system_message(tools):
    assert messages(messages=[Q], tools=tools) == [("system", TOOLS), ("user", "q")]
    assert messages(messages=[Q], functions=tools)[0] == ("system", TOOLS)
    system = {"role": "developer", "content": "Be brief."}
    assert messages(messages=[system, Q], tools=tools)[0] == ("system", f"Be brief.\n\n{TOOLS}")
    alpaca = messages(instruction="q", output="a", system="s", tools=tools)
    assert alpaca == [("system", f"s\n\n{TOOLS}"), *SPOKEN]


def test_tools_are_not_told_twice():
    system = {"role": "system", "content": "You may use <tools>[…]</tools>"}
    assert messages(messages=[system, Q], tools=[SCHEMA])[0] == ("system", system["content"])


@pytest.mark.parametrize("tools", [[], "", "[]", "null", None, {}])
def test_no_tools_are_no_message(tools):
    assert messages(messages=[Q], tools=tools) == [("user", "q")]


@pytest.mark.parametrize("tools", ["weather", ["weather"], [3]])
def test_tools_that_are_no_schemas_are_a_problem(tools):
    assert "`tools`" in problem({"messages": [Q], "tools": tools})


# what cannot be read


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"text": "a"}, 'no usable columns among ["text"]; expected `conversations` (ShareGPT)'),
        ({}, "no usable columns among []"),
        ({"messages": None}, "no usable columns among []"),
        (
            {"instruction": "q", "output": None},
            "there is `instruction` but no `output` or `response`",
        ),
        ({"prompt": "q"}, "there is `prompt` but no `completion` or `response`"),
        ({"messages": "hi"}, "`messages` is not JSON (Expecting value: line 1 column 1 (char 0))"),
        ({"messages": '"hi"'}, '`messages` is text, not a list of messages: "hi"'),
        ({"messages": 3}, "`messages` is a number, not a list of messages: 3"),
        ({"messages": {"role": "user"}}, "`messages` is an object, not a list of messages"),
        ({"messages": [Q, "hi"]}, 'message 1 of `messages` is text, not an object: "hi"'),
        ({"messages": [None]}, "message 0 of `messages` is null, not an object: null"),
        ({"messages": [{"content": "x"}]}, "message 0 of `messages` has no `role` (or `from`)"),
        ({"messages": [{"role": "user"}]}, "message 0 of `messages` has no `content` (or `value`)"),
        (
            {"messages": [{"role": "user", "content": None}]},
            "message 0 of `messages` has no `content`",
        ),
        (
            {"messages": [{"role": 3, "content": "x"}]},
            "the role of message 0 of `messages` is a number",
        ),
        *(
            (
                {"conversations": [{"from": "gpt", "value": value}]},
                f"the content of message 0 of `conversations` is {kind}, not text: {shown}",
            )
            for value, kind, shown in [
                (5, "a number", "5"),
                (True, "a boolean", "true"),
                ({"a": 1}, "an object", '{"a": 1}'),
            ]
        ),
        ({"instruction": "q", "output": 4}, "`output` is a number, not text: 4"),
        ({"instruction": "q", "input": 4, "output": "a"}, "`input` is a number, not text: 4"),
        (
            {"instruction": "q", "output": "a", "history": ["x"]},
            "round 0 of `history` is not a question",
        ),
        ({"prompt": ["q"], "completion": "a"}, "message 0 of `prompt` is text, not an object"),
        ({"messages": [Q], "score": "high"}, '`score` is not a number but text: "high"'),
        ({"messages": [Q], "score": True}, "`score` is not a number but a boolean: true"),
        ({"messages": [Q], "system": 3}, "`system` is a number, not text: 3"),
        ([1], "the row is a list, not an object: [1]"),
        (None, "the row is null, not an object: null"),
    ],
)
def test_what_cannot_be_read_is_a_problem_that_names_it(row, expected):
    assert problem(row).startswith(expected)


def test_a_problem_shows_no_more_than_the_beginning_of_a_value():
    assert len(problem({"messages": "x" * 10**6})) < 200
    assert len(problem({"messages": {"x": "y" * 10**6}})) < 200


def test_deep_nesting_is_a_problem_not_a_crash(tmp_path):
    for text in ("[" * 10**5, '{"a":' * 10**5):
        assert "has lists and objects 100,000 deep" in problem({"messages": text})
        (tmp_path / "d.jsonl").write_text(f'{{"messages": [], "x": {text}}}')
        (row,) = json_rows(tmp_path / "d.jsonl")
        assert "has lists and objects 100,001 deep" in problem(row.parse())


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"chosen": [Q, A], "rejected": [Q, A]},
        {"instruction": "q", "input": "i", "chosen": "a", "rejected": "b"},
        {"conversations": [Q], "chosen": A, "rejected": A},
    ],
)
def test_preference_pairs_are_no_conversations(row):
    assert problem(row).startswith("the row is a preference pair (`chosen` and `rejected`)")


def test_a_conversation_beside_a_preference_pair_is_read():
    assert messages(messages=[Q, A], prompt="q", chosen=[Q, A], rejected=[Q, A]) == SPOKEN


# source and score


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3, 3.0), ("4.5", 4.5), (" 1e3 ", 1000.0), ("", None), (None, None), (10**400, math.inf)],
)
def test_scores_may_be_texts(value, expected):
    reading = read_row({"messages": [Q], "score": value})
    assert (reading.score, reading.problem) == (expected, None)


def test_scores_that_are_not_finite_stay_for_the_gate():
    for text in ("NaN", "Infinity", "-Infinity", '"nan"'):
        row = json.loads(f'{{"messages": [], "score": {text}}}')
        assert not math.isfinite(read_row(row).score)


@pytest.mark.parametrize(
    ("value", "expected"), [("s", "s"), (3, "3"), ({"id": "é"}, '{"id": "é"}'), (None, "unnamed")]
)
def test_a_source_is_a_name(value, expected):
    table = from_rows([{"messages": [], "source": value}], "unnamed")
    assert table["source"].to_pylist() == [expected]


# columns


def test_lone_surrogates_become_replacement_characters():
    text = "a\ud83db\ud83d\ude00\0"
    row = {"messages": [{"role": text, "content": text}], "source": text}
    table = from_rows([json.loads(json.dumps(row)), {"messages": text}], "unnamed")
    clean = "a\ufffdb\U0001f600\0"
    assert table["messages"][0].as_py() == [{"role": clean, "content": clean, "learn": None}]
    assert table["source"].to_pylist() == [clean, "unnamed"]
    assert "\ufffd" in table["problem"][1].as_py()


PLAIN = {
    "sharegpt": {"conversations": [{"from": "Human", "value": "q"}, {"from": "x", "value": "\0é"}]},
    "roles": {"conversations": [Q, A]},
    "openai": {"messages": [Q, A | {"weight": 1}], "score": 4, "source": "s", "meta": {"a": [1]}},
    "vice versa": {"messages": [{"from": "BARD", "value": "2024-01-01"}], "prompt": "unused"},
    "alpaca": {"instruction": "q", "input": "i", "output": "a", "source": "2024-01-01"},
    "no input": {"instruction": "", "input": "i", "output": ""},
    "dolly": {"instruction": "q", "context": None, "response": "a"},
    "prompt": {"prompt": "q", "completion": "a", "score": 0.1},
    "question": {"question": "q", "answer": "12"},
}


def as_batch(rows):
    names = dict.fromkeys(name for row in rows for name in row)
    table = pa.table({name: [row.get(name) for row in rows] for name in names})
    (batch,) = batches([piece(table)])
    return batch


@pytest.mark.parametrize("row", PLAIN.values(), ids=PLAIN)
def test_plain_rows_are_read_by_columns_and_alike(row):
    turns = [name for name in ("conversations", "messages") if name in row]
    rows = [row, {**row, "source": "other", "score": None}, {**row, **{name: [] for name in turns}}]
    several = as_batch(rows)
    by_columns = from_columns(several.columns, "unnamed")
    assert by_columns is not None
    assert by_columns.equals(from_rows(several.rows(), "unnamed"))
    assert by_columns.equals(from_rows(rows, "unnamed"))


NOT_PLAIN = [
    {"conversations": [{"from": "function_call", "value": "x"}]},
    {"conversations": [{"from": "human", "value": None}]},
    {"conversations": [{"from": "human"}]},
    {"conversations": [{"from": "human", "value": "a", "role": "user", "content": "b"}]},
    {"messages": [Q | {"tool_calls": [WEATHER]}]},
    {"messages": [Q], "tools": [SCHEMA]},
    {"messages": [Q], "tools": "[]"},
    {"messages": [Q], "system": "s"},
    {"messages": [None, Q]},
    {"messages": "[]"},
    {"messages": [{"role": "user", "content": 3}]},
    {"messages": [Q], "score": "3"},
    {"messages": [Q], "source": 3},
    {"messages": [Q], "chosen": "a", "rejected": "b"},
    {"instruction": "q", "output": 3},
    {"instruction": "q", "input": 3, "output": "a"},
    {"instruction": "q", "output": "a", "history": [["a", "b"]]},
    {"prompt": [Q], "completion": [A]},
    {"prompt": "q"},
    {"text": "x"},
]


@pytest.mark.parametrize("row", NOT_PLAIN, ids=json.dumps)
def test_other_rows_are_left_to_the_reference(row):
    """Alone, and when one of them hides among plain rows."""
    for rows in ([row], [PLAIN["sharegpt"], row], [PLAIN["prompt"]] * 3 + [row]):
        try:
            several = as_batch(rows)
        except pa.ArrowException:  # a table cannot hold these rows together
            continue
        assert several.columns is None or from_columns(several.columns, "unnamed") is None
        assert from_rows(several.rows(), "unnamed").equals(from_rows(rows, "unnamed"))
