"""What can be wrong with single messages and rows, found by column operations over one batch.

A library's verdict in Python is only asked for the few texts that a column pattern lets through,
and where it may take longer than the text is long, only for the places in them (`candidates`).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from expectations.data import (
    addresses,
    answers,
    chinese_tables,
    control_tokens,
    credentials,
    encodings,
    hidden_text,
    identities,
    leavings,
    loops,
    personal,
)
from expectations.data.control_tokens import FOREIGN_TOKENS
from retune import refusals
from retune.candidates import confirmed
from retune.chat import END, START
from retune.recipe import Validation
from retune.recipe.flaws import OVERSIZED

if TYPE_CHECKING:
    import polars as pl

    from retune.suites.cases import SuiteCase

KNOWN_ROLES = ("system", "user", "assistant", "tool")

# The order of a conversation, one letter per role: an optional system prompt, then questions each
# answered by the assistant, who may call tools before it continues. The end is the assistant's.
_LETTERS = {"system": "s", "user": "u", "assistant": "a", "tool": "t"}
_ORDER = r"^s?(ua(t+a)*)+$"

_NOTHING = ("nan", "NaN", "None", "null")  # what exports write for an empty cell
_CODE = leavings.CODE

_VISIBLE = r"[^\s\p{C}\p{Z}]"
# White space but a single space: to replace that by itself takes five times as long.
_SPACES = r"\s{2,}|[^\S ]"
CONTROL = r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]"
BROKEN = r"[\x{FFFD}\x{FFFE}\x{FFFF}]"
# A lead byte of UTF-8 followed by a continuation byte, both read as cp1252 or Latin-1.
MOJIBAKE = (
    r"[\x{C2}-\x{F4}][\x{80}-\x{BF}€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]|\x{E2}\x{20AC}|\x{EF}\x{BF}\x{BD}"
)
URL = r"(?i)\bhttps?://[^\s/]|\bwww\.[a-z0-9-]+\.[a-z]"
_LEAST_BYTES = 800  # of a message that is asked whether it repeats itself
_HEAD = 160  # characters in which a refusal shows

MESSAGE_FLAWS = (
    *("unknown_role", "empty_message", "oversized_message", "special_token", "invalid_unicode"),
    *("control_character", "mojibake", "repetition", "answer_repeats_question", "roles_swapped"),
    *("refusal", "self_identification", "secret", "email", "phone_number", *personal.NUMBERS),
    *("url", "unjudged", *answers.FLAWS, "hidden_text", "homoglyph", "personal_details"),
)


class Rules(NamedTuple):
    """What rows are judged by: the recipe's section, the special tokens of the base model's
    tokenizer, the evaluation prompts that must not be trained on, and what the recipe's suites ask,
    which must not either."""

    config: Validation
    special_tokens: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    cases: "tuple[SuiteCase, ...]" = ()

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """What must never be typed: the tokenizer's special tokens, and ChatML's in any case."""
        return tuple(dict.fromkeys((*self.special_tokens, START, END)))


def explode(batch: "pl.DataFrame") -> "pl.DataFrame":
    """Return one line per message of a batch of rows: `row`, `place` (0, 1, …), `role`, `content`
    (empty text for null) and `last` (true for a row's last message)."""
    import polars as pl

    present = pl.col("role").is_not_null() | pl.col("content").is_not_null()
    return (
        batch.select("row", "messages")
        .explode("messages")
        .unnest("messages")
        .filter(present)
        .with_columns(
            pl.col("content").fill_null(""),
            place=pl.int_range(pl.len()).over("row"),
            last=pl.col("row") != pl.col("row").shift(-1, fill_value=-1),
        )
    )


def is_empty(text: "pl.Expr") -> "pl.Expr":
    """Tell which texts have nothing to see, or only what exports write for an empty cell."""
    return ~text.str.contains(_VISIBLE) | text.is_in(_NOTHING)


def judge_messages(messages: "pl.DataFrame", rules: Rules) -> "pl.DataFrame":
    """Add one boolean column per name in MESSAGE_FLAWS, and `plain`: the content without case and
    with single spaces."""
    import polars as pl

    config = rules.config
    text = pl.col("content")
    role = pl.col("role").fill_null("")
    plain = text.str.to_lowercase().str.replace_all(_SPACES, " ").str.strip_chars()
    spoken = role == "assistant"
    replies = spoken & (role.shift(1) == "user") & (pl.col("place") > 0)
    straight = text.str.replace_all("’", "'", literal=True)
    judged = messages.with_columns(plain=plain).with_columns(
        unknown_role=~role.is_in(KNOWN_ROLES),
        empty_message=is_empty(text),
        oversized_message=text.str.len_chars() > config.max_message_chars,
        invalid_unicode=text.str.contains(BROKEN),
        control_character=text.str.contains(CONTROL),
        answer_repeats_question=replies
        & (pl.col("plain") == pl.col("plain").shift(1))
        & (pl.col("plain") != ""),
        roles_swapped=replies
        & text.str.strip_chars_end().str.ends_with("?")
        & ~text.shift(1).str.contains("?", literal=True)
        & (text.str.len_chars() < text.shift(1).str.len_chars()),
        refusal=spoken & _has_phrase(straight.str.head(_HEAD), config.refusals),
        self_identification=spoken & _has_phrase(straight, config.identities),
        url=text.str.contains(URL),
    )
    private = {
        "secret": credentials.has_secret(messages["content"]),
        "phone_number": personal.has_phone_number(messages["content"], config.phone_regions),
        **personal.numbers(messages["content"]),
    }
    return judged.with_columns(
        *_spoken_of(judged),
        *answers.judge(judged),
        special_token=text.str.contains_any(list(rules.control_tokens))
        | _foreign_token(judged, rules),
        email=confirmed(
            messages,
            text.str.contains(personal.EMAIL),
            text.str.replace_all(personal.NOBODYS, "").str.contains(personal.EMAIL),
        ),
        mojibake=_garbled(judged),
        hidden_text=confirmed(judged, _not_ascii(), hidden_text.has_hidden_text(text)),
        homoglyph=confirmed(
            judged, hidden_text.may_have_homoglyphs(text), hidden_text.has_homoglyphs(text)
        ),
        personal_details=addresses.has_personal_details(judged),
        unjudged=pl.any_horizontal([verdict.is_null() for verdict in private.values()]),
        **private,
        repetition=_repeated(judged, config),
    ).with_columns(pl.col(MESSAGE_FLAWS).fill_null(False))


def _not_ascii() -> "pl.Expr":
    import polars as pl

    return pl.col("content").str.len_bytes() > pl.col("content").str.len_chars()


def _spoken_of(judged: "pl.DataFrame") -> "list[pl.Series]":
    """Return `refusal` and `self_identification`, by the recipe's phrases or by grammar."""
    import polars as pl

    spoken = (judged["role"] == "assistant").fill_null(False)
    plain = pl.col("plain").str.replace_all("’", "'", literal=True)
    answers_ = judged.filter(spoken).select(plain)
    flaws = {
        "refusal": refusals.refuses(answers_),
        "self_identification": identities.identifies(answers_),
    }
    return [
        (judged[flaw] | spoken.clone().scatter(spoken.arg_true(), verdicts)).alias(flaw)
        for flaw, verdicts in flaws.items()
    ]


def _foreign_token(judged: "pl.DataFrame", rules: Rules) -> "pl.Series":
    """Return where other models' control tokens stand outside of code."""
    import polars as pl

    text, own = pl.col("content"), rules.control_tokens
    foreign = [token for token in FOREIGN_TOKENS if token not in own]
    code_free = text.str.replace_all(_CODE, "")
    return confirmed(
        judged,
        text.str.contains_any([*foreign, *control_tokens.BEGINNINGS]),
        code_free.str.contains_any(foreign) | code_free.str.contains(control_tokens.PATTERN),
    )


def _garbled(judged: "pl.DataFrame") -> "pl.Series":
    """Return where text was decoded with the wrong table."""
    import polars as pl

    text = pl.col("content")
    by_ftfy = _confirmed(judged, text.str.contains(MOJIBAKE), _is_mojibake)
    by_table = confirmed(judged, _not_ascii(), encodings.is_garbled(text))
    lost = confirmed(
        judged, encodings.may_have_lost_accents(text), encodings.has_lost_accents(_prose())
    )
    by_gbk = _confirmed(
        judged,
        _not_ascii() & text.str.contains(chinese_tables.suspects()),
        chinese_tables.reads_back,
    )
    return by_ftfy | by_table | by_gbk | lost


def _prose() -> "pl.Expr":
    import polars as pl

    return pl.col("content").str.replace_all(_CODE, " ")


def _repeated(judged: "pl.DataFrame", config: Validation) -> "pl.Series":
    """Return where a message repeats itself, all of it, or at an answer's end."""
    import polars as pl

    text = pl.col("content")
    as_a_whole = _confirmed(
        judged,
        text.str.len_bytes() >= _LEAST_BYTES,
        lambda content: compression(content) < config.min_compression,
    )
    spoken = pl.col("role").fill_null("") == "assistant"
    at_its_end = _confirmed(judged, spoken & loops.may_end_in_loop(text), loops.ends_in_loop)
    return as_a_whole | at_its_end


def judge_rows(
    batch: "pl.DataFrame", messages: "pl.DataFrame", config: Validation
) -> "pl.DataFrame":
    """Judge a batch of rows from its judged messages; one line per row of `batch`, in order.

    Columns: `row`, `source`, `score`, `turns`, `chars` (of the longest message), `content` (a hash
    of roles and plain contents) and one boolean per flaw that a row can have by itself.
    """
    import polars as pl

    letter = pl.col("role").replace_strict(_LETTERS, default="?", return_dtype=pl.String)
    per_row = messages.group_by("row", maintain_order=True).agg(
        pl.col(MESSAGE_FLAWS).any(),
        turns=pl.len(),
        chars=pl.col("content").str.len_chars().max(),
        order=letter.str.join(""),
        content=pl.concat_str(pl.col("role").fill_null(""), "plain", separator="\x1f")
        .str.join("\x1e")
        .hash(),
    )
    turns, order = pl.col("turns"), pl.col("order")
    oversized = pl.col("problem").str.starts_with(OVERSIZED).fill_null(False)
    judged = (
        batch.select(
            "row",
            "source",
            "score",
            malformed=pl.col("problem").is_not_null() & ~oversized,
            oversized_row=oversized,
        )
        .join(per_row, on="row", how="left", maintain_order="left")
        # A row without messages has no line in `per_row`.
        .with_columns(
            pl.col("turns", "chars", "content").fill_null(0),
            pl.col(MESSAGE_FLAWS).fill_null(False),
            order.fill_null(""),
        )
        .with_columns(
            no_messages=(turns == 0) & ~pl.col("malformed") & ~pl.col("oversized_row"),
            roles_out_of_order=(turns > 0) & ~pl.col("unknown_role") & ~order.str.contains(_ORDER),
            language=pl.lit(False),
        )
        .drop("order")
    )
    if config.languages:
        judged = judged.with_columns(language=_foreign(judged["row"], messages, config.languages))
    return judged


def blamed(messages: "pl.DataFrame") -> "pl.DataFrame":
    """Return of judged messages, for each row with flawed ones (`row`), the first with each flaw:
    `blamed`, a list of `flaw` and `place`."""
    import polars as pl

    names = pl.Enum(MESSAGE_FLAWS)
    first = [
        messages.filter(flaw)
        .unique("row", keep="first", maintain_order=True)
        .select("row", "place", flaw=pl.lit(flaw, names))
        for flaw in MESSAGE_FLAWS
    ]
    return pl.concat(first).group_by("row").agg(blamed=pl.struct("flaw", "place"))


def compression(text: str) -> float:
    """Return the size of `text` compressed with LZ4, as a share of its bytes in UTF-8."""
    import pyarrow as pa

    raw = text.encode()
    return len(pa.compress(raw, codec="lz4", asbytes=True)) / len(raw)


def _is_mojibake(text: str) -> bool:
    from ftfy.badness import is_bad

    return is_bad(text)


def _foreign(
    rows: "pl.Series", messages: "pl.DataFrame", languages: tuple[str, ...]
) -> "pl.Series":
    """Tell for each of `rows` whether it is written in none of `languages` (ISO 639-1): what is asked,
    what is answered or, where these are short, all of it."""
    import polars as pl

    from expectations.data.profile.languages import is_foreign

    texts = messages.filter(pl.col("role") != "system").group_by("row", maintain_order=True)
    said = pl.col("content").filter(pl.col("role") == "assistant").str.join("\n")
    asked = pl.col("content").filter(pl.col("role") == "user").str.join("\n")
    joined = texts.agg(asked=asked, said=said, text=pl.col("content").str.join("\n"))
    joined = joined.with_columns(
        foreign=pl.Series(
            [
                is_foreign(text, (asked, said), languages)
                for asked, said, text in joined.select("asked", "said", "text").rows()
            ],
            dtype=pl.Boolean,
        )
    )
    return (
        rows.to_frame()
        .join(joined, on="row", how="left", maintain_order="left")["foreign"]
        .fill_null(False)
    )


def _has_phrase(text: "pl.Expr", phrases: tuple[str, ...]) -> "pl.Expr":
    import polars as pl

    if not phrases:
        return pl.lit(False)
    return text.str.contains_any(list(phrases), ascii_case_insensitive=True)


def _confirmed(
    messages: "pl.DataFrame", suspect: "pl.Expr", check: Callable[[str], bool]
) -> "pl.Series":
    """Return where `check` holds, asked only for the contents that are `suspect`."""
    import polars as pl

    mask = messages.select(suspect.fill_null(False)).to_series()
    verdicts = [check(content) for content in messages["content"].filter(mask)]
    return mask.scatter(mask.arg_true(), pl.Series(verdicts, dtype=pl.Boolean))
