"""Rows of any known format as the columns of `retune.records.Rows`, but for `row`.

`from_rows` asks `tasks.fetch.conversations` about every row; `from_columns` gives the same for plain
rows (one format, texts and nothing else) by renaming whole columns.
"""

import re
from typing import TYPE_CHECKING, Any

from tasks.fetch.conversations import (
    CALL_ROLES,
    PREFERENCE_COLUMNS,
    ROLES,
    SYSTEM_COLUMNS,
    TOOL_COLUMNS,
    PairLayout,
    Reading,
    format_of,
    layout_of,
    read_row,
)

if TYPE_CHECKING:
    import pyarrow as pa

_SURROGATE = re.compile("[\ud800-\udfff]")
_KEYS = (("from", "value"), ("role", "content"))  # of a turn: ShareGPT's, OpenAI's


def row_schema() -> "pa.Schema":
    """Return the columns of `retune.records.Rows`."""
    import pyarrow as pa

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    return pa.schema(
        [
            ("row", pa.int64()),
            ("messages", pa.list_(message)),
            ("source", pa.string()),
            ("score", pa.float64()),
            ("format", pa.string()),
            ("problem", pa.string()),
        ]
    )


def from_rows(rows: list[Any], default_source: str) -> "pa.Table":
    """Read rows one by one: JSON values, or an Unreadable where there is none.

    Rows that name no source get `default_source`.
    """
    import pyarrow as pa

    readings = [read_row(row) for row in rows]
    flat = [message for reading in readings for message in reading.messages or ()]
    lengths = [len(reading.messages or ()) for reading in readings]
    messages = _lists(
        lengths,
        _texts([role for role, _ in flat]),
        _texts([content for _, content in flat]),
        pa.array([reading.messages is None for reading in readings]),
    )

    def column(name: str) -> list[Any]:
        at = Reading._fields.index(name)
        return [reading[at] for reading in readings]

    sources = [default_source if source is None else source for source in column("source")]
    score = pa.array(column("score"), pa.float64())
    return _table(messages, _texts(sources), score, _texts(column("format")), column("problem"))


def from_columns(table: "pa.Table", default_source: str) -> "pa.Table | None":
    """Do what `from_rows` does by column operations; None if a row in `table` is not plain."""
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = {
        name: column.combine_chunks()
        for name, column in zip(table.column_names, table.columns, strict=True)
        if column.null_count < len(table)
    }
    layout = layout_of(columns)
    if not _is_plain(columns, layout):
        return None
    messages = (
        _from_pair(columns, layout)
        if isinstance(layout, PairLayout)
        else _from_turns(columns[layout])
    )
    if messages is None:
        return None
    nothing = pa.nulls(len(table))
    source = columns.get("source", nothing).cast(pa.string())
    # Rounds integers beyond 2**53, as Python does.
    score = columns.get("score", nothing).cast(pa.float64(), safe=False)
    kind = pa.repeat(pa.scalar(format_of(layout), pa.string()), len(table))
    return _table(messages, pc.fill_null(source, default_source), score, kind, nothing)


def _is_plain(columns: "dict[str, pa.Array]", layout: str | PairLayout | None) -> bool:
    """Say whether no column asks for what only `from_rows` does."""
    import pyarrow as pa

    special = {*SYSTEM_COLUMNS, *TOOL_COLUMNS, "history"}
    if layout is None or special & columns.keys() or set(PREFERENCE_COLUMNS) <= columns.keys():
        return False
    if "label" in columns and pa.types.is_boolean(columns["label"].type):
        return False
    score = columns["score"].type if "score" in columns else pa.float64()
    return ("source" not in columns or _is_text(columns["source"])) and (
        pa.types.is_floating(score) or pa.types.is_integer(score)
    )


def _from_turns(turns: "pa.Array") -> "pa.Array | None":
    """Rename the keys and roles of turns; None unless all are texts under the same two keys."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = turns.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or turns.null_count:
        return None
    flat = turns.flatten()
    if not pa.types.is_struct(flat.type) or flat.null_count:
        return None
    try:
        fields = {f.name: pc.struct_field(flat, [n]) for n, f in enumerate(flat.type)}
    except UnicodeDecodeError:  # the name of a key, in a damaged file
        return None
    present = {name: values for name, values in fields.items() if values.null_count < len(flat)}
    if len(fields) < flat.type.num_fields or {"tool_calls", "function_call"} & present.keys():
        return None
    pairs = [pair for pair in _KEYS if set(pair) & present.keys()]
    if len(flat) == 0:
        role = content = pa.array([], pa.string())
    elif len(pairs) == 1 and all(_is_text(present.get(key), complete=True) for key in pairs[0]):
        role, content = (present[key].cast(pa.string()) for key in pairs[0])
    else:
        return None
    known = pc.utf8_lower(role)
    if pc.any(pc.is_in(known, pa.array(CALL_ROLES))).as_py():
        return None
    at = pc.index_in(known, pa.array(list(ROLES)))
    role = pc.coalesce(pa.array(list(ROLES.values())).take(at), role)
    return _lists(pc.list_value_length(turns), role, content)


def _from_pair(columns: "dict[str, pa.Array]", pair: PairLayout) -> "pa.Array | None":
    """Make a question and an answer of each row; None unless all are texts."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    question, answer = columns[pair.question], columns[pair.answer]
    if not (_is_text(question, complete=True) and _is_text(answer, complete=True)):
        return None
    question, rows = question.cast(pa.string()), len(question)
    if pair.context in columns:
        context = columns[pair.context]
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
    return _lists(np.full(rows, 2), role, content)


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
    lengths: Any, role: "pa.Array", content: "pa.Array", missing: "pa.Array | None" = None
) -> "pa.Array":
    """Return lists of messages; a list that is `missing` is null."""
    import numpy as np
    import pyarrow as pa

    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype("int32")
    messages = pa.StructArray.from_arrays(
        [role, content], fields=[*row_schema().field(1).type.value_type]
    )
    return pa.ListArray.from_arrays(pa.array(offsets), messages, mask=missing)


def _table(
    messages: "pa.Array", source: "pa.Array", score: "pa.Array", kind: "pa.Array", problem: Any
) -> "pa.Table":
    import pyarrow as pa

    problem = problem.cast(pa.string()) if isinstance(problem, pa.Array) else _texts(problem)
    return pa.table([messages, source, score, kind, problem], schema=row_schema().remove(0))
