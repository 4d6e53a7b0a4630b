"""What texts carry along from where they were: pages, scans, mails, logs, tokenizers and corpora made for
other ends. One answer may look so for a good reason; many, whatever is asked, were not cleaned.

All of it is looked for in a sample of the pairs.
"""

from collections.abc import Callable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from expectations.data.profile.alarms import LEAST_GROUP, Alarm, Expectation, share_alarm
from expectations.data.profile.broken import broken
from expectations.data.profile.code import code
from expectations.data.profile.conversations import conversations
from expectations.data.profile.endings import endings
from expectations.data.profile.ends import ends
from expectations.data.profile.figures import figures
from expectations.data.profile.followers import followers
from expectations.data.profile.frames import frames
from expectations.data.profile.inserts import inserts
from expectations.data.profile.keys import keys
from expectations.data.profile.lengths import lengths
from expectations.data.profile.loops import loops, twice_in_a_row
from expectations.data.profile.marks import marks
from expectations.data.profile.missing import missing
from expectations.data.profile.names import names
from expectations.data.profile.openings import openings
from expectations.data.profile.order import order
from expectations.data.profile.patterns import RESIDUES
from expectations.data.profile.phrases import phrases
from expectations.data.profile.questions import of_questions
from expectations.data.profile.shapes import Group, shapes
from expectations.data.profile.signs import Trait
from expectations.data.profile.spelling import spelling
from expectations.data.profile.styles import style
from expectations.data.profile.tails import tails
from expectations.data.profile.taken_out import taken_out
from expectations.data.profile.variants import variants, without_marks
from expectations.data.profile.wording import wording, words_of

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    Told = Callable[..., bool]

DOUBTFUL: Expectation = "doubtful_masses"
MOST = 0.7  # of what more answers do it is a dataset's way
_CODE = r"(?s)```.*?(?:```|$)|`[^`\n]*`"
_PICTURE = r"(?:!\[[^\]\n]{0,200}\]\()?data:[\w/+.;=-]{1,60},[^\s)]*\)?"
_BASE64 = r"[A-Za-z+/]{0,30}[0-9][A-Za-z0-9+/]{30,}={0,2}"


class Residues(NamedTuple):
    """Which of a sample of pairs look so: the groups of answers, and those that their questions tell."""

    frame: "pl.DataFrame"
    groups: list[Group]
    asked_for: list[Group]

    def signs(self) -> list[Trait]:
        """Return what each group of answers does, however small it is."""
        rows = self.frame["row"].to_numpy()
        return [_sign(group, rows) for group in (*self.groups, *self.asked_for)]

    def alarms(self, told: "Told") -> list[Alarm]:
        """Return alarms for groups that are large; `told` says whether the question or the source tells
        which pairs are in one (a boolean per pair; a second one says of which pairs)."""
        rows = self.frame["row"].to_numpy()
        found = [group for group in self.groups if _is_mass(group) and not _is_told(group, told)]
        found += filter(_is_mass, self.asked_for)
        alarms = [
            share_alarm(DOUBTFUL, rows[group.rows], len(rows), group.words, group.quote)
            for group in found
        ]
        other = style(self.frame, told)
        if other:
            words = (
                "are written another way than the rest, whatever is asked: "
                f"{', '.join(other.words)}"
            )
            alarms.append(share_alarm(DOUBTFUL, rows[other.places], other.looked_at, words))
        return alarms


def residues(sample: "pl.DataFrame", by_source: "Told" = lambda _: False) -> Residues:
    """Return what is found in `sample`: `row`, `system`, `question`, `answer`, `before`, `replied` and
    `opening` of pairs; `by_source` says whether the source alone tells which are in a group."""
    import polars as pl

    # Of a picture in base64 no letter is a word's. As one pattern both take twenty times as long.
    prose = pl.col("answer").str.replace_all(_CODE, "")
    prose = prose.str.replace_all(_PICTURE, " ").str.replace_all(_BASE64, " ")
    names_of = ("row", "system", "question", "answer", "before", "replied", "opening")
    frame = sample.select(*names_of, prose=prose)
    said = words_of(frame["prose"])
    groups = [
        *_patterns(frame),
        *wording(frame, said),
        phrases(frame, said),
        missing(frame, said),
        followers(said, len(frame)),
        *shapes(frame),
        *order(frame),
        *marks(frame),
        *variants(frame),
        *spelling(frame),
        *lengths(frame),
        *figures(frame),
        *code(frame),
        *taken_out(frame),
        *inserts(frame),
        names(frame),
        keys(frame),
        *tails(frame),
        *ends(frame),
        *broken(frame),
        loops(frame),
        twice_in_a_row(said, len(frame)),
        endings(frame),
        frames(frame),
    ]
    # The question always tells these.
    of_rows = (of_questions(frame, by_source), openings(frame), conversations(frame))
    return Residues(frame, groups, [*chain(*of_rows, without_marks(frame))])


def _sign(group: Group, rows: "np.ndarray") -> Trait:
    of = rows[group.rows]
    if len(of):
        alarm = share_alarm("profile_drift", of, len(rows), group.words, group.quote)
    else:
        alarm = Alarm(expectation="profile_drift", value=0.0, sentence="none", quote="")
    return Trait(words=group.words, alarm=alarm)


def _is_told(found: Group, told: "Told") -> bool:
    return told(found.rows) if found.among is None else told(found.rows, found.among)


def _is_mass(found: Group) -> bool:
    count, rows = int(found.rows.sum()), len(found.rows)
    return max(LEAST_GROUP, found.share * rows) <= count <= MOST * rows


def _patterns(frame: "pl.DataFrame") -> Iterator[Group]:
    import polars as pl

    for residue in RESIDUES:
        text = pl.col("prose")
        many = (
            text.str.contains(residue.pattern)
            if residue.fewest == 1
            else text.str.count_matches(residue.pattern) >= residue.fewest
        )
        group = frame.select(many.fill_null(False)).to_series().to_numpy()
        yield Group(residue.words, residue.share, group, residue.quote)
