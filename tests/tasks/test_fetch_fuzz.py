"""Whatever a file holds, fetch gives its rows in one shape or says why it cannot."""

import io
import json
from codecs import BOM_UTF8
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from retune.recipe import Dataset
from retune.recipe.flaws import OVERSIZED
from retune.sources import SourceError
from tasks.fetch.batches import to_rows
from tasks.fetch.budget import BUDGET
from tasks.fetch.columns import from_columns, from_rows, row_schema
from tasks.fetch.reading import read
from tasks.fetch.shape import KNOWN_COLUMNS, PAIRS, ROLES, TURN_COLUMNS
from tasks.fetch.typed_files import batches, piece
from tasks.fetch.unused import Notes

# How many examples there are says the profile.
quick = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

texts = st.one_of(
    st.text(st.characters(), max_size=8),  # surrogates, too
    st.sampled_from(["", "2024-01-01", "null", "[]", "{", '{"name": "f"}', '[{"role": "user"}]']),
)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts)
keys = st.sampled_from(
    [
        "role",
        "content",
        "from",
        "value",
        "tool_calls",
        "function_call",
        "function",
        "name",
        "type",
        "text",
        "weight",
        "train",
        "reasoning_content",
        "id",
    ]
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys | texts, inner, max_size=3),
    max_leaves=8,
)
roles = st.sampled_from([*ROLES, "Human", "wizard", ""])
said = texts | values


def turn(role: str, content: str) -> st.SearchStrategy:
    plain = st.fixed_dictionaries({role: roles, content: texts})
    odd = st.fixed_dictionaries(
        {role: roles | values, content: said},
        optional={"tool_calls": values, "thinking": said, "loss": values},
    )
    marked = st.fixed_dictionaries(
        {role: roles, content: texts},
        optional={
            "weight": st.none() | st.sampled_from([0, 1, 0.5]),
            "train": st.none() | st.booleans(),
            "id": texts,
        },
    )
    return plain | plain | marked | odd


turns = st.lists(turn("from", "value") | turn("role", "content"), max_size=4)
others = st.dictionaries(st.sampled_from(sorted(KNOWN_COLUMNS)) | texts, values, max_size=3)
rows = st.one_of(
    *(st.fixed_dictionaries({column: turns | values}) for column in TURN_COLUMNS),
    *(st.fixed_dictionaries({p.question: said, p.answer: said}) for p in PAIRS),
    others,
)


@st.composite
def alike(draw: st.DrawFn) -> list[dict]:
    """Rows of one format with texts only, which columns are made for; sometimes with an odd one."""
    keys = draw(st.sampled_from([("from", "value"), ("role", "content")]))
    marks = {"weight": st.none() | st.integers(0, 1), "train": st.booleans(), "id": texts}
    turns = st.lists(
        st.fixed_dictionaries({keys[0]: roles, keys[1]: texts}, optional=marks), max_size=3
    )
    kinds = [st.fixed_dictionaries({column: turns}) for column in TURN_COLUMNS]
    kinds += [st.fixed_dictionaries(dict.fromkeys(p.columns, texts)) for p in PAIRS]
    row = st.builds(
        lambda row, score, source, more: {**row, "score": score, "source": source, **more},
        draw(st.sampled_from(kinds)),
        draw(st.sampled_from([st.floats(), st.integers(), st.none()])),
        texts | st.none(),
        st.fixed_dictionaries({}, optional={"label": st.integers(0, 3), "prompt": texts}),
    )
    some, odd = st.lists(row, min_size=1, max_size=4), st.just([]) | st.lists(rows, max_size=1)
    return draw(some) + draw(odd)


mixed_rows = st.builds(lambda row, more: {**more, **row}, rows, others | st.just({}))


def fetched(path: Path, split: str = "train") -> pa.Table:
    """Return the file's rows, which must be sound; the only exception that may come is SourceError."""
    dataset = Dataset(source=str(path), split=split)
    table = pa.concat_tables(to_rows(read(dataset, None, path.parent / "cache"), "unnamed"))
    table.validate(full=True)
    assert table.schema == row_schema()
    assert table["row"].to_pylist() == list(range(len(table)))
    for row in table.to_pylist():
        assert (row["messages"] is None) == (row["problem"] is not None)
        assert row["source"] is not None
        for message in row["messages"] or ():
            assert None not in (message["role"], message["content"])
            assert message["learn"] in (None, False)
    return table


def unwrapped(row: dict) -> bool:
    """Say whether a file of this row alone is an object that holds a list of rows."""
    return any(isinstance(value, list) for value in row.values())


# An object of objects, but for its conversation, which comes last: a row and no table of rows.
OBJECTS_FIRST = {"answer": {}, "chosen": {}, "": {}, "conversations": []}


@quick
@given(st.lists(mixed_rows, min_size=1, max_size=5), st.booleans())
@example([OBJECTS_FIRST], False)
def test_every_json_row_becomes_one_row(tmp_path, data, as_array):
    lines = [json.dumps(row) for row in data]
    path = tmp_path / "d.json"
    path.write_text(f"[{','.join(lines)}]" if as_array else "\n".join(lines))
    try:
        table = fetched(path)
    except SourceError:
        assert not any(problem is None for problem in from_rows(data, "")["problem"].to_pylist())
        return
    if as_array or len(data) > 1 or not unwrapped(data[0]):
        assert len(table) == len(data)


@quick
@given(
    st.lists(mixed_rows, min_size=1, max_size=3),
    st.lists(st.binary(max_size=30).map(lambda text: text.replace(b"\n", b"")), max_size=4),
    st.data(),
)
def test_every_line_becomes_one_row_json_or_not(tmp_path, data, noise, draw):
    good = json.dumps({"messages": []}).encode()
    lines = [good, *(json.dumps(row).encode() for row in data), *noise]
    lines = [good, *draw.draw(st.permutations(lines))]
    path = tmp_path / "d.jsonl"
    path.write_bytes(b"\n".join(lines))
    try:
        table = fetched(path)
    except SourceError:
        # Of another encoding, or broken off: that is the file's fault, not a row's.
        assert not all(map(is_utf8, noise)) or lines[-1] in noise
        return
    assert len(table) == sum(bool(line.strip().removeprefix(BOM_UTF8).strip()) for line in lines)


def is_utf8(line: bytes) -> bool:
    """Say whether a line is UTF-8 without NUL, by which one of UTF-16 shows."""
    with suppress(UnicodeDecodeError):
        return b"\0" not in line and line.decode() is not None
    return False


def table_of(data: list[dict]) -> pa.Table | None:
    names = dict.fromkeys(name for row in data for name in row)
    try:
        return pa.table({name: [row.get(name) for row in data] for name in names})
    except (pa.ArrowException, UnicodeError, OverflowError):
        return None


@quick
@given(alike())
def test_columns_and_rows_agree(data):
    """The reference decides; the columns either say the same or leave it to the reference."""
    table = table_of(data)
    if table is None:
        return
    for batch in batches([piece(table)]):
        notes, reference = Notes(), Notes()
        by_columns = None
        if batch.columns is not None:
            by_columns = from_columns(batch.columns, "unnamed", notes)
        if by_columns is not None:
            by_rows = from_rows(batch.rows(), "unnamed", reference, batch.unread)
            assert notes.summary() == reference.summary()
            assert by_columns.schema == by_rows.schema
            assert repr(by_columns.to_pylist()) == repr(by_rows.to_pylist())  # NaN equals NaN here


@quick
@given(rows, st.integers(1, 3))
def test_every_row_of_a_parquet_file_becomes_one_row(tmp_path, row, count):
    table = table_of([row] * count)
    if table is None or table.num_columns == 0:
        return
    path = tmp_path / "d.parquet"
    try:
        pq.write_table(table, path)
    except (pa.ArrowException, UnicodeError):
        return
    with suppress(SourceError):
        assert len(fetched(path)) == count


START = {
    "jsonl": [b"", b"{", b"[", b'{"messages": [', b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf"],
    "json": [b"", b"{", b"[", b'[{"messages": [', b"\xff\xfe", b"\xef\xbb\xbf"],
    "csv": [b"", b"prompt,completion\n", b'prompt,completion\n"', b"\xff\xfe"],
    "parquet": [b"", b"PAR1"],
    "arrow": [b"", b"ARROW1\0\0", b"\xff\xff\xff\xff"],
}


@pytest.mark.parametrize("kind", START)
@quick
@given(data=st.data())
def test_any_bytes_are_rows_or_refused(tmp_path, kind, data):
    content = data.draw(st.sampled_from(START[kind])) + data.draw(st.binary(max_size=200))
    path = tmp_path / f"d.{kind}"
    path.write_bytes(content + (b"PAR1" if kind == "parquet" else b""))
    split = data.draw(st.sampled_from(["train", "train[1:3]", "train[:50%]"]))
    with suppress(SourceError):
        fetched(path, split)


deep = st.integers(0, 9).map(lambda depth: json.loads("[" * depth + "]" * depth or "0"))
wide = st.integers(0, 20).map(lambda width: {f"k{n}": [] for n in range(width)})
long = st.integers(900, 1100).map(lambda length: "\\" * (length // 2))


@pytest.mark.parametrize("size", [16, 1 << 20])
@quick
@given(st.lists(st.fixed_dictionaries({"x": deep | wide | long | values}), max_size=4))
def test_lines_and_arrays_agree_on_what_is_over_the_budget(tmp_path, size, data):
    """Whether an array's element is read at once or piece by piece, and a line as a line."""
    data = [{"messages": []}, *data]
    lines = [json.dumps(row) for row in data]
    budget = {"max_row_bytes": 1024, "max_row_values": 10, "max_row_depth": 5}
    texts = {"d.jsonl": "\n".join([*lines, ""]), "d.json": f"[{','.join(lines)}]"}
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.fetch.json_arrays._PIECE", size)
        for name, text in texts.items():
            (tmp_path / name).write_text(text)
            dataset = Dataset(source=str(tmp_path / name), **budget)
            usual = BUDGET.set(BUDGET.get())
            table = pa.concat_tables(to_rows(read(dataset, None, tmp_path / "cache"), "unnamed"))
            BUDGET.reset(usual)
            told = [
                (problem or "").split("dataset.")[-1] for problem in table["problem"].to_pylist()
            ]
            over = [(p or "").startswith(OVERSIZED) for p in table["problem"].to_pylist()]
            seen.append([what if is_over else "" for what, is_over in zip(told, over, strict=True)])
    assert seen[0] == seen[1]


def typed_file(kind: str) -> bytes:
    data = [
        {"messages": [{"role": "user", "content": f"{n}"}], "score": n, "id": n} for n in range(9)
    ]
    table, sink = pa.Table.from_pylist(data), io.BytesIO()
    if kind == "parquet":
        pq.write_table(table, sink)
    else:
        new = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
        with new(sink, table.schema) as writer:
            writer.write_table(table)
    return sink.getvalue()


@pytest.mark.parametrize("kind", ["parquet", "stream", "file"])
@quick
@given(data=st.data())
def test_a_damaged_file_is_rows_or_refused(tmp_path, kind, data):
    """Arrow believes what a file says of itself, and what is not checked crashes the process."""
    content = bytearray(typed_file(kind))
    spots = st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255))
    for at, byte in data.draw(st.lists(spots, min_size=1, max_size=4)):
        content[at] = byte
    path = tmp_path / f"d.{'parquet' if kind == 'parquet' else 'arrow'}"
    path.write_bytes(content)
    with suppress(SourceError):
        fetched(path)
