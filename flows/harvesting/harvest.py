"""A harvest: what is taken of the records, what leaves of the rows before, and what is written."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from flows.harvesting.logs import log_files, log_records
from flows.harvesting.records import Record, Unread
from flows.harvesting.rows import NoRow, Row, redacted, row_of
from flows.harvesting.traces import PREFIX, experiment, trace_records
from retune.harvesting.ledger import SELF as OWN
from retune.harvesting.ledger import SHARD, HarvestError, Kind, Known, Ledger, State, held, line_of
from retune.harvesting.settings import Harvest

DAY = 86_400.0  # seconds
_BATCH = 1000  # rows that are masked together
_SHOWN = 10  # records that could not be read, by their places

# Why a record is taken or not, in the order in which that is asked.
REASONS = MappingProxyType(
    {
        "taken": "taken",
        "unreadable": "not readable",
        "withdrawn": "withdrawn",
        "no_consent": "without consent",
        "undated": "without a time, so of unknown age",
        "too_old": "older than the retention",
        "failed": "failed, or cut off, with no edited answer",
        "thumbs_down": "a bad answer, and not edited",
        "too_short": "with too short an answer",
        "known": "taken before",
        "not_redacted": "with a secret or a person's data, and not to be masked",
        "duplicate": "the same as another row",
        "capped": "self-generated beyond the share",
    }
)
# Why a row leaves that was taken before.
LEAVING = MappingProxyType(
    {
        "withdrawn": "withdrawn",
        "no_consent": "without consent by now",
        "too_old": "older than the retention",
        "thumbs_down": "called a bad answer since",
        "replaced": "with an edited answer since, which is taken in its place",
        "capped": "self-generated beyond the share",
    }
)
_TAKES_BACK = ("withdrawn", "no_consent", "thumbs_down")


@dataclass
class Harvested:
    """What a harvest did: records by REASONS, rows that left by LEAVING, how many of the rows taken were
    masked or edited, and of how many records the feedback is of no known value.

    `shard` is the new file (None: none), `rewritten` are those that lost rows; `rows` are in the folder
    now, `own` of them self-generated.
    """

    records: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    masked: int = 0
    edited: int = 0
    unclear: int = 0
    unread: list[Unread] = field(default_factory=list)
    shard: str | None = None
    rewritten: list[str] = field(default_factory=list)
    rows: int = 0
    own: int = 0


class _Draft(NamedTuple):
    """A record that may be taken, as a row that is not masked yet."""

    key: str
    group: str
    time: int
    kind: Kind
    row: Row


class _Ready(NamedTuple):
    """A row as it will be written, what is noted of it, and whether it was masked."""

    known: Known
    row: Row
    changed: bool


def harvest(
    source: str,
    into: Path,
    settings: Harvest,
    withdrawn: Iterable[str] = (),
    dry_run: bool = False,
    now: datetime | None = None,
) -> Harvested:
    """Take rows of a source (`mlflow:EXPERIMENT`, or files of JSON lines) into a folder.

    `withdrawn` are ids of users and traces whose rows must leave and never come back. With `dry_run`
    nothing is written. Raises HarvestError.
    """
    now = now or datetime.now(UTC)
    if dry_run:
        return _Harvest(Ledger.reading(into), settings, now).made(source, into, withdrawn, None)
    with held(into) as ledger:
        return _Harvest(ledger, settings, now).made(source, into, withdrawn, ledger)


class _Harvest:
    """One harvest at work; `state` is what is known of the folder and changes on the way."""

    def __init__(self, ledger: Ledger, settings: Harvest, now: datetime) -> None:
        self._ledger, self._settings, self._now = ledger, settings, now
        self._state: State = ledger.state
        self._before = self._state.model_dump_json()
        self._known = self._state.known
        self._oldest = now.timestamp() - settings.retention_days * DAY
        self._gone: dict[str, str] = {}  # why a row leaves, by its key
        self._reasons: dict[str, str] = {}  # of records that are not taken, by their key
        self._drafts: dict[str, _Draft] = {}
        self._newest = 0.0
        self._seen = 0  # records that could be read
        self._vouched: dict[
            str, Known
        ] = {}  # rows that are there, for whose answer somebody vouches now
        self._outcome = Harvested()

    def made(
        self, source: str, into: Path, withdrawn: Iterable[str], writer: Ledger | None
    ) -> Harvested:
        self._state.withdrawn |= {self._state.digest("id", one) for one in withdrawn}
        for record in self._records(source, into):
            self._judge(record)
        if not self._seen and self._outcome.unread:
            place, problem = self._outcome.unread[0]
            count = self._outcome.records["unreadable"]
            raise HarvestError(
                f"{source!r:.200}: none of its {count:,} records can be read; {place}: {problem}; "
                f"expected requests and responses in OpenAI's format, a JSON object on each line"
            )
        self._expire()
        ready = self._capped(self._distinct(self._ready()))
        self._outcome.records.update(self._reasons.values())
        self._write(ready, writer)
        return self._outcome

    # What is seen.

    def _records(self, source: str, into: Path) -> Iterator[Record | Unread]:
        if not source.startswith(PREFIX):
            yield from log_records(log_files(source, into), self._settings, self._now)
            return
        traced = experiment(source.removeprefix(PREFIX))
        name = self._state.digest("source", traced.store, traced.id)
        watermark = self._state.watermarks.get(name, 0)
        since = max(0, watermark - int(self._settings.revisit_days * DAY * 1000))
        for time, record in trace_records(traced, since, self._settings, self._now):
            watermark = max(watermark, time)
            yield record
        if watermark:
            self._state.watermarks[name] = watermark

    def _judge(self, record: Record | Unread) -> None:
        """Note a record among the drafts, or why it is none."""
        try:
            if isinstance(record, Unread):
                raise NoRow(record.problem)
            row = row_of(record)
        except NoRow as problem:
            self._outcome.records["unreadable"] += 1
            if len(self._outcome.unread) < _SHOWN:
                self._outcome.unread.append(Unread(record.place, str(problem)))
            return
        self._seen += 1
        self._newest = max(self._newest, record.time or 0.0)
        self._outcome.unclear += record.unclear
        key = self._key(record, row)
        group = self._state.digest("id", record.user) if record.user else ""
        kind: Kind = "edit" if record.edit else "up" if record.verdict else OWN
        reason = self._refusal(record, row, key, group)
        draft = _Draft(key, group, int(record.time or 0), kind, row)
        self._note(key, reason or draft)

    def _note(self, key: str, found: "str | _Draft") -> None:
        """Note a draft, or the reason why there is none. Of a record that comes twice the later counts,
        unless only the earlier one was judged by a person."""
        earlier = self._drafts.get(key)
        if earlier and isinstance(found, _Draft) and found.kind == OWN != earlier.kind:
            self._outcome.records["known"] += 1
            return
        self._drafts.pop(key, None)
        self._gone.pop(key, None)
        reason = self._reasons.pop(key, None) or (earlier and "known")
        if reason:
            self._outcome.records[reason] += 1
        if isinstance(found, _Draft):
            self._drafts[key] = found
            return
        self._reasons[key] = found
        if found in _TAKES_BACK and key in self._known:
            self._gone[key] = found

    def _key(self, record: Record, row: Row) -> str:
        """Return what tells a record from others: of a trace its id, else what was asked and answered,
        and by whom; not the edit, which may come later."""
        if record.name:
            return self._state.digest("id", record.name)
        try:
            said = row_of(record._replace(edit=None)) if record.edit else row
        except NoRow:  # nothing was answered, but for the edit
            said = row
        return self._state.digest("chat", json.dumps(said, sort_keys=True), record.user or "")

    def _refusal(self, record: Record, row: Row, key: str, group: str) -> str | None:
        """Return why a record is not taken, None if it may be."""
        settings, is_judged = self._settings, bool(record.edit or record.verdict is not None)
        if {key, group} & self._state.withdrawn:
            return "withdrawn"
        if not record.consents:
            return "no_consent"
        if record.time is None:
            return "undated"
        if record.time < self._oldest:
            return "too_old"
        if record.failed and not record.edit:
            return "failed"
        if record.verdict is False and not record.edit:
            self._state.refused.add(key)
            return "thumbs_down"
        if is_judged:
            self._state.refused.discard(key)
        elif key in self._state.refused:
            return "thumbs_down"
        if len(_answer(row)) < settings.min_answer_characters:
            return "too_short"
        # What nobody has judged since is what it was: an edit of an earlier log is not undone by another.
        return "known" if key in self._known and not is_judged else None

    def _expire(self) -> None:
        for row in self._known.values():
            if {row.key, row.group} & self._state.withdrawn:
                self._gone[row.key] = "withdrawn"
            elif row.time < self._oldest:
                self._gone.setdefault(row.key, "too_old")

    # What is taken.

    def _ready(self) -> Iterator[_Ready]:
        """Yield the drafts masked."""
        every = [*self._drafts.values()]
        for drafts in (every[at : at + _BATCH] for at in range(0, len(every), _BATCH)):
            for draft, (row, changed) in zip(
                drafts, redacted([draft.row for draft in drafts]), strict=True
            ):
                if row is None or (changed and self._settings.redaction == "drop"):
                    self._refuse(draft.key, "not_redacted")
                    continue
                text = self._state.digest("text", json.dumps(row, sort_keys=True))
                known = Known(draft.key, draft.group, text, draft.time, draft.kind)
                group = {"split_group": draft.group} if draft.group else {}
                yield _Ready(known, row | group, changed)

    def _refuse(self, key: str, reason: str) -> None:
        """Note why a draft is not taken; the row that it was before has been corrected, and leaves."""
        self._reasons[key] = reason
        if key in self._known:
            self._gone[key] = "thumbs_down"

    def _distinct(self, rows: Iterable[_Ready]) -> list[_Ready]:
        """Return the rows that say what no other row says; a row that says it now has left or changes."""
        kept, texts = [], {}
        for row in self._known.values():
            if row.key not in self._gone:
                texts[row.text] = row.key
        for ready in rows:
            key, text = ready.known.key, ready.known.text
            if texts.get(text) == key:
                self._vouched[key] = self._known[key]._replace(kind=ready.known.kind)
                self._reasons[key] = "known"
            elif text in texts:
                self._refuse(key, "duplicate")
            else:
                if key in self._known:
                    self._gone[key] = "replaced"
                texts[text] = key
                kept.append(ready)
        self._vouch()
        return kept

    def _vouch(self) -> None:
        """Note who vouches by now for the answers of rows that are there."""
        self._known |= self._vouched
        for shard in self._state.shards.values() if self._vouched else ():
            shard.rows = [self._vouched.get(row.key, row) for row in shard.rows]

    def _capped(self, rows: list[_Ready]) -> list[_Ready]:
        """Return the rows without what is self-generated beyond the share; those that are there stay
        before new ones are taken, then the key decides, which is drawn by lot and never changes."""
        there = [row for row in self._known.values() if row.key not in self._gone]
        own = [row.key for row in there if row.kind == OWN]
        new = [row.known.key for row in rows if row.known.kind == OWN]
        vouched = len(there) - len(own) + len(rows) - len(new)
        share = self._settings.max_self_generated_share
        limit = math.inf if share == 1 else math.floor(share / (1 - share) * vouched + 1e-9)
        ordered = [*sorted(own), *sorted(new)]
        kept = set(ordered if limit >= len(ordered) else ordered[: int(limit)])
        self._gone |= {key: "capped" for key in own if key not in kept}
        self._reasons |= {key: "capped" for key in new if key not in kept}
        self._outcome.own = len(kept)
        self._outcome.rows = len(kept) + vouched
        return [row for row in rows if row.known.kind != OWN or row.known.key in kept]

    # What is written.

    def _write(self, rows: list[_Ready], writer: Ledger | None) -> None:
        outcome = self._outcome
        outcome.left.update(self._gone[key] for key in self._gone if key in self._known)
        outcome.records["taken"] = len(rows)
        outcome.masked = sum(row.changed for row in rows)
        outcome.edited = sum(row.known.kind == "edit" for row in rows)
        texts = self._ledger.without(self._gone)
        outcome.rewritten = sorted(texts)
        if rows:
            newest = datetime.fromtimestamp(self._newest, UTC)
            number = len(self._state.shards) + 1
            outcome.shard = f"{SHARD}-{newest:%Y%m%dT%H%M%SZ}-{number:04d}.jsonl"
            lines = [line_of(row.row) for row in rows]
            texts[outcome.shard] = self._ledger.add(
                outcome.shard, lines, [row.known for row in rows]
            )
        if writer and (texts or self._state.model_dump_json() != self._before):
            writer.commit(texts)


def _answer(row: Row) -> str:
    answer = row["messages"][-1]
    return str(answer.get("content") or answer.get("tool_calls") or "").strip()
