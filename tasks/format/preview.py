"""The mask preview: some rows as they are trained on, with what is learned, what is not and what is cut.

It shows the labels of training itself (`retune.labels`), on the text that the token ids stand for.
What it quotes is masked, message by message, before anything is cut.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from expectations.data.masking import masked
from retune.chat import END, decode
from retune.escaping import html as escaped
from retune.escaping import html_block
from retune.labels import HEADER, IGNORED, labels_of
from retune.webpage import document

if TYPE_CHECKING:
    import polars as pl
    from transformers import PreTrainedTokenizerBase

ROWS = 10  # that are shown
LONGEST_SPAN = 1200  # characters of a span that are shown: its beginning and its end
TITLE = "What is learned of the rows"
STYLE = """
.preview h3 { margin: 1.6rem 0 .4rem; font-weight: 600; } .preview h3 span { color: var(--grey);
  font-weight: 400; }
.turn { display: grid; grid-template-columns: 6rem 1fr; gap: .2rem .8rem; margin: .3rem 0; }
.turn > span { color: var(--grey); text-align: right; padding-top: .15rem; }
.turn pre { margin: 0; padding: .2rem .6rem; background: var(--panel); border-radius: .3rem;
  font: .85em/1.5 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
.learned { background: #b9e6c3; color: #0b3d1a; } .masked { color: var(--grey); }
.cut { background: #f5d0c5; color: #7a1f00; text-decoration: line-through; }
b.stop { border: 1px solid currentcolor; border-radius: .2rem; padding: 0 .15rem; }
@media (prefers-color-scheme: dark) { .learned { background: #174d2a; color: #d3f5dc; }
  .cut { background: #5a2413; color: #ffd9cc; } }
@media (max-width: 40rem) { .turn { grid-template-columns: 1fr; } .turn > span { text-align: left; } }
@media print { .learned, .cut { print-color-adjust: exact; } }
"""
State = Literal["learned", "masked", "cut"]


class Span(NamedTuple):
    """Some text of which the same becomes in training."""

    state: State
    text: str


class ShownTurn(NamedTuple):
    """One turn with its header and its end."""

    role: str
    spans: list[Span]


class ShownRow(NamedTuple):
    """One row, why it was chosen, and how many tokens of each state it has."""

    row: int
    reasons: tuple[str, ...]
    tokens: dict[State, int]
    turns: list[ShownTurn]


def preview(
    train: Path, tokenizer: "PreTrainedTokenizerBase", train_on: str, max_length: int
) -> list[ShownRow]:
    """Return up to ROWS training rows of a Parquet file that format wrote, masked.

    They are the longest and the shortest, the first with tools, with reasoning, with a system message,
    of several turns and with messages that are not to be learned, and the first ones.
    """
    import polars as pl

    reasons = _chosen(train)
    table = pl.scan_parquet(train).filter(pl.col("row").is_in(list(reasons))).collect()
    lines = {line["row"]: line for line in table.to_dicts()}
    rows, texts = [], []
    for row, why in reasons.items():
        ids = lines[row]["input_ids"]
        states = _states(ids, lines[row].get("unlearned"), tokenizer, train_on, max_length)
        turns = list(_turns(_spans(lines[row]["text"], ids, states, tokenizer)))
        counts: dict[State, int] = {s: states.count(s) for s in ("learned", "masked", "cut")}
        rows.append(ShownRow(row, why, counts, turns))
        texts += ["".join(span.text for span in turn.spans) for turn in turns]
    safe = iter(masked(pl.Series(texts, dtype=pl.String)).to_list())
    return [
        row._replace(turns=[turn._replace(spans=_on(next(safe), turn.spans)) for turn in row.turns])
        for row in rows
    ]


def fragment(rows: Sequence[ShownRow], train_on: str) -> str:
    """Return the rows as HTML, a part of a page that has STYLE."""
    legend = (
        '<p class="note"><span class="learned">learned</span>, '
        '<span class="masked">read, but not learned</span>, '
        '<span class="cut">cut, beyond model.max_length</span>; '
        '<b class="stop">framed</b>: the token that ends a turn. '
        f"By <code>training.train_on={escaped(train_on)}</code>.</p>"
    )
    return f'<div class="preview">{legend}\n' + "\n".join(map(_section, rows)) + "\n</div>"


def page(rows: Sequence[ShownRow], train_on: str) -> str:
    """Return the rows as a page of their own."""
    return document(TITLE, [f"<h1>{TITLE}</h1>", fragment(rows, train_on)], STYLE)


def _chosen(train: Path) -> dict[int, tuple[str, ...]]:
    """Return the rows to show, each with why, in the order in which they are shown."""
    import polars as pl

    table = pl.scan_parquet(train)
    content, role = pl.element().struct.field("content"), pl.element().struct.field("role")

    def any_message(condition: "pl.Expr") -> "pl.Expr":
        return pl.col("messages").list.eval(condition).list.any()

    conditions = {
        "with tools": any_message(
            (role == "tool") | content.str.contains_any(["<tools>", "<tool_call>"])
        ),
        "with reasoning": any_message(content.str.contains_any(["<think>", "[THINK]"])),
        "with a system message": any_message(role == "system"),
        "of several turns": pl.col("messages").list.eval(role == "user").list.sum() > 1,
    }
    if "unlearned" in table.collect_schema().names():
        conditions["with what is not to be learned"] = pl.col("unlearned").list.len() > 0
    columns = {"tokens": pl.col("input_ids").list.len(), **conditions}
    flags = table.select("row", **columns).collect()
    reasons: dict[int, tuple[str, ...]] = {}

    def choose(rows: "pl.Series", why: str) -> None:
        for row in rows:
            reasons[row] = (*reasons.get(row, ()), why)

    if len(flags):
        by_length = flags.sort("tokens", maintain_order=True)["row"]
        choose(by_length.tail(1), "longest")
        choose(by_length.head(1), "shortest")
    for why in conditions:
        choose(flags.filter(pl.col(why))["row"].head(1), why)
    others = flags.filter(~pl.col("row").is_in(list(reasons)))
    choose(others["row"].head(ROWS - len(reasons)), "among the first")
    return reasons


def _states(
    ids: list[int],
    unlearned: Sequence[int] | None,
    tokenizer: "PreTrainedTokenizerBase",
    train_on: str,
    max_length: int,
) -> list[State]:
    """Return what becomes of each token in training."""
    spans: tuple[Any, ...] = (unlearned,) if unlearned else ()
    labels = labels_of(ids[:max_length], tokenizer, train_on, *spans)
    states: list[State] = ["masked" if label == IGNORED else "learned" for label in labels]
    return states + ["cut"] * (len(ids) - len(states))


def _spans(
    text: str, ids: list[int], states: list[State], tokenizer: "PreTrainedTokenizerBase"
) -> Iterator[Span]:
    """Yield the row's text in spans of tokens of the same state."""
    ends = _ends(text, ids, tokenizer)
    if ends is None:  # its tokens do not tell where they stand in the text
        for start, stop in _runs(states):
            yield Span(states[start], decode(tokenizer, [ids[start:stop]])[0])
        return
    place = 0
    for start, stop in _runs(states):
        end = len(text) if stop == len(ids) else max(ends[stop - 1], place)
        yield Span(states[start], text[place:end])
        place = end


def _ends(text: str, ids: list[int], tokenizer: "PreTrainedTokenizerBase") -> list[int] | None:
    """Return behind which character of the text each token ends."""
    if not tokenizer.is_fast:
        return None
    for with_bos in (True, False):
        encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=with_bos)
        if encoding.ids == ids:
            return [end for _, end in encoding.offsets]
    return None


def _runs(states: Sequence[State]) -> Iterator[tuple[int, int]]:
    start = 0
    for place in range(1, len(states) + 1):
        if place == len(states) or states[place] != states[start]:
            yield start, place
            start = place


def _turns(spans: Iterable[Span]) -> Iterator[ShownTurn]:
    """Yield the spans turn by turn: a turn goes to the end of what ends it, and the line's."""
    turn: list[Span] = []
    for state, text in spans:
        for piece in filter(None, re.split(rf"(?<={re.escape(END)})", text)):
            if turn and turn[-1].text.endswith(END):
                line = piece[: len(piece) - len(piece.lstrip("\n"))]
                yield _turn([*turn, Span(state, line)] if line else turn)
                turn, piece = [], piece[len(line) :]
            if piece:
                turn.append(Span(state, piece))
    if turn:
        yield _turn(turn)


def _turn(spans: list[Span]) -> ShownTurn:
    header = HEADER.search("".join(span.text for span in spans))
    return ShownTurn(header[1] if header else "", spans)


def _on(safe: str, spans: list[Span]) -> list[Span]:
    """Return the spans on their masked text: a border within what was masked moves to its beginning."""
    text = "".join(span.text for span in spans)
    if safe == text:
        return spans
    same = _common(text, safe)
    behind = min(_common(text[::-1], safe[::-1]), min(len(text), len(safe)) - same)
    moved, place, start = [], 0, 0
    for state, piece in spans:
        place += len(piece)
        left = len(text) - place
        stop = place if place <= same else len(safe) - left if left <= behind else same
        stop = max(stop, start) if left else len(safe)
        moved.append(Span(state, safe[start:stop]))
        start = stop
    return [span for span in moved if span.text]


def _common(one: str, other: str) -> int:
    """Return with how many equal characters two texts begin."""
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _section(row: ShownRow) -> str:
    numbers = f"{sum(row.tokens.values()):,} tokens: {row.tokens['learned']:,} learned"
    if row.tokens["cut"]:
        numbers += f", {row.tokens['cut']:,} cut"
    turns = "\n".join(
        f'<div class="turn"><span>{escaped(turn.role, 40)}</span>'
        f"<pre>{''.join(map(_piece, turn.spans))}</pre></div>"
        for turn in row.turns
    )
    return f"<h3>Row {row.row:,} <span>{', '.join(row.reasons)}; {numbers}</span></h3>\n{turns}"


def _piece(span: Span) -> str:
    text = span.text
    if len(text) > LONGEST_SPAN:
        head, tail = 2 * LONGEST_SPAN // 3, LONGEST_SPAN // 3
        left_out = len(text) - head - tail
        text = f"{text[:head]} […{left_out:,} characters…] {text[-tail:]}"
    if not text.strip("\n"):
        text = text.replace("\n", "↵\n")
    stop = html_block(END)
    shown = html_block(text).replace(stop, f'<b class="stop">{stop}</b>')
    return f'<span class="{span.state}">{shown}</span>'
