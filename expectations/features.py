"""Per-row features: what the gate's expectations read, and why a row goes to quarantine.

Column operations only: a dataset is judged without a Python loop over its rows.
"""

from typing import TYPE_CHECKING

from retune.config import Validation

if TYPE_CHECKING:
    import polars as pl

KNOWN_ROLES = ("system", "user", "assistant", "tool")

# The order of a conversation, one letter per role: an optional system prompt, then questions each
# answered by the assistant, who may call tools before it goes on. The end is the assistant's.
_LETTERS = {"system": "s", "user": "u", "assistant": "a", "tool": "t"}
_ORDER = r"^s?(ua(t+a)*)+$"
_CHAT_TOKENS = ("<|im_start|>", "<|im_end|>")

# Flaws of a single row, in the order in which a person would want to hear of them.
REASONS = (
    "no_messages",
    "unknown_role",
    "roles_out_of_order",
    "empty_message",
    "oversized_message",
    "chat_token_in_message",
    "score_missing",
    "score_out_of_range",
    "duplicate",
)


def features(rows: "pl.DataFrame", config: Validation) -> "pl.DataFrame":
    """Judge every row by itself (and against equal rows).

    `rows` has the columns of `retune.records.Rows`. Returns one line per row, in order: `row`,
    `source`, `score`, `turns`, `longest_message` (characters), `roles` (such as "user assistant"),
    one boolean per flaw in REASONS, `reasons` (list of text), `flawed` and `excerpt` (up to 120
    characters of the message that is to blame, else of the first).
    """
    import polars as pl

    turn = rows.select("row", "messages").explode("messages").unnest("messages")
    text = pl.col("content").fill_null("")
    present = pl.col("role").is_not_null() | pl.col("content").is_not_null()
    blamed = (
        ~pl.col("role").is_in(KNOWN_ROLES).fill_null(False)
        | (text.str.strip_chars() == "")
        | (text.str.len_chars() > config.max_message_chars)
        | text.str.contains_any(_CHAT_TOKENS)
    )
    letter = pl.col("role").replace_strict(_LETTERS, default="?")
    per_row = turn.group_by("row", maintain_order=True).agg(
        turns=present.sum(),
        roles=pl.col("role").fill_null("(none)").filter(present).str.join(" "),
        order=letter.filter(present).str.join(""),
        empty_message=(present & (text.str.strip_chars() == "")).any(),
        longest_message=text.str.len_chars().max(),
        chat_token_in_message=text.str.contains_any(_CHAT_TOKENS).any(),
        content_hash=pl.concat_str(
            pl.col("role").fill_null(""),
            text.str.strip_chars().str.to_lowercase(),
            separator="\x1f",
        )
        .str.join("\x1e")
        .hash(),
        excerpt=pl.coalesce(text.filter(blamed).first(), text.first()).str.slice(0, 120),
    )
    score = pl.col("score")
    judged = (
        rows.drop("messages")
        .join(per_row, on="row", how="left", maintain_order="left")
        .with_columns(
            score.fill_nan(None),
            # A row without messages has no line in `per_row`.
            pl.col("turns", "longest_message", "content_hash").fill_null(0),
            pl.col("empty_message", "chat_token_in_message").fill_null(False),
            pl.col("roles", "order", "excerpt").fill_null(""),
        )
        .with_columns(
            no_messages=pl.col("turns") == 0,
            unknown_role=pl.col("order").str.contains("?", literal=True),
            oversized_message=pl.col("longest_message") > config.max_message_chars,
            score_missing=score.is_null() if config.score_required else pl.lit(False),
            score_out_of_range=~score.is_between(config.score_min, config.score_max).fill_null(
                True
            ),
        )
        .with_columns(
            roles_out_of_order=~pl.col("no_messages")
            & ~pl.col("unknown_role")
            & ~pl.col("order").str.contains(_ORDER),
            duplicate=~pl.col("no_messages") & ~pl.col("content_hash").is_first_distinct(),
        )
    )
    reasons = pl.concat_list(
        [pl.when(pl.col(name)).then(pl.lit(name)) for name in REASONS]
    ).list.drop_nulls()
    return judged.drop("order", "content_hash").with_columns(
        reasons=reasons, flawed=reasons.list.len() > 0
    )
