"""What texts carry along from where they were: pages, scans, mails, logs, tokenizers and corpora made for
other ends. One answer may look so for a good reason; many, whatever is asked, were not cleaned.

All of it is looked for in a sample of the pairs.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from expectations.data.profile.alarms import LEAST_GROUP, Alarm, Expectation, Quote, share_alarm
from expectations.data.profile.code import code
from expectations.data.profile.figures import figures
from expectations.data.profile.frames import frames
from expectations.data.profile.lengths import lengths
from expectations.data.profile.marks import marks
from expectations.data.profile.order import order
from expectations.data.profile.questions import of_questions
from expectations.data.profile.shapes import Group, shapes
from expectations.data.profile.spelling import spelling
from expectations.data.profile.styles import style
from expectations.data.profile.variants import variants, without_marks
from expectations.data.profile.wording import wording

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    Told = Callable[[np.ndarray], bool]

DOUBTFUL: Expectation = "doubtful_masses"
MOST = 0.7  # of what more answers do it is a dataset's way
_CODE = r"(?s)```.*?(?:```|$)|`[^`\n]*`"
_PICTURE = r"(?:!\[[^\]\n]{0,200}\]\()?data:[\w/+.;=-]{1,60},[^\s)]*\)?"
_BASE64 = r"[A-Za-z+/]{0,30}[0-9][A-Za-z0-9+/]{30,}={0,2}"


class Residue(NamedTuple):
    """A pattern that an answer, without its code, has `fewest` times or more, and the share of
    answers (0 to 1) from which that is named."""

    words: str
    pattern: str
    fewest: int
    share: float
    quote: Quote = "answer"


RESIDUES = (
    Residue("begin within a sentence", r"^\s*[\p{Ll},;)][^\n]{40}", 1, 0.08),
    Residue("hold letters that a PDF draws as one (\\ufb01)", r"[\x{FB00}-\x{FB06}]", 2, 0.03),
    Residue("break words with hyphens at the ends of lines", r"\p{Ll}-\n\p{Ll}", 2, 0.03),
    Residue("have digits within their words", r"\b\p{L}+[01]\p{L}{2,}\b", 3, 0.05),
    Residue("have # or X where numbers were", r"[^\n#]#{2,}(?:[^\n#]|$)|\bX{4,}\b", 1, 0.06),
    Residue(
        "hold marks in the place of names and numbers",
        r"\[[A-Z][A-Z_]{2,}\]|<[A-Z]{3,}(?:_\d+)?>|\b(?:NUM|UNK)\b|<(?:unk|num)>",
        2,
        0.05,
    ),
    Residue(
        "run sentences together, without a space",
        r"[\p{Ll})]{2}[.!?:](?:\p{Lu}\p{Ll}+[ ,.]|\d{1,2}\. )",
        2,
        0.05,
    ),
    Residue(
        "stand between tags", r"(?s)^\s*<[A-Za-z_]{3,20}>.*\w.*</[A-Za-z_]{3,20}>\s*$", 1, 0.05
    ),
    Residue(
        "begin with a date or a time of day",
        r"^\s*[\[(]?(?:\d{4}[-/.]\d\d[-/.]\d\d|\d\d?[:.]\d\d[:.]\d\d)",
        1,
        0.05,
    ),
    Residue(
        "end with figures of a page, such as votes",
        r"(?i)\n[^\n]*\b(?:rating|votes?|views|likes|upvotes|helpful|score) ?: ?\w[^\n]*$",
        1,
        0.05,
        "end",
    ),
    Residue("have accents as TeX writes them (\\'e)", r"\\['`\"^~][a-zA-Z]", 5, 0.04),
    Residue("are full of emoji", r"[\x{1F300}-\x{1FAFF}]", 6, 0.1),
    Residue("refer to notes that are not there ([3])", r"\p{L}\[\d{1,2}\]", 3, 0.06),
    Residue(
        "are quoted as in a mail, line by line",
        r"^> ?\S[^\n]*(?:\n> ?[^\n]*)+$|^> \S[^\n]*$",
        1,
        0.04,
    ),
    Residue("have spaces before commas and full stops", r"\p{L} [.,](?:\s|$)", 3, 0.08),
    Residue("run words together, without a space", r"\p{Ll}{25}", 2, 0.04),
    Residue(
        "hold the marks of a comparison ([-old-]{+new+})",
        r"[{\[][-+~]{1,2}\p{L}|\p{L}[-+~]{1,2}[\]}]",
        3,
        0.03,
    ),
    Residue(
        "have other spaces than the usual one between their words",
        r"\p{L}[\x{A0}\x{2000}-\x{200A}\x{202F}\x{205F}\x{3000}]\p{L}",
        3,
        0.04,
    ),
    Residue("have question marks within words", r"\p{Ll}\?\p{Ll}", 2, 0.03),
    Residue("begin with a line of marks", r"^\s*[^\p{L}\p{N}\s`|*]{3,}[ \t]*\n", 1, 0.04),
    Residue("stand between quotation marks", r'(?s)^\s*["“«].{60,}["”»]\s*$', 1, 0.04),
    Residue(
        "have a line of JSON beside their text", r'(?m)^\s*\{"\w[\w ]*" ?: ?[^\n]+\}\s*$', 1, 0.03
    ),
    Residue(
        "have lines of values with commas between, and no space",
        r"(?m)^[^,\n|]{1,40}(?:,[^,\n ][^,\n]{0,60})+$",
        3,
        0.03,
    ),
    Residue("have numbers of lines before their lines", r"(?s)^1[ \t]+\S[^\n]*\n2[ \t]", 1, 0.04),
)


def residues(
    sample: "pl.DataFrame", told: "Told", by_source: "Told" = lambda _: False
) -> list[Alarm]:
    """Return alarms for `sample`: `row`, `question`, `answer`, `replied` and `opening` of pairs;
    `told` says whether the question or the source tells which of these are in a group (a boolean per
    pair), `by_source` whether the source alone does."""
    import polars as pl

    # Of a picture in base64 no letter is a word's. As one pattern both take twenty times as long.
    prose = pl.col("answer").str.replace_all(_CODE, "")
    prose = prose.str.replace_all(_PICTURE, " ").str.replace_all(_BASE64, " ")
    frame = sample.select("row", "question", "answer", "replied", "opening", prose=prose)
    rows = frame["row"].to_numpy()
    groups = (
        *_patterns(frame),
        *wording(frame),
        *shapes(frame),
        *order(frame),
        *marks(frame),
        *variants(frame),
        *spelling(frame),
        *lengths(frame),
        *figures(frame),
        *code(frame),
        frames(frame),
    )
    found = [group for group in groups if _is_mass(group) and not told(group.rows)]
    # The question always tells these.
    found += filter(_is_mass, (*of_questions(frame, by_source), *without_marks(frame)))
    alarms = [
        share_alarm(DOUBTFUL, rows[group], len(frame), words, quote)
        for words, _, group, quote in found
    ]
    other = style(frame, told)
    if other:
        words = (
            f"are written another way than the rest, whatever is asked: {', '.join(other.words)}"
        )
        alarms.append(share_alarm(DOUBTFUL, rows[other.places], other.looked_at, words))
    return alarms


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
