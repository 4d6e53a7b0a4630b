"""Rows of any known format as the columns of `retune.records.Rows`, but for `row`.

`from_rows` asks `tasks.fetch.conversations` about every row; `from_columns` gives the same for plain
rows (one format, texts and nothing else) by renaming whole columns.
"""

import re
from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from tasks.fetch.conversations import Reading, format_of, layout_of, read_row
from tasks.fetch.shape import (
    CALL_KEYS,
    CALL_ROLES,
    LEARN_KEYS,
    MEDIA_COLUMNS,
    PREFERENCE_COLUMNS,
    SEGMENTS,
    SHAPE,
    SPLIT_GROUP,
    SYSTEM_COLUMNS,
    TOOL_COLUMNS,
    TURN_COLUMNS,
    VERDICT_COLUMNS,
    PairLayout,
)
from tasks.fetch.unused import Notes

if TYPE_CHECKING:
    import pyarrow as pa

_SURROGATE = re.compile("[\ud800-\udfff]")
_FEATURES = {
    *SYSTEM_COLUMNS,
    *TOOL_COLUMNS,
    "history",
    "reasoning",
    SPLIT_GROUP,
}  # columns for the reference alone


def row_schema() -> "pa.Schema":
    """Return the columns of `retune.records.Rows`."""
    import pyarrow as pa

    message = pa.struct([("role", pa.string()), ("content", pa.string()), ("learn", pa.bool_())])
    return pa.schema(
        [
            ("row", pa.int64()),
            ("messages", pa.list_(message)),
            ("source", pa.string()),
            ("score", pa.float64()),
            ("format", pa.string()),
            ("problem", pa.string()),
            (SPLIT_GROUP, pa.string()),
        ]
    )


def from_rows(
    rows: list[Any],
    default_source: str,
    notes: Notes | None = None,
    unread: Collection[str] = (),
) -> "pa.Table":
    """Read rows one by one: JSON values, or an Unreadable where there is none.

    Rows that name no source get `default_source`. What is not used of them is counted in `notes`, but
    for columns that were `unread`, of which they have only the names.
    """
    import pyarrow as pa

    readings = [read_row(row) for row in rows]
    if notes:
        _note(rows, readings, notes, unread)
    flat = [message for reading in readings for message in reading.messages or ()]
    lengths = [len(reading.messages or ()) for reading in readings]
    messages = _lists(
        lengths,
        _texts([message.role for message in flat]),
        _texts([message.content for message in flat]),
        pa.array([message.learn for message in flat], pa.bool_()),
        pa.array([reading.messages is None for reading in readings]),
    )

    def column(name: str) -> list[Any]:
        at = Reading._fields.index(name)
        return [reading[at] for reading in readings]

    sources = [default_source if source is None else source for source in column("source")]
    score = pa.array(column("score"), pa.float64())
    kind, group = _texts(column("format")), _texts(column(SPLIT_GROUP))
    return _table(messages, _texts(sources), score, kind, column("problem"), group)


def _note(rows: list[Any], readings: list[Reading], notes: Notes, unread: Collection[str]) -> None:
    wanted = set(SHAPE.get().columns.values())
    for row, reading in zip(rows, readings, strict=True):
        if wanted and isinstance(row, dict):
            notes.names |= {name for name in wanted & row.keys() if row[name] is not None}
        for column, value in reading.verdicts.items():
            notes.labels.note(column, value)
        notes.unused.columns(name for name in reading.columns if name not in unread)
        notes.unused.keys(reading.keys)


def from_columns(
    table: "pa.Table", default_source: str, notes: Notes | None = None
) -> "pa.Table | None":
    """Do what `from_rows` does by column operations; None if a row in `table` is not plain."""
    import pyarrow as pa
    import pyarrow.compute as pc

    shape = SHAPE.get()
    present = {
        name: column.combine_chunks()
        for name, column in zip(table.column_names, table.columns, strict=True)
        if column.null_count < len(table)
    }
    columns, rest = shape.renamed(present)
    layout = layout_of(columns)
    # Of two columns that have one name of ours, each row has its own.
    if any(shape.reads(name) for name in rest) or not _is_plain(columns, layout):
        return None
    assert layout is not None
    keys: Counter[str] = Counter()
    if isinstance(layout, PairLayout):
        messages, used = _from_pair(columns, layout), {*layout.columns}
    else:
        messages, used = _from_turns(columns[layout], keys), {layout}
    if messages is None:
        return None
    if notes:
        notes.names |= set(shape.columns.values()) & present.keys()
        used |= {"source", "score", *MEDIA_COLUMNS, *VERDICT_COLUMNS}
        unused = {name: values for name, values in columns.items() if name not in used}
        for name, values in {**unused, **{name: present[name] for name in rest}}.items():
            notes.unused.column(name, len(values) - values.null_count)
        notes.unused.keys(keys)
        for column in VERDICT_COLUMNS:
            if column in columns:
                notes.labels.note_column(column, columns[column])
    nothing = pa.nulls(len(table))
    source = columns.get("source", nothing).cast(pa.string())
    # Rounds integers beyond 2**53, as Python does.
    score = columns.get("score", nothing).cast(pa.float64(), safe=False)
    kind = pa.repeat(pa.scalar(format_of(layout), pa.string()), len(table))
    return _table(messages, pc.fill_null(source, default_source), score, kind, nothing, nothing)


def _is_plain(columns: "dict[str, pa.Array]", layout: str | PairLayout | None) -> bool:
    """Say whether no column asks for what only `from_rows` does."""
    import pyarrow as pa

    if (
        layout in (None, SEGMENTS)
        or _FEATURES & columns.keys()
        or set(PREFERENCE_COLUMNS) <= columns.keys()
    ):
        return False
    if len(TURN_COLUMNS.keys() & columns.keys()) > 1:
        return False
    if not all(_is_empty(columns[name]) for name in MEDIA_COLUMNS if name in columns):
        return False
    score = columns["score"].type if "score" in columns else pa.float64()
    return ("source" not in columns or _is_text(columns["source"])) and (
        pa.types.is_floating(score) or pa.types.is_integer(score)
    )


def _is_empty(lists: "pa.Array") -> bool:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not (pa.types.is_list(lists.type) or pa.types.is_large_list(lists.type)):
        return False
    return not pc.max(pc.list_value_length(lists)).as_py()


def _from_turns(turns: "pa.Array", unused: Counter[str]) -> "pa.Array | None":
    """Rename the keys and roles of turns; None unless all are texts under the same two keys.

    Keys that nothing is made of are counted in `unused`.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    kind, shape = turns.type, SHAPE.get()
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or turns.null_count:
        return None
    flat = turns.flatten()
    if not pa.types.is_struct(flat.type) or flat.null_count:
        return None
    try:
        fields = {f.name: pc.struct_field(flat, [n]) for n, f in enumerate(flat.type)}
    except UnicodeDecodeError:  # the name of a key, in a damaged file
        return None
    if len(fields) < flat.type.num_fields:
        return None
    present = {name: values for name, values in fields.items() if values.null_count < len(flat)}
    ignored = {name: present.pop(name) for name in shape.ignore & present.keys()}
    if {*CALL_KEYS, *shape.reasoning_keys} & present.keys():
        return None
    roles = [present[key] for key in shape.role_keys if key in present]
    contents = [present[key] for key in shape.content_keys if key in present]
    if len(flat) == 0:
        role = content = pa.array([], pa.string())
    elif len(roles) == len(contents) == 1 and all(
        _is_text(values, complete=True) for values in (*roles, *contents)
    ):
        role, content = roles[0].cast(pa.string()), contents[0].cast(pa.string())
    else:
        return None
    learn = _learned(present, len(flat), unused)
    known = pc.utf8_lower(role)
    if learn is None or pc.any(pc.is_in(known, pa.array(CALL_ROLES))).as_py():
        return None
    for name, values in {**ignored, **present}.items():
        if name in ignored or name not in shape.known_keys:
            unused[name] += len(values) - values.null_count
    at = pc.index_in(known, pa.array(list(shape.roles)))
    role = pc.coalesce(pa.array(list(shape.roles.values())).take(at), role)
    lengths = pc.list_value_length(turns)
    if shape.mid_system != "refuse" and _has_mid_system(role, lengths):
        return None
    return _lists(lengths, role, content, learn)


def _learned(
    present: "dict[str, pa.Array]", messages: int, unused: Counter[str]
) -> "pa.Array | None":
    """Return the column `learn`; None if a mark is no plain yes or no."""
    import pyarrow as pa
    import pyarrow.compute as pc

    masked = pa.repeat(pa.scalar(False), messages)
    for key in LEARN_KEYS:
        if key not in present:
            continue
        values, kind = present[key], present[key].type
        if _is_text(values):
            unused[key] += messages - values.null_count
            continue
        if not (
            pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)
        ):
            return None
        known = pc.is_in(values.cast(pa.float64(), safe=False), pa.array([0.0, 1.0, None]))
        if not pc.all(known).as_py():
            return None
        no = pc.equal(values.cast(pa.float64(), safe=False), 0.0)
        masked = pc.or_(masked, pc.fill_null(no, False))
    return pc.if_else(masked, pa.scalar(False), pa.scalar(None, pa.bool_()))


def _has_mid_system(role: "pa.Array", lengths: "pa.Array") -> bool:
    """Say whether a system message is not the first of its conversation."""
    import numpy as np
    import pyarrow.compute as pc

    counts = np.asarray(lengths)
    starts = (np.cumsum(counts) - counts)[counts > 0]
    is_system = np.asarray(pc.equal(role, "system").cast("int8"))
    return int(is_system.sum()) > int(is_system[starts].sum())


def _from_pair(columns: "dict[str, pa.Array]", pair: PairLayout) -> "pa.Array | None":
    """Make a question and an answer of each row; None unless all are texts."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    question, answer = columns[pair.question], columns[pair.answer]
    if not (_is_text(question, complete=True) and _is_text(answer, complete=True)):
        return None
    question, rows = question.cast(pa.string()), len(question)
    for name in pair.contexts:
        if name not in columns:
            continue
        context = columns[name]
        if not _is_text(context):
            return None
        context = pc.fill_null(context.cast(pa.string()), "")
        question = pc.if_else(
            pc.and_(pc.not_equal(question, ""), pc.not_equal(context, "")),
            pc.binary_join_element_wise(question, context, "\n\n"),
            pc.binary_join_element_wise(question, context, ""),
        )
    answer = answer.cast(pa.string())
    in_turn = np.arange(2 * rows).reshape(2, rows).T.ravel()  # question 0, answer 0, question 1, …
    role = pa.DictionaryArray.from_arrays(
        np.tile(np.array([0, 1], "int8"), rows), ["user", "assistant"]
    ).cast(pa.string())
    content = pa.concat_arrays([question, answer]).take(pa.array(in_turn))
    return _lists(np.full(rows, 2), role, content, pa.nulls(2 * rows, pa.bool_()))


def _is_text(values: "pa.Array | None", complete: bool = False) -> bool:
    """Say whether a column is text; with `complete`, whether without nulls."""
    import pyarrow as pa

    if values is None or (complete and values.null_count):
        return False
    return pa.types.is_string(values.type) or pa.types.is_large_string(values.type)


def _texts(values: list[str | None]) -> "pa.Array":
    """Return an array of texts; U+FFFD takes the place of lone surrogates, which Arrow refuses."""
    import pyarrow as pa

    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError:
        clean = [value if value is None else _SURROGATE.sub("\ufffd", value) for value in values]
        return pa.array(clean, pa.string())


def _lists(
    lengths: Any,
    role: "pa.Array",
    content: "pa.Array",
    learn: "pa.Array",
    missing: "pa.Array | None" = None,
) -> "pa.Array":
    """Return lists of messages; a list that is `missing` is null."""
    import numpy as np
    import pyarrow as pa

    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype("int32")
    messages = pa.StructArray.from_arrays(
        [role, content, learn], fields=[*row_schema().field(1).type.value_type]
    )
    return pa.ListArray.from_arrays(pa.array(offsets), messages, mask=missing)


def _table(
    messages: "pa.Array",
    source: "pa.Array",
    score: "pa.Array",
    kind: "pa.Array",
    problem: Any,
    group: "pa.Array",
) -> "pa.Table":
    import pyarrow as pa

    problem = problem.cast(pa.string()) if isinstance(problem, pa.Array) else _texts(problem)
    columns = [messages, source, score, kind, problem, group.cast(pa.string())]
    return pa.table(columns, schema=row_schema().remove(0))
