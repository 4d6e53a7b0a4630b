"""SuiteProbe files: read whole, or refused with the line, the value seen and what to change."""

import json

import pytest

from retune.sources import SourceError
from retune.suites.probes import read_probes

ASK = {"messages": [{"role": "user", "content": "Two and two?"}]}
GRADE = {"type": "number", "value": 4}
SOUND = ASK | {"grade": GRADE}


@pytest.fixture
def read(tmp_path):
    def of(*lines):
        path = tmp_path / "probes.jsonl"
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_text("\n".join(texts), encoding="utf-8")
        return read_probes(path, "evaluation.suites.0.path")

    return of


def test_what_a_line_holds(read):
    calls = [{"type": "function", "id": "1", "function": {"name": "f", "arguments": {}}}]
    tools = [{"type": "function", "function": {"name": "f"}}]
    messages = [
        *ASK["messages"],
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "1", "content": "4"},
    ]
    line = {"messages": messages, "tools": tools, "slice": "sums", "id": "one"}
    first, second = read(SOUND, "", line | {"grade": [GRADE, {"type": "stops"}]}, "\t")
    assert (first.slice, first.id, first.tools) == ("all", None, ())
    assert first.chat == ASK["messages"]
    assert second.chat[1] == {"role": "assistant", "content": "", "tool_calls": calls}
    assert second.tools == tuple(tools)
    assert second.grading == [GRADE, {"type": "stops"}]


def test_an_example_is_what_is_asked_with_which_tools_and_how_it_is_graded(read):
    first, *others = read(
        SOUND,
        ASK | {"grade": GRADE | {"value": 5}},
        SOUND | {"tools": [{"name": "f"}]},
        {"messages": [{"role": "user", "content": "?"}], "grade": GRADE},
    )
    assert first.example not in {other.example for other in others}
    (named,) = read(SOUND | {"id": "x", "slice": "y", "grade": [GRADE | {"absolute": 0.0}]})
    assert named.example == first.example


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{'messages'", r"line 2: no JSON"),
        ("[1]", r"line 2: the probe: should be an object \(got \[1\]\)"),
        ({"grade": GRADE}, "line 2: messages is missing; add it"),
        (ASK, "line 2: grade is missing; add it"),
        (SOUND | {"prompt": 1}, "line 2: unknown key 'prompt'"),
        (SOUND | {"messages": []}, r"line 2: messages: .* at least 1"),
        ({"messages": [{"role": "usr", "content": "a"}], "grade": GRADE}, r"messages.0.role: .*'usr'"),
        ({"messages": [{"role": "user", "content": ""}], "grade": GRADE}, "neither content nor"),
        ({"messages": [{"role": "assistant", "content": "a"}], "grade": GRADE}, "end with an answer"),
        (ASK | {"grade": []}, r"line 2: grade: .* at least 1"),
        (ASK | {"grade": {"value": 4}}, "grade.0 has no type"),
        (ASK | {"grade": {"type": "nomber"}}, r"grade.0: .*'nomber'.*'number'"),
        (ASK | {"grade": GRADE | {"value": "4"}}, r"grade.0.number.value: .*\(got '4'\)"),
        (ASK | {"grade": {"type": "regex", "pattern": "(?=a)"}}, "look-around"),
        (SOUND | {"slice": ""}, "line 2: slice"),
        (SOUND, "line 2: asks and grades the same as line 1; remove one"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_probe_is_named_with_what_was_seen(read, line, words):
    with pytest.raises(SourceError, match=words) as error:
        read(SOUND, line)
    assert str(error.value).startswith("evaluation.suites.0.path: ")


def test_ids_are_of_one_probe(read):
    other = {"messages": [{"role": "user", "content": "?"}], "grade": GRADE, "id": "a"}
    with pytest.raises(SourceError, match="line 2: has the id of line 1"):
        read(SOUND | {"id": "a"}, other)


def test_many_mistakes_are_five_lines(read):
    with pytest.raises(SourceError, match="and 45 more") as error:
        read(*["{}"] * 25)
    assert len(str(error.value).splitlines()) == 7


def test_what_is_no_file_of_text(tmp_path, read):
    path = tmp_path / "probes.jsonl"
    for content, words in ((b"\n \n", "no probe"), (b'{"\xff": 1}', r"not UTF-8 \(byte 2\)")):
        path.write_bytes(content)
        with pytest.raises(SourceError, match=words):
            read_probes(path, "s")
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(SOUND).encode() + b"\r\n")
    assert len(read_probes(path, "s")) == 1
