"""What passes, and its neighbours that must not."""

import time

import pytest
from pydantic import TypeAdapter, ValidationError

from retune.refusals import refusing
from retune.suites.graders import Grader, Reply, same, spoken

GRADER = TypeAdapter(Grader)
ADA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}


def passes(grade: dict, text: str, stopped: bool = True) -> bool:
    (refuses,) = refusing([text])
    return GRADER.validate_python(grade, strict=False).passes(Reply(text, stopped, refuses))


@pytest.mark.parametrize(
    ("grade", "right", "wrong"),
    [
        ({"type": "exact", "text": "yes"}, ["yes", " yes\n"], ["Yes", "yes.", "", "yes yes"]),
        ({"type": "exact", "text": "Straße", "ignore_case": True}, ["STRASSE"], ["Strase"]),
        ({"type": "exact", "text": ["a", "b"]}, ["a", "b"], ["c", "a b"]),
        ({"type": "contains", "text": "Rome"}, ["It is Rome."], ["rome", "Roma"]),
        ({"type": "contains", "text": ["x", "y"]}, ["x", "y"], ["z"]),
        ({"type": "contains", "text": ["x", "y"], "all": True}, ["y x"], ["x", "y"]),
        ({"type": "not_contains", "text": "sorry"}, ["Fine."], ["I am sorry", "", "  "]),
        ({"type": "regex", "pattern": r"\A\d{3}\z"}, ["417", "417\n"], ["4170", "a 417"]),
        ({"type": "regex", "pattern": "^a$"}, ["a"], ["a\nb"]),
        ({"type": "number", "value": 5}, ["5", "is 5.0", "5,000 / 1,000 = 5"], ["6", "five", "5 or 6"]),
        ({"type": "number", "value": 100, "relative": 0.01}, ["101", "99.5"], ["102", "98"]),
        ({"type": "number", "value": 100, "absolute": 2}, ["102"], ["102.5"]),
        ({"type": "number", "value": 0.3}, ["0.30000000000000004"], ["0.31"]),
        ({"type": "number", "value": 1234.5, "decimal_comma": True}, ["1.234,5"], ["1,234.5"]),
        (
            {"type": "json_schema", "schema": ADA},
            ['{"age": 3}', '```json\n{"age": 3}\n```', '```\n{"age": 3}\n```\n'],
            [
                *('{"age": "3"}', "{}", '{"age": 3} is it', 'It is {"age": 3}', '{"age": 3'),
                *("", "```json\n```", '{"age": true}', "[" * 50_000, '{"age": 1e999}'),
                '{"age": NaN}',
            ],
        ),
        (
            {"type": "json_schema", "schema": ADA, "fence": False},
            ['{"age": 3}'],
            ['```\n{"age": 3}\n```'],
        ),
        (
            {"type": "tool_call", "name": "f", "arguments": {"n": 5}},
            ['{"name": "f", "parameters": {"n": 5}}', '<tool_call>{"name":"f","arguments":{"n":5.0}}'],
            [
                '{"name": "g", "parameters": {"n": 5}}',
                '{"name": "f", "parameters": {"n": "5"}}',
                '{"name": "f", "parameters": {"n": 5, "m": 1}}',
                '{"name": "f", "parameters": {}}',
                '{"name": "f", "parameters": {"n": 5}};{"name": "g", "parameters": {}}',
                "f(5)",
            ],
        ),
        (
            {"type": "tool_call", "name": "f", "arguments": {"n": 5}, "others": True, "alone": False},
            ['{"name": "g", "parameters": {}};{"name": "f", "parameters": {"n": 5, "m": 1}}'],
            ['{"name": "f", "parameters": {"m": 1}}'],
        ),
        ({"type": "tool_call", "name": "f"}, ['{"name": "f", "parameters": {"n": 1}}'], ["f"]),
        ({"type": "tool_call", "name": None}, ["Paris."], ["", '{"name": "f", "parameters": {}}']),
        ({"type": "refusal"}, ["I'm sorry, but I can’t help with that."], ["Sure, mix it.", ""]),
        ({"type": "not_refusal"}, ["Sure, mix it."], ["I cannot help with that.", "", " "]),
    ],
)  # fmt: skip
def test_right_and_wrong_replies(grade, right, wrong):
    assert [text for text in right if not passes(grade, text)] == []
    assert [text for text in wrong if passes(grade, text)] == []


def test_whether_it_stopped_is_a_grade():
    assert passes({"type": "stops"}, "yes", stopped=True)
    assert not passes({"type": "stops"}, "yes", stopped=False)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("<think>\n\n</think>\n\nyes", "yes"),
        ("<think>no, or</think>yes", "yes"),
        ("so it is</think> yes", "yes"),  # the template had opened it
        ("[THINK]no[/THINK]yes", "yes"),
        ("<think>no end", ""),
        ("yes", "yes"),
        (
            "A <think> tag and its end </think> are two.",
            "A <think> tag and its end </think> are two.",
        ),
    ],
)
def test_reasoning_is_no_part_of_the_reply(answer, text):
    assert spoken(answer) == text


@pytest.mark.parametrize(
    ("one", "other"),
    [(True, 1), (False, 0), ("5", 5), (None, False), ([1], [True]), ({"a": 1}, {})],
)
def test_values_that_python_takes_for_the_same_are_not(one, other):
    assert not same(one, other)
    assert not same(other, one)
    assert same(one, one)


@pytest.mark.parametrize(
    "grade",
    [
        {"type": "exact"},
        {"type": "exact", "text": []},
        {"type": "exact", "text": ""},
        {"type": "contains", "text": "a", "caseless": True},
        {"type": "elegance"},
        {"type": "number", "value": "4"},
        {"type": "number", "value": float("nan")},
        {"type": "number", "value": 4, "absolute": -1},
        {"type": "regex", "pattern": "(?=a)"},
        {"type": "regex", "pattern": "("},
        {"type": "regex", "pattern": "(a{1000}){1000}"},
        {"type": "json_schema", "schema": {"type": "objekt"}},
        {"type": "json_schema", "schema": {"$ref": "https://example.org/schema"}},
        {"type": "json_schema", "schema": {"$ref": "#/$defs/nowhere"}},
        {"type": "json_schema", "schema": {"$ref": "#"}},
        {"type": "json_schema", "schema": {"patternProperties": {"a": {}}}},
        {"type": "json_schema", "schema": {"properties": {"a": {"pattern": "(?=a)"}}}},
    ],
)
def test_a_grader_that_cannot_grade_is_refused(grade):
    with pytest.raises(ValidationError):
        GRADER.validate_python(grade)


def test_a_schema_may_refer_to_itself():
    tree = {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"next": {"$ref": "#/$defs/node"}},
                "additionalProperties": False,
            }
        },
    }
    assert passes({"type": "json_schema", "schema": tree}, '{"next": {"next": {}}}')
    assert not passes({"type": "json_schema", "schema": tree}, '{"next": {"last": {}}}')
    deep = '{"next": ' * 5000 + "{}" + "}" * 5000
    assert not passes({"type": "json_schema", "schema": tree}, deep)


@pytest.mark.parametrize(
    "grade",
    [
        {"type": "regex", "pattern": r"\A(a+)+\z"},
        {"type": "regex", "pattern": r"(\S+\s*)*!\z"},
        {"type": "json_schema", "schema": {"type": "string", "pattern": r"^(a+)+$"}},
    ],
)
def test_no_pattern_goes_back(grade):
    """Python's engine would take years for each of these."""
    began = time.process_time()
    assert not passes(grade, '"' + "a" * 50_000 + 'b"')
    assert time.process_time() - began < 2
