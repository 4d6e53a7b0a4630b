"""What an answer can have by itself or beside what was asked, by column operations.

Each rule has a suspicion, which is cheap and asked of every answer, and a check, which is asked of
the few that are suspected. Where an answer was asked to look like that ("write an HTML page"), it
has no flaw.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from expectations.data import leavings as le
from retune.candidates import confirmed

if TYPE_CHECKING:
    import polars as pl

FLAWS = (
    *("next_turn", "prompt_echo", "recited_prompt", "placeholder", "error_page", "interface_text"),
    *("escaped_text", "markup", "wrapped_answer", "encoded_data", "unclosed_code"),
)
_HEAD, _TAIL = 1000, 300  # characters in which the beginning and the end of an answer are looked at
_ECHO_LEAST = 20  # characters of a question that is echoed
_RECITED = (40, 80)  # characters of a system prompt's beginning that are recited
_SHORT = 40  # characters of an answer that may be a placeholder as a whole
_LONGEST_ERROR = 2000  # characters
_FEWEST_ESCAPES = 2
_SHARE_ENCODED = 0.5  # of an answer


def judge(messages: "pl.DataFrame") -> "pl.DataFrame":
    """Return for each message one boolean per name in FLAWS; only an assistant's can have any."""
    import polars as pl

    spoken = messages.select(
        "row",
        "content",
        answer=pl.col("role").fill_null("") == "assistant",
        before=pl.when(pl.col("place") > 0).then(pl.col("content").shift(1)).fill_null(""),
        system=_beginning_of_system(messages),
    ).with_row_index("line")
    answers = spoken.filter("answer").with_columns(
        head=pl.col("content").str.head(_HEAD), tail=pl.col("content").str.tail(_TAIL)
    )
    suspicions = answers.select("line", "row", **{r.flaw: r.suspicion() for r in _rules()})
    suspected = pl.any_horizontal([pl.col(rule.flaw).fill_null(False) for rule in _rules()])
    lines = suspicions.filter(suspected)
    if lines.is_empty():
        return spoken.with_columns(**dict.fromkeys(FLAWS, pl.lit(False))).select(FLAWS)
    context = _with_context(answers.join(lines.select("line"), on="line"), messages)
    verdicts = context.select(
        "line", **{r.flaw: confirmed(context, lines[r.flaw], r.check()) for r in _rules()}
    )
    judged = spoken.select("line").join(verdicts, on="line", how="left", maintain_order="left")
    return judged.select(pl.col(FLAWS).fill_null(False))


def _beginning_of_system(messages: "pl.DataFrame") -> "pl.Expr":
    """Return the beginning of the row's system prompt; empty where there is none, or a short one."""
    import polars as pl

    least, most = _RECITED
    prompt = pl.when((pl.col("place") == 0) & (pl.col("role") == "system")).then(
        pl.col("content").str.strip_chars().str.head(most)
    )
    long = pl.when(prompt.str.len_chars() >= least).then(prompt)
    return long.first().over("row").fill_null("")


def _with_context(answers: "pl.DataFrame", messages: "pl.DataFrame") -> "pl.DataFrame":
    """Add `prose` (the content without code) and `asked`: all that the row's others say."""
    import polars as pl

    others = messages.filter(
        pl.col("row").is_in(answers["row"].unique().implode())
        & (pl.col("role").fill_null("") != "assistant")
    )
    asked = others.group_by("row").agg(asked=pl.col("plain").str.join(" "))
    return answers.join(asked, on="row", how="left", maintain_order="left").with_columns(
        pl.col("asked").fill_null(""), prose=pl.col("content").str.replace_all(le.CODE, " ")
    )


class Rule(NamedTuple):
    """A flaw of an answer: `suspicion` over `content`, its `head` and `tail`, `before` (what was said
    before it) and `system`; `check` also over `prose` and `asked`."""

    flaw: str
    suspicion: "Callable[[], pl.Expr]"
    check: "Callable[[], pl.Expr]"


def _has(pattern: str, column: str = "prose") -> "pl.Expr":
    import polars as pl

    return pl.col(column).str.contains(pattern)


def _any(words: tuple[str, ...], column: str = "content") -> "pl.Expr":
    import polars as pl

    return pl.col(column).str.contains_any(list(words), ascii_case_insensitive=True)


def _unasked(words: tuple[str, ...]) -> "pl.Expr":
    return ~_any(words, "asked")


def _turns() -> "pl.Expr":
    """Further turns; an answer that is a dialogue from its beginning was asked to be one."""
    import polars as pl

    begins = pl.col("content").str.head(60).str.contains(rf"{le.USER}|{le.ASSISTANT}")
    return _has(le.NEXT_TURN) & ~begins & _unasked(le.TALK)


def _echo_suspicion() -> "pl.Expr":
    import polars as pl

    before = pl.col("before").str.strip_chars()
    start = pl.col("content").str.strip_chars_start().str.head(60)
    return (before.str.len_chars() >= _ECHO_LEAST) & (
        start.str.contains(before.str.head(_ECHO_LEAST), literal=True)
    )


def _echo() -> "pl.Expr":
    """The question, and the answer in the same line. A question in a paragraph of its own is quoted;
    what is no question and ends its line is a title."""
    import polars as pl

    before = pl.col("before").str.strip_chars()
    text = pl.col("content").str.strip_chars_start()
    text = text.str.replace(r"^(?:Human|User|Question|Prompt|Instruction|Q): ?", "")
    rest = text.str.slice(before.str.len_chars())
    going_on = rest.str.contains(r"^ {0,2}\S") & (
        ~rest.str.contains(r"^[,;:…]|^\.\.|^ ?[-–—]|^\w") & before.str.contains(r"[.?!。？！)\]]$")
    )
    below = rest.str.contains(r"^ ?\n\S") & before.str.contains(r"[?？]$")
    return text.str.starts_with(before) & (going_on | below)


def _placeholder() -> "pl.Expr":
    import polars as pl

    code = pl.col("content").str.contains(le.CODE_LIKE)
    text = pl.col("prose").str.replace_all(le.PARAMETER, "")
    return (text.str.contains(le.PLACEHOLDER) & _unasked(le.TEMPLATES) & ~code) | _has(
        le.NO_ANSWER, "content"
    )


def _error_suspicion() -> "pl.Expr":
    import polars as pl

    short = pl.col("content").str.len_chars() <= _LONGEST_ERROR
    return (short & _any(le.ERROR_WORDS, "head")) | _any(le.ERROR_WORDS, "tail")


def _error() -> "pl.Expr":
    import polars as pl

    short = pl.col("content").str.len_chars() <= _LONGEST_ERROR
    return (_has(le.ERROR_PAGE, "content") & short & _unasked(le.ABOUT_ERRORS)) | _has(
        le.BROKEN_OFF, "content"
    )


def _escapes() -> "pl.Expr":
    import polars as pl

    several = pl.col("prose").str.count_matches(le.ESCAPES) >= _FEWEST_ESCAPES
    long_run = r"(?:\\u[0-9a-fA-F]{4}[\s,.]?){6}|(?:&#x?[0-9a-fA-F]{2,7};\s?){6}"
    # One match of these is several already.
    long_run += r"|(?:^|\s)[^\s/:?&=%]*(?:%[0-9A-F]{2}[^\s/:?&=%]*){6}"
    return ((several & ~_has(le.CODE_LIKE)) | _has(long_run)) & _unasked(le.ABOUT_MARKUP)


def _markup() -> "pl.Expr":
    return _has(le.MARKUP, "content") & _unasked(le.ABOUT_MARKUP)


def _wrapped() -> "pl.Expr":
    return _has(le.WRAPPED, "content") & _unasked(le.ABOUT_JSON)


def _encoded() -> "pl.Expr":
    import polars as pl

    text = pl.col("content").str.replace_all(le.EMBEDDED, "")
    rest = text.str.replace_all(le.ENCODED, "").str.len_bytes()
    size = text.str.len_bytes()
    varied = text.str.contains(r"[A-Z]") & text.str.contains(r"[a-z]") & text.str.contains(r"[0-9]")
    return (size - rest > _SHARE_ENCODED * size) & varied & _unasked(le.ENCODED_WORDS)


def _open_fence() -> "pl.Expr":
    import polars as pl

    return pl.col("content").str.count_matches(le.FENCE) % 2 == 1


def _recited() -> "pl.Expr":
    import polars as pl

    return pl.col("content").str.contains(pl.col("system"), literal=True) & ~pl.col(
        "before"
    ).str.contains(pl.col("system"), literal=True)


def _rules() -> tuple[Rule, ...]:
    import polars as pl

    def suspected(words: tuple[str, ...]) -> "Callable[[], pl.Expr]":
        return lambda: _any(words)

    begun = pl.col("head").str.contains
    short = pl.col("content").str.len_chars() < _SHORT
    return (
        Rule("next_turn", suspected(le.TURN_WORDS), _turns),
        Rule("prompt_echo", _echo_suspicion, _echo),
        Rule("recited_prompt", lambda: pl.col("system") != "", _recited),
        Rule("placeholder", lambda: _any(le.PLACEHOLDER_WORDS) | short, _placeholder),
        Rule("error_page", _error_suspicion, _error),
        Rule("interface_text", suspected(le.INTERFACE_WORDS), lambda: _has(le.INTERFACE)),
        Rule("escaped_text", suspected(le.ESCAPE_WORDS), _escapes),
        Rule("markup", lambda: begun(r"^\s*<[A-Za-z!]"), _markup),
        Rule("wrapped_answer", lambda: begun(r'^\s*\{\s*"'), _wrapped),
        Rule("encoded_data", lambda: _has(le.ENCODED, "content"), _encoded),
        Rule("unclosed_code", suspected(("```", "~~~")), _open_fence),
    )
