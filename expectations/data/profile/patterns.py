"""Patterns of what texts carry along from pages, scans, mails, logs, tokenizers and tools."""

from typing import NamedTuple

from expectations.data.profile.alarms import Quote


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
    Residue(
        "refer to notes that are not there ([3])",
        r"\p{L}[.,;:)\"”]?\[(?:\d{1,3}|\p{Ll}{2,12} \p{Ll}{2,12})\]",
        3,
        0.06,
    ),
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
    Residue(
        "have digits in the place of letters (wa1k, w0rd)",
        r"\b\p{L}\p{Ll}+(?:1\p{Ll}+|[05]\p{Ll}{2,})\b|\b1\p{Ll}{4,}\b",
        1,
        0.03,
    ),
    Residue(
        "hold remarks in brackets between their sentences",
        r"\p{L}[.!?)] (?:\[[^\[\]()\n]{8,160}\]|\(\([^()\n]{8,160}\)\))(?:\s|$)",
        1,
        0.03,
    ),
    Residue(
        "have numbers as a spreadsheet writes them (1.20E+03)",
        r"\b\d(?:\.\d+)?E[+-]\d{2}\b",
        2,
        0.03,
    ),
    Residue(
        "have dates as a spreadsheet writes them (4-Mar)",
        r"\b\d{1,2}-(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)\b(?:[^-]|$)",
        1,
        0.03,
    ),
    Residue(
        "end with a label and one word",
        r"\n[\p{L} ]{3,20}: ?[\p{L}\p{N}/]{1,12}\s*$",
        1,
        0.04,
        "end",
    ),
)
