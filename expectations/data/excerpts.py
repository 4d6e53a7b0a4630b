"""What to show of a flawed row: the place that is to blame, without secrets."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from expectations.data import control_tokens, encodings, hidden_text, identities, masking
from expectations.data import leavings as le
from expectations.data import messages as m
from expectations.data.batches import detached
from expectations.data.messages import MESSAGE_FLAWS, Rules, explode
from expectations.data.personal import FORMS
from retune.recipe.flaws import FLAWS

if TYPE_CHECKING:
    import polars as pl

LENGTH = 120  # characters
_BEFORE = 40  # characters before what was found
# Of a text of which the beginning is shown, characters that are masked: what begins in those shown and
# ends behind these is still known for a secret by how it begins.
_HEAD = 8_000


def excerpts(batch: "pl.DataFrame", table: "pl.DataFrame", rules: Rules) -> "pl.DataFrame":
    """Return for every flaw of the rows in `batch` what shows it: `row`, `reason`, `place` (of the
    message, from 0; null when it is about the whole row) and `excerpt` (up to LENGTH characters).

    `table` holds the same rows' lines of the feature table. Secrets and what belongs to a person are
    masked, also in roles and problems, before anything is cut to length: excerpts go to logs and
    other people's screens.
    """
    import polars as pl

    messages = _masked(explode(batch), "role")
    batch = _masked(batch, "problem")
    blamed = _blamed(messages, table)
    first = _first(messages, table)
    tables = []
    for flaw in FLAWS:
        rows = table.filter(pl.col(flaw)).select("row")
        if rows.is_empty():
            continue
        if flaw in MESSAGE_FLAWS:
            shown = rows.join(blamed.filter(reason=flaw), on="row")
            examples = shown.select(
                "row", pl.col("place").cast(pl.Int64), excerpt=_around(flaw, rules)
            )
        else:
            about = _of_whole_row(flaw, batch, table, messages)
            heads = rows.join(about, on="row", how="left").join(first, on="row", how="left")
            text = pl.concat_str(pl.col("about").fill_null(""), pl.col("content").fill_null(""))
            examples = heads.select(
                "row", place=pl.lit(None, pl.Int64), excerpt=text.str.head(LENGTH)
            )
        tables.append(examples.with_columns(reason=pl.lit(flaw)))
    shown = pl.concat([no_excerpts(), *tables]).sort("row", maintain_order=True)
    return shown.with_columns(detached(pl.col("excerpt")))


def no_excerpts() -> "pl.DataFrame":
    """Return what `excerpts` does of no rows."""
    import polars as pl

    schema = {"row": pl.Int64, "place": pl.Int64, "excerpt": pl.String, "reason": pl.String}
    return pl.DataFrame(schema=schema)


def _blamed(messages: "pl.DataFrame", table: "pl.DataFrame") -> "pl.DataFrame":
    """Return the first message with each flaw (`reason`) of the rows that have it, masked."""
    import polars as pl

    places = table.select("row", "blamed").explode("blamed").unnest("blamed")
    places = places.select("row", "place", reason=pl.col("flaw").cast(pl.String))
    flawed = pl.concat(
        [table.filter(flaw).select("row", reason=pl.lit(flaw)) for flaw in MESSAGE_FLAWS]
    )
    shown = flawed.join(places, on=("row", "reason"), maintain_order="left")
    shown = shown.join(messages, on=("row", "place"), maintain_order="left")
    return _masked(shown.select("row", "place", "role", "content", "reason"), "content")


def _first(messages: "pl.DataFrame", table: "pl.DataFrame") -> "pl.DataFrame":
    """Return the first message, masked, of the rows with a flaw that is the whole row's."""
    import polars as pl

    rows = _rows_with(table, [flaw for flaw in FLAWS if flaw not in MESSAGE_FLAWS])
    first = messages.filter((pl.col("place") == 0) & pl.col("row").is_in(rows.implode()))
    return _masked(first.select("row", pl.col("content").str.head(_HEAD)), "content")


def _rows_with(table: "pl.DataFrame", flaws: Iterable[str]) -> "pl.Series":
    import polars as pl

    return table.filter(pl.any_horizontal(*flaws))["row"]


def _of_whole_row(
    flaw: str, batch: "pl.DataFrame", table: "pl.DataFrame", messages: "pl.DataFrame"
) -> "pl.DataFrame":
    """Say of each row (`row`, `about`) what its head alone does not show."""
    import polars as pl

    if flaw in ("malformed", "oversized_row"):
        return batch.select("row", about="problem")
    if flaw == "roles_out_of_order":
        roles = messages.group_by("row").agg(about=pl.col("role").str.join(" ").str.head(60))
        return roles.with_columns(pl.col("about") + ": ")
    if flaw.startswith("score_"):
        return batch.select(
            "row", about=pl.format("score {}: ", pl.col("score").cast(pl.String).fill_null("none"))
        )
    if flaw.endswith("_duplicate"):
        return table.select("row", about=pl.format("like row {}: ", "duplicate_of"))
    if flaw == "contaminated":
        return table.select("row", about=pl.format("like {}: ", "near_case"))
    return batch.select("row", about=pl.lit(""))


def _around(flaw: str, rules: Rules) -> "pl.Expr":
    """Return the text around what was found, or the message's head where nothing can be pointed at."""
    import polars as pl

    text = pl.col("content")
    patterns = {
        "special_token": _any_of((*rules.control_tokens, *m.FOREIGN_TOKENS))
        + f"|{control_tokens.PATTERN}",
        "invalid_unicode": m.BROKEN,
        "control_character": m.CONTROL,
        "mojibake": f"{m.MOJIBAKE}|{encodings.PATTERN}|{encodings.LOST_ACCENT}",
        "self_identification": f"{_any_of(rules.config.identities)}|(?i:{identities.PATTERN})",
        "next_turn": le.NEXT_TURN,
        "placeholder": le.PLACEHOLDER,
        "error_page": le.BROKEN_OFF,
        "interface_text": le.INTERFACE,
        "escaped_text": le.ESCAPES,
        "encoded_data": le.ENCODED,
        "unclosed_code": r"(?:```|~~~)[^`~]*\z",
        "hidden_text": hidden_text.PATTERN,
        "homoglyph": hidden_text.HOMOGLYPH,
        "personal_details": r"\[(?:birthday|address)\]",
        "secret": r"\[secret\]",
        "email": r"\[e-mail\]",
        "phone_number": r"\[phone number\]",
        **{form.flaw: pl.escape_regex(form.word) for form in FORMS},
        "url": m.URL,
    }
    head = text.str.head(LENGTH)
    if flaw == "unknown_role":
        return pl.concat_str(pl.col("role").fill_null("(none)"), pl.lit(": "), text).str.head(
            LENGTH
        )
    if flaw == "repetition":  # a loop goes to the end
        return text.str.tail(LENGTH)
    if flaw not in patterns:
        return head
    context = text.str.extract(rf"(?s)(.{{0,{_BEFORE}}}(?:{patterns[flaw]}).{{0,{LENGTH}}})")
    return pl.coalesce(context.str.head(LENGTH), head)


def _masked(table: "pl.DataFrame", column: str) -> "pl.DataFrame":
    """Mask a column of texts."""
    return table.with_columns(masking.masked(table[column]).alias(column))


def _any_of(texts: tuple[str, ...]) -> str:
    import polars as pl

    return "(?i:" + "|".join(pl.escape_regex(text) for text in texts) + ")"
