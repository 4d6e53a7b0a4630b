"""Plain numbers of rows: of the last question and its answer, computed in columns.

They judge nothing. Most rows of a sound dataset resemble each other in them, or differ as their
questions do; that is what `masses` and `drift` look at.
"""

from typing import TYPE_CHECKING

from expectations.data.profile.exports import export_hashes, export_signs

if TYPE_CHECKING:
    import polars as pl

LONGEST = 20_000  # characters of a text that are looked at, beside its end
TOOL_CALL = "<tool_call>"
_HEAD = 2_000  # characters in which words are compared
_TAIL = 400  # characters in which an end is looked at

_CODE = r"(?s)```.*?(?:```|$)|`[^`\n]*`"
_WORD = r"\p{L}{4,}"
_FIGURE = r"\d{2,}"
# An end of a sentence, closing marks behind it, or what else a text may well end with.
ENDED = r"[\p{P}\p{S}\p{So}\p{Cf}\p{M}\p{N}]\s*$"
# The last line is prose that stops in a word or behind a comma: eight words or more, and no entry of a
# list, heading, quotation or table.
_STOPPED = r"(?:^|\n)[^\n\-*+#>|\d•–—:=<{\[][^\n=<>{}|\[\]]*[\p{L},]\s*$"
_EIGHT_WORDS = r"(?:[^\s]+[ \x{A0}]+){7}[^\s]+\s*$"
_TAG = (
    r"</?(?:div|p|br|span|html|body|head|table|t[rdh]|[uo]l|li|h[1-6]|strong|em|b|i|a|font|center|hr"
    r"|img)(?:\s[^<>]{0,300})?/?>"
)
_ENTITY = r"&(?:nbsp|lt|gt|amp|quot|apos|#\d{1,7}|#[xX][0-9a-fA-F]{1,6});"
_ESCAPE = r"\\n(?:\\n|[\p{Lu}\p{N}\-*•]|$)|\\u[0-9a-fA-F]{4}|\\[tr]\\n|\w\\_\w"
_TURN = (
    r"(?m)^\s*(?:#{2,3} ?(?:Instruction|Response|Input|Human|User|Assistant)|Human|User|Assistant"
    r"|USER|ASSISTANT|HUMAN|AI|Bot|<\|?(?:user|assistant|human)\|?>) ?: ?"
)
_BUTTON = r"(?m)^(?:Copy code|Copy to clipboard)$|[a-z]Copy code"

# What is a number between neighbours, and what is true or false, with its words; in this order they
# are stored and shown.
MEASURED = {
    "turns": "messages",
    "question_chars": "length of the question",
    "answer_chars": "length of the answer",
    "answer_lines": "lines of the answer",
    "length_ratio": "length of the answer to that of the question",
    "question_digits": "numbers per character of the question",
    "question_upper": "share of capitals in the question",
    "question_non_ascii": "share of characters beyond ASCII in the question",
    "answer_symbols": "share of symbols in the answer",
    "answer_digits": "numbers per character of the answer",
    "answer_upper": "share of capitals in the answer",
    "answer_non_ascii": "share of characters beyond ASCII in the answer",
    "answer_invisible": "share of invisible characters in the answer",
    "answer_marks": "share of combining marks in the answer",
    "answer_spaces": "share of white space in the answer",
    "answer_question_marks": "share of question marks in the answer",
    "compression": "size of the compressed answer",
    "overlap": "share of the question's words that the answer says",
}
FLAGS = {
    "ended": "the answer ends with a sentence",
    "cut": "the answer ends in mid-sentence",
    "inner": "the answer has a sentence that ends before its end",
    "trails": "the answer ends with an ellipsis",
    "no_capitals": "the answer has no capital letter",
    "question_asks": "the question has a question mark",
    "answer_asks": "the answer ends with a question mark",
    "repeated": "the answer is that of another row",
    "tags": "the answer has HTML tags outside code",
    "entities": "the answer has HTML entities outside code",
    "escapes": "the answer has escapes such as \\n as text, outside code",
    "fence_open": "the answer opens a code fence and does not close it",
    "fences": "the answer has code",
    "role_lines": 'a line of the answer begins as a turn does ("Human:", "### Instruction:")',
    "copied_button": 'the answer has the words of a copy button ("Copy code")',
    "echo": "the answer begins with the question",
    "json": "the answer is JSON",
    "markdown": "the answer has lists or headings",
    "other_figures": "the answer has figures, and none of those in the question",
}
NUMBERS = {**MEASURED, **FLAGS}
# Hashes, to see what is said again.
HASHES = ("answer", "first_sentence", "last_sentence", "context")


def pairs(messages: "pl.DataFrame") -> "pl.DataFrame":
    """Return the last question and its answer of each row that has both: `row`, `question`, `answer`,
    `before` (the question before it), `replied` (what stands below that), `earlier` (the question before
    that; all three null where there is none), `opening` (the first question), `system` (the system
    prompt, or empty), `turns` and `context` (a hash of all but the answer).

    `messages` is one line per message (see `expectations.data.messages.explode`).
    """
    import polars as pl

    text, role = pl.col("content"), pl.col("role").fill_null("")
    # What is said to a tool is no answer; the one behind its result is.
    said = (role == "assistant") & ~text.str.starts_with(TOOL_CALL)
    per_row = messages.group_by("row", maintain_order=True).agg(
        question=text.filter(role == "user").last(),
        before=text.filter(role == "user").reverse().get(1, null_on_oob=True),
        earlier=text.filter(role == "user").reverse().get(2, null_on_oob=True),
        opening=text.filter(role == "user").first(),
        answer=text.filter(said).last(),
        replied=text.filter(said).reverse().get(1, null_on_oob=True),
        system=text.filter(role == "system").first().fill_null(""),
        turns=pl.len(),
        context=text.slice(0, pl.len() - 1).str.join("\x1e").hash(),
    )
    return per_row.filter(pl.col("answer").is_not_null() & pl.col("question").is_not_null())


def numbers(pairs: "pl.DataFrame") -> "pl.DataFrame":
    """Return one line per pair: `row`, one column for each of NUMBERS but `repeated`, which takes
    all rows, of HASHES, and for each sign of `exports`. Shares are 0 to 1, lengths natural
    logarithms of characters or lines."""
    import polars as pl

    answer, question = pl.col("a"), pl.col("q")
    frame = pairs.select(
        "row",
        "turns",
        "context",
        pl.col("question").str.len_chars().alias("q_all"),
        pl.col("answer").str.len_chars().alias("a_all"),
        q=pl.col("question").str.head(LONGEST),
        a=pl.col("answer").str.head(LONGEST),
        end=pl.col("answer").str.strip_chars_end().str.tail(_TAIL),
        answer=pl.col("answer").str.strip_chars().hash(),
    )
    frame = frame.with_columns(
        n=answer.str.len_chars().clip(1),
        m=question.str.len_chars().clip(1),
        prose=pl.when(answer.str.contains("`", literal=True))
        .then(answer.str.replace_all(_CODE, ""))
        .otherwise(answer),
        ticks=answer.str.count_matches(r"(?m)^\s*```"),
        **{
            f"{name}_figures": text.str.head(_HEAD).str.extract_all(_FIGURE)
            for name, text in (("q", question), ("a", answer))
        },
    )
    return frame.select(
        "row",
        "answer",
        "context",
        *_measured(),
        *_flags(),
        *export_signs(),
        *export_hashes(),
        first_sentence=_sentence(answer.str.head(_HEAD), first=True),
        last_sentence=_sentence(pl.col("end"), first=False),
        compression=_compression(frame["a"]),
        overlap=_overlap(frame),
    )


def _measured() -> "list[pl.Expr]":
    import polars as pl

    def share(text: str, pattern: str, length: str) -> "pl.Expr":
        return (pl.col(text).str.count_matches(pattern) / pl.col(length)).cast(pl.Float32)

    beyond_ascii = r"[^\x00-\x7f]"
    columns = {
        "turns": pl.col("turns").cast(pl.Float32),
        "question_chars": pl.col("q_all").log1p(),
        "answer_chars": pl.col("a_all").log1p(),
        "answer_lines": pl.col("a").str.count_matches("\n", literal=True).log1p(),
        "length_ratio": pl.col("a_all").log1p() - pl.col("q_all").log1p(),
        "question_digits": share("q", "[0-9]+", "m"),
        "question_upper": share("q", r"\p{Lu}", "m"),
        "question_non_ascii": share("q", beyond_ascii, "m"),
        "answer_symbols": share("a", r"[^\p{L}\p{N}\p{M}\s]", "n"),
        "answer_digits": share("a", "[0-9]+", "n"),
        "answer_upper": share("a", r"\p{Lu}", "n"),
        "answer_non_ascii": share("a", beyond_ascii, "n"),
        "answer_invisible": share("a", r"[\p{Cf}\p{Co}]", "n"),
        "answer_marks": share("a", r"\p{M}", "n"),
        "answer_spaces": share("a", r"\s", "n"),
        "answer_question_marks": share("a", r"\?", "n"),
    }
    return [column.cast(pl.Float32).alias(name) for name, column in columns.items()]


def _flags() -> "list[pl.Expr]":
    import polars as pl

    answer, prose, end = pl.col("a"), pl.col("prose"), pl.col("end")
    start = pl.col("q").str.strip_chars().str.head(60)
    flags = {
        "ended": end.str.contains(ENDED),
        "cut": end.str.contains(_STOPPED) & end.str.contains(_EIGHT_WORDS),
        "inner": prose.str.contains(r"[\p{Ll}][.!?]\s+\p{Lu}|[。！？]\S"),
        "trails": end.str.contains(r"\w ?(?:\.\.\.|…)$"),
        "no_capitals": prose.str.contains(r"\p{Ll}[\p{Ll} ,]{40}")
        & ~answer.str.contains(r"\p{Lu}"),
        "question_asks": pl.col("q").str.contains(r"[?？؟]"),
        "answer_asks": end.str.contains(r"[?？؟]$"),
        "tags": prose.str.contains(_TAG),
        "entities": prose.str.contains(_ENTITY),
        "escapes": prose.str.contains(_ESCAPE),
        "fence_open": pl.col("ticks") % 2 == 1,
        "fences": pl.col("ticks") > 0,
        "role_lines": prose.str.contains(_TURN),
        "copied_button": answer.str.contains(_BUTTON),
        "echo": (start.str.len_chars() >= 20)
        & answer.str.strip_chars_start().str.starts_with(start),
        "json": answer.str.contains(r"^\s*[{\[]") & end.str.contains(r"[}\]]$"),
        "markdown": answer.str.contains(r"(?m)^\s{0,3}(?:#{1,6} |[-*+] |\d{1,2}\. |\|)"),
    }
    asked, said = pl.col("q_figures"), pl.col("a_figures")
    flags["other_figures"] = (
        (asked.list.len() > 0)
        & (said.list.len() > 0)
        & (asked.list.set_intersection(said).list.len() == 0)
    )
    return [flag.fill_null(False).alias(name) for name, flag in flags.items()]


def _sentence(text: "pl.Expr", first: bool) -> "pl.Expr":
    """Return the hash of the first or last sentence of 12 to 300 characters with other text beside
    it, null where there is none."""
    import polars as pl

    pattern = (
        r"^\s*([^.!?\n]{11,299}[.!?\n])\s*\S" if first else r"\S[.!?\n]\s*([^.!?\n]{11,299}[.!?]?)$"
    )
    sentence = text.str.extract(pattern)
    return pl.when(sentence.is_not_null()).then(sentence.hash())


def _compression(texts: "pl.Series") -> "pl.Series":
    import polars as pl

    from expectations.data.messages import compression

    return pl.Series([compression(text) if text else 1.0 for text in texts], dtype=pl.Float32)


def _overlap(frame: "pl.DataFrame") -> "pl.Series":
    import polars as pl

    words = frame.select(
        q=pl.col("q").str.head(_HEAD).str.to_lowercase().str.extract_all(_WORD).list.unique(),
        a=pl.col("a").str.head(_HEAD).str.to_lowercase().str.extract_all(_WORD),
    )
    shared = pl.col("q").list.set_intersection("a").list.len()
    return words.select((shared / pl.col("q").list.len().clip(1)).cast(pl.Float32)).to_series()
