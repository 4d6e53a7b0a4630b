"""Rows are read as the tool they were written for means them; nothing of them is dropped in silence."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from retune.ignored import Ignored
from retune.recipe import Dataset, Recipe, set_value
from retune.records import Pins
from retune.sources import SourceError
from tasks.fetch.batches import to_rows
from tasks.fetch.columns import from_columns, from_rows
from tasks.fetch.conversations import read_row
from tasks.fetch.key import key
from tasks.fetch.reading import read
from tasks.fetch.shape import SHAPE
from tasks.fetch.unused import Notes

Q, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
SPOKEN = [("user", "q"), ("assistant", "a")]
CALL = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'


@pytest.fixture(autouse=True)
def usual_shape():
    """A shape that a test sets is not the next one's."""
    before = SHAPE.set(SHAPE.get())
    yield
    SHAPE.reset(before)


def texts(row) -> list[tuple[str, str]]:
    reading = read_row(row)
    assert reading.problem is None
    return [(message.role, message.content) for message in reading.messages]


def problem(row) -> str:
    reading = read_row(row)
    assert reading.problem
    return reading.problem


def learn(row) -> list[bool | None]:
    return [message.learn for message in read_row(row).messages]


def fetched(folder, rows, name="d.jsonl", **settings):
    """Return the table of a file of rows, and what is ignored of them."""
    path = folder / name
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows))
    notes = Notes()
    dataset = Dataset(source=str(path), **settings)
    table = pa.concat_tables(to_rows(read(dataset, None, folder / "cache"), "unnamed", notes))
    return table, notes.summary()


# what must not be learnt


@pytest.mark.parametrize(
    "mark",
    [
        {"weight": 0},
        {"weight": 0.0},
        {"train": False},
        {"training": False},
        {"loss": False},
        {"loss_weight": 0.0},
    ],
)
def test_a_message_that_must_not_be_learnt_says_so(mark):
    assert learn({"messages": [Q, A | mark]}) == [None, False]
    turn = {"from": "gpt", "value": "a"} | mark
    assert learn({"conversations": [{"from": "human", "value": "q"}, turn]}) == [None, False]
    (name,) = mark
    assert learn({"messages": [Q, A | {name: 1}]}) == [None, None]
    assert learn({"messages": [Q, A | {name: None}]}) == [None, None]
    tools = {"tools": [{"name": "f"}]}
    assert learn({"messages": [Q | mark, A], **tools}) == [None, False, None]


@pytest.mark.parametrize("weight", [0.5, 2, -1, float("nan")])
def test_a_part_of_a_weight_is_no_message_that_is_learnt_whole(weight):
    assert "`weight` of message 1 of `messages` is" in problem(
        {"messages": [Q, A | {"weight": weight}]}
    )


def test_parts_are_learnt_together_or_not_at_all():
    parts = [{"type": "text", "text": text, "train": False} for text in "ab"]
    assert learn({"messages": [Q, {"role": "assistant", "content": parts}]}) == [None, False]
    parts[1]["train"] = True
    words = "some parts of the content of message 1 of `messages` are to be learnt and some not"
    assert problem({"messages": [Q, {"role": "assistant", "content": parts}]}).startswith(words)


# KTO


@pytest.mark.parametrize("row", [{"messages": [Q, A]}, {"instruction": "q", "output": "a"}])
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("mark", "refused"),
    [
        ({"label": False}, True),
        ({"kto_tag": False}, True),
        ({"kto_tag": "false"}, True),
        ({"kto_tag": 0}, True),
        ({"label": True}, False),
        ({"kto_tag": True}, False),
        ({"label": 3}, False),
        ({"label": ["a"]}, False),
    ],
)
def test_a_source_with_one_answer_not_to_give_is_refused(tmp_path, row, kind, mark, refused):
    rows = [row | dict.fromkeys(mark), row | mark, *[row] * 28]  # the first has all columns
    if not refused:
        assert fetched(tmp_path, rows, f"d.{kind}")[0]["problem"].null_count == 30
        return
    (column,) = mark
    words = rf"by `{column}` that 1 of 30 answers are not to be given \(KTO, answers not to give: "
    with pytest.raises(SourceError, match=words):
        fetched(tmp_path, rows, f"d.{kind}")


@pytest.mark.parametrize("values", [(False, True), ("false", "true"), (0, 1), ("0", "1")], ids=str)
def test_a_source_for_kto_is_refused_as_a_whole(tmp_path, values):
    rows = [{"prompt": "q", "completion": "a", "label": values[n % 2]} for n in range(10)]
    with pytest.raises(SourceError, match=r"by `label` that 5 of 10 answers are not to be given"):
        fetched(tmp_path, rows)
    table, _ = fetched(tmp_path, rows, ignore=["label"])
    assert table["problem"].null_count == 10


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
@pytest.mark.parametrize(
    "classes", [(0, 1, 2, 5), ("false", "half-true", "true"), ("a", "b")], ids=str
)
def test_a_label_that_is_a_class_is_not_used(tmp_path, kind, classes):
    rows = [
        {"prompt": "q", "completion": "a", "label": classes[n % len(classes)]} for n in range(12)
    ]
    table, ignored = fetched(tmp_path, rows, f"d.{kind}")
    assert table["problem"].null_count == 12
    assert ignored.columns == {"label": 12}


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_segments_that_alternate_are_turns(tmp_path, kind):
    segments = [
        {"label": False, "text": "q\n", "note": "n"},
        {"label": True, "text": " a"},
        {"label": False, "text": "again"},
        {"label": True, "text": "b"},
    ]
    table, ignored = fetched(tmp_path, [{"segments": segments, "id": 3}] * 2, f"d.{kind}")
    messages = table["messages"][0].as_py()
    assert [(m["role"], m["content"], m["learn"]) for m in messages] == [
        *(("user", "q", False), ("assistant", "a", None)),
        *(("user", "again", False), ("assistant", "b", None)),
    ]
    assert ignored.keys == {"note": 2}
    assert table["format"].to_pylist() == ["input_output"] * 2


@pytest.mark.parametrize(
    ("call", "unused"),
    [
        ({"name": "f", "arguments": {"x": 1}, "id": "1"}, {}),
        ({"name": "f", "parameters": {"x": 1}}, {"tool_calls.parameters": 1}),
        (
            {"function": {"name": "f", "arguments": {"x": 1}, "strict": True}, "type": "function"},
            {"tool_calls.function.strict": 1},
        ),
        ({"function": {"name": "f"}, "arguments": {"x": 1}}, {"tool_calls.arguments": 1}),
    ],
)
def test_keys_of_calls_that_are_not_used_are_counted(call, unused):
    row = {"messages": [Q, {"role": "assistant", "content": "", "tool_calls": [call]}]}
    assert dict(read_row(row).keys) == unused


# reasoning and tools

THOUGHT = "<think>\nhm\n</think>\n\na"


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "assistant", "content": "a", "reasoning_content": "hm\n"},
        {"role": "assistant", "content": "a", "thinking": "hm"},
        {"role": "assistant", "content": "a", "reasoning": "hm"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "x"},
                {"type": "text", "text": "a"},
            ],
        },
        {
            "role": "assistant",
            "content": [{"type": "reasoning", "value": "hm"}, {"type": "text", "value": "a"}],
        },
        {"role": "assistant", "content": THOUGHT, "thinking": ""},
    ],
)
def test_reasoning_stands_before_the_answer(turn):
    assert texts({"messages": [Q, turn]}) == [("user", "q"), ("assistant", THOUGHT)]


def test_reasoning_is_not_told_twice_and_stands_before_calls():
    assert texts({"messages": [A | {"content": THOUGHT, "thinking": "hm"}]})[0][1] == THOUGHT
    turn = {
        "role": "assistant",
        "thinking": "hm",
        "tool_calls": [{"name": "f", "arguments": {"x": 1}}],
    }
    assert texts({"messages": [turn]})[0][1] == f"<think>\nhm\n</think>\n\n{CALL}"


def test_blocks_of_anthropic_are_calls_and_results():
    use = {"type": "tool_use", "id": "t", "name": "f", "input": {"x": 1}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "r"}]}
    row = {
        "system": [{"type": "text", "text": "s"}],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
        "messages": [
            Q,
            {"role": "assistant", "content": [{"type": "text", "text": "I look."}, use]},
            {"role": "user", "content": [result]},
            A,
        ],
    }
    system, *rest = texts(row)
    assert '"parameters": {"type": "object"}' in system[1]
    assert rest == [Q_, ("assistant", f"I look.\n{CALL}"), ("tool", "r"), ("assistant", "a")]


Q_ = ("user", "q")


def test_calls_in_a_row_are_one_message_and_results_follow_their_order():
    call = {"name": "f", "arguments": {"x": 1}}
    swift = [
        Q,
        *[{"role": "tool_call", "content": json.dumps(call)}] * 2,
        *[{"role": "tool_response", "content": text} for text in "12"],
        A,
    ]
    expected = [Q_, ("assistant", f"{CALL}\n{CALL}"), ("tool", "1"), ("tool", "2"), SPOKEN[1]]
    assert texts({"messages": swift}) == expected
    named = [{"id": name, "type": "function", "function": call} for name in ("c0", "c1")]
    answers = [{"role": "tool", "tool_call_id": f"c{n}", "content": f"{n + 1}"} for n in (1, 0)]
    parallel = [Q, {"role": "assistant", "content": None, "tool_calls": named}, *answers, A]
    assert texts({"messages": parallel}) == expected
    single = [{"role": "assistant", "content": "", "tool_calls": [one]} for one in named]
    assert texts({"messages": [Q, *single, *answers, A]}) == expected
    assert texts({"messages": [Q, A, A]}) == [*SPOKEN, SPOKEN[1]]  # for the gate to judge


# pictures and sounds


@pytest.mark.parametrize("column", ["images", "image", "audios", "audio", "videos", "video"])
def test_a_row_with_more_than_text_is_refused(column):
    assert problem({"messages": [Q, A], column: ["x.jpg"]}).startswith("the row is multimodal")
    assert problem({"prompt": "q", "completion": "a", column: "x.jpg"}).endswith(
        f"it has `{column}`"
    )
    for nothing in ([], "", None):
        assert texts({"messages": [Q, A], column: nothing}) == SPOKEN
    assert texts({"messages": [{"role": "user", "content": "<image> is a tag"}, A]})[1] == SPOKEN[1]


def test_of_pictures_in_a_file_the_bytes_are_not_read(tmp_path):
    """A picture without a path is one, too; a row without a picture is none."""
    pictures = [{"bytes": b"x" * 1000, "path": None}, None]
    for column, values in (("image", pictures), ("images", [[pictures[0]], []])):
        rows = [{"messages": [Q, A], column: value} for value in values]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
        dataset = Dataset(source=str(tmp_path / "d.parquet"))
        (batch,) = read(dataset, None, tmp_path / "cache")
        assert batch.columns.nbytes < 500
        (table,) = to_rows([batch], "unnamed")
        first, second = table["problem"].to_pylist()
        assert first.startswith("the row is multimodal")
        assert second is None


# layouts


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": "i", "input": "q", "response": "a"}, "i\n\nq"),
        ({"prompt": "i", "input": "q", "completion": "a"}, "i\n\nq"),
        ({"prompt": "i", "input": "q", "response": "a"}, "i\n\nq"),
        ({"Instruction": "q", "Output": "a"}, "q"),
        ({"query": "q", "response": "a"}, "q"),
        ({"conversation": [{"human": "q", "assistant": "a"}]}, "q"),
        ({"conversation": [{"input": "q", "output": "a"}]}, "q"),
        ({"messages": [["user", "q"], ["assistant", "a"]]}, "q"),
        ({"messages": [["q", "a"]]}, "q"),
        ({"messages": {"role": ["user", "assistant"], "content": ["q", "a"]}}, "q"),
        ({"messages": json.dumps([Q, A])}, "q"),
        ({"messages": [Q, A], "conversations": [{"from": "human", "value": "q"}, A]}, "q"),
        ({"messages": [Q, A], "conversations": []}, "q"),
    ],
)
def test_layouts_of_other_tools(row, expected):
    assert texts(row) == [("user", expected), ("assistant", "a")]


def test_ms_swift_has_history_and_system():
    row = {"query": "q", "response": "a", "history": [["p", "b"]], "system": "s"}
    assert texts(row) == [("system", "s"), ("user", "p"), ("assistant", "b"), *SPOKEN]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            {"messages": [Q, A], "conversations": [Q, A | {"content": "b"}]},
            "dataset.columns={messages: conversations} or {messages: messages}",
        ),
        ({"messages": str([Q, A])}, "is in Python's notation, not JSON"),
        ({"segments": [{"label": True, "text": "q"}]}, "do not alternate between `label: false`"),
        ({"segments": [{"label": False, "text": "q"}] * 2}, "do not alternate"),
        ({"segments": [{"label": False, "text": "q"}]}, "do not alternate"),
        ({"segments": [{"label": 1, "text": "q"}]}, "segment 0 of `segments` has no `label`"),
        ({"segments": []}, "not a list of segments"),
        ({"messages": [["user", "q"], ["b", "a"]]}, "some begin with a role and some do not"),
        ({"messages": [["q", "a", "b"]]}, "not of two texts each"),
        ({"input": "q", "output": "a"}, "no usable columns"),
    ],
)
def test_what_could_mean_two_things_is_refused_by_name(row, words):
    assert words in problem(row)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("refuse", [*SPOKEN, ("system", "s"), ("user", "r"), ("assistant", "b")]),
        ("user", [*SPOKEN, ("user", "s\n\nr"), ("assistant", "b")]),
        ("system", [("system", "s"), *SPOKEN, ("user", "r"), ("assistant", "b")]),
    ],
)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_system_message_in_the_middle_goes_where_the_recipe_says(tmp_path, how, expected, kind):
    more = [("system", "s"), ("user", "r"), ("assistant", "b")]
    turns = [{"role": role, "content": text} for role, text in (*SPOKEN, *more)]
    table, _ = fetched(tmp_path, [{"messages": turns}], f"d.{kind}", mid_system=how)
    assert [(m["role"], m["content"]) for m in table["messages"][0].as_py()] == expected


@pytest.mark.parametrize("how", ["user", "system"])
def test_a_system_message_that_is_not_to_be_learnt_stays_so_where_it_goes(tmp_path, how):
    late = {"role": "system", "content": "s", "weight": 0}
    turns = [Q, A, late, {"role": "user", "content": "r"}, A]
    table, _ = fetched(tmp_path, [{"messages": turns}], mid_system=how)
    messages = table["messages"][0].as_py()
    (joined,) = (m for m in messages if m["content"].startswith("s"))
    assert joined["learn"] is False


# what is not used

MARKED = [Q | {"name": "bob"}, A | {"weight": 0, "note": "x"}]
UNUSED = Ignored(columns={"prompt": 2}, keys={"name": 2, "note": 2})


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_columns_and_keys_that_are_not_used_are_counted(tmp_path, kind):
    rows = [{"messages": MARKED, "prompt": "p", "id": n, "lang": None} for n in range(2)]
    table, ignored = fetched(tmp_path, rows, f"d.{kind}")
    unread = 2 if kind == "jsonl" else None  # of a Parquet file only columns that are used are read
    assert ignored.columns == {"prompt": 2, "id": unread}
    assert ignored.keys == UNUSED.keys
    assert [m["learn"] for m in table["messages"][0].as_py()] == [None, False]
    if kind == "jsonl":
        assert ignored.sentence("columns") == "id (2 rows), prompt (2 rows): not used"
    else:
        assert ignored.sentence("columns") == "prompt (2 rows), id (some rows): not used"
    assert ignored.without([{"id", "name", "note"}]).measures() == {
        "ignored_columns": 1,
        "ignored_keys": 0,
    }


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_key_that_is_ignored_on_purpose_is_counted_all_the_same(tmp_path, kind):
    """The same output serves a recipe that acknowledges it and one that does not."""
    _, ignored = fetched(tmp_path, [{"messages": MARKED}] * 2, f"d.{kind}", ignore=["note"])
    assert ignored.keys == UNUSED.keys


def test_a_name_that_rounds_are_read_by_is_in_the_key():
    def made(*ignore):
        values = {"name": "r", "model": {"base": "b"}}
        dataset = {"source": "d", "ignore": ignore}
        return key(Recipe.parse(values | {"dataset": dataset}), Pins(dataset="d", model="m"))

    assert made() == made("lang")
    assert made() != made("human")


def test_a_column_that_is_not_read_is_named_without_a_count(tmp_path):
    rows = [{"prompt": "q", "completion": "a", "lang": lang} for lang in ("en", None)]
    _, ignored = fetched(tmp_path, rows, "d.parquet")
    assert ignored.sentence("columns") == "lang (some rows): not used"


def test_names_are_masked_and_bounded(tmp_path):
    key = "sk-proj-" + "Ab3" * 20
    row = {"messages": [Q, A]} | {f"c{n}": 1 for n in range(60)} | {key: 1}
    _, ignored = fetched(tmp_path, [row, {"messages": [Q, A], key: 1}])
    assert len(ignored.columns) == 50
    assert ignored.more_columns == 11
    assert key not in ignored.model_dump_json()
    assert ignored.columns["[secret]"] == 2


def test_plain_rows_with_marks_are_read_by_columns():
    rows = [{"messages": MARKED, "prompt": "p"}] * 2
    notes, reference = Notes(), Notes()
    by_columns = from_columns(pa.Table.from_pylist(rows), "unnamed", notes)
    assert by_columns.equals(from_rows(rows, "unnamed", reference))
    assert notes.summary() == reference.summary() == UNUSED


# mapping

PAIRS = [(f"What is {n}?", f"It is {n}, as they say.") for n in range(5)]


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
def test_columns_of_any_name_give_the_rows_of_known_ones(tmp_path, kind):
    known, _ = fetched(tmp_path, [{"instruction": q, "output": a} for q, a in PAIRS])
    rows = [{"id": f"i{n}", "q": q, "a": a, "quality": 3} for n, (q, a) in enumerate(PAIRS)]
    columns = {"question": "q", "answer": "a", "score": "quality"}
    mapped, ignored = fetched(tmp_path, rows, f"d.{kind}", columns=columns)
    assert mapped["messages"].equals(known["messages"])
    assert mapped["score"].to_pylist() == [3.0] * 5
    assert ignored.columns == {"id": None if kind == "parquet" else 5}


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_messages_of_any_names(tmp_path, kind):
    chat = [{"who": "Customer", "words": "q"}, {"who": "agent", "words": "a"}]
    settings = {
        "columns": {"messages": "chat", "role": "who", "content": "words"},
        "roles": {"customer": "user", "agent": "assistant"},
    }
    table, ignored = fetched(tmp_path, [{"chat": chat}], f"d.{kind}", **settings)
    assert [(m["role"], m["content"]) for m in table["messages"][0].as_py()] == SPOKEN
    assert ignored == Ignored()


@pytest.mark.parametrize("kind", ["d.jsonl", "d.parquet", "d.csv"])
@pytest.mark.parametrize("name", ["split_group", "user"])
def test_a_group_of_the_split_is_read_as_a_digest(tmp_path, kind, name):
    rows = [{"q": "q", "a": "a", name: user} for user in ("bo@example.com", "li", "li", None)]
    columns = {"question": "q", "answer": "a", **({"split_group": name} if name == "user" else {})}
    table, ignored = fetched(tmp_path, rows, kind, columns=columns)
    bo, li, same, nobody = table["split_group"].to_pylist()
    assert nobody is None
    assert li == same != bo
    assert {len(bo), len(li)} == {16}
    assert ignored == Ignored()


def test_a_column_named_group_is_none_of_the_split(tmp_path):
    rows = [{"question": "q", "answer": "a", "group": name} for name in ("maths", "art")]
    table, ignored = fetched(tmp_path, rows)
    assert table["split_group"].null_count == 2
    assert ignored.columns == {"group": 2}


def test_a_column_chooses_between_two_conversations(tmp_path):
    rows = [{"messages": [Q, A], "conversations": [Q, A | {"content": "b"}]}]
    for name, answer in (("messages", "a"), ("conversations", "b")):
        table, ignored = fetched(tmp_path, rows, columns={"messages": name})
        assert table["messages"][0].as_py()[1]["content"] == answer
        assert len(ignored.columns) == 1


def test_reasoning_beside_a_pair_is_used_when_it_is_named(tmp_path):
    rows = [{"Question": "q", "Complex_CoT": "hm", "Response": "a"}]
    table, ignored = fetched(tmp_path, rows)
    assert ignored.columns == {"Complex_CoT": 1}
    assert table["messages"][0].as_py()[1]["content"] == "a"
    table, ignored = fetched(tmp_path, rows, columns={"reasoning": "Complex_CoT"})
    assert table["messages"][0].as_py()[1]["content"] == THOUGHT
    assert ignored.columns == {}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"id": 1, "q": "x", "a": "y"}], "dataset.columns={question: q, answer: a}"),
        ([{"input": "x", "output": "y"}], "dataset.columns={question: input, answer: output}"),
        ([{"fråga": "x", "svar": "y"}], "dataset.columns={question: fråga, answer: svar}"),
        (
            [{"left": "It is late now, go.", "right": "Is it late or early now?", "n": "1"}],
            "dataset.columns={question: right, answer: left}",
        ),
        (
            [{"chat": [{"speaker": "client", "text": "x"}, {"speaker": "shop", "text": "y"}]}],
            "dataset.columns={messages: chat, role: speaker, content: text} and "
            "dataset.roles={client: user, shop: assistant}",
        ),
    ],
)
def test_what_columns_look_like_is_guessed(tmp_path, rows, words):
    with pytest.raises(SourceError) as refusal:
        fetched(tmp_path, rows * 2)  # a file of one object may hold a list of rows
    assert words in str(refusal.value)


def test_a_column_that_no_row_has_is_named(tmp_path):
    rows = [{"q": "x", "answer": "y"}]
    with pytest.raises(SourceError, match=r"no row has a value in a column `qq` \(question\)"):
        fetched(tmp_path, rows, columns={"question": "qq"})
    with pytest.raises(SourceError, match=r"no row has a value in a column `z` \(context\)"):
        fetched(tmp_path, rows, columns={"question": "q", "context": "z"})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"columns": {"questoin": "q"}}, "did you mean 'question'"),
        ({"columns": {"question": "q", "answer": "q"}}, "'q' is given two meanings"),
        ({"columns": {"question": "q", "messages": "m"}}, "either `messages`, or `question`"),
        ({"columns": {"question": "q"}, "ignore": ["q"]}, "which dataset.columns uses"),
        ({"roles": {"customer": "buyer"}}, "'user', 'assistant', 'system' or 'tool'"),
    ],
)
def test_a_mapping_that_makes_no_sense_is_refused(settings, words):
    with pytest.raises(ValidationError, match=words):
        Dataset(source="s", **settings)


def test_a_mapping_is_one_setting_on_the_command_line():
    values = {"name": "r", "model": {"base": "b"}, "dataset": {"source": "s"}}
    for assignment in (
        "dataset.columns={question: q, answer: a}",
        "dataset.roles={customer: user}",
        "dataset.ignore=[id, label]",
    ):
        values = set_value(values, assignment)
    dataset = Recipe.parse(values).dataset
    assert dataset.columns == {"question": "q", "answer": "a"}
    assert dataset.roles == {"customer": "user"}
    assert dataset.ignore == ("id", "label")


def test_acknowledging_a_name_that_is_not_read_makes_no_rows_anew():
    def of(**settings):
        values = {"name": "r", "model": {"base": "b"}, "dataset": {"source": "s"} | settings}
        return key(Recipe.parse(values), Pins(dataset="d", model="m"))

    assert of() == of(ignore=["id", "lang"])
    for settings in ({"ignore": ["label"]}, {"columns": {"score": "x"}}, {"mid_system": "user"}):
        assert of() != of(**settings)
