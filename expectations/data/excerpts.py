"""What to show of a flawed row: the place that is to blame, without secrets."""

from typing import TYPE_CHECKING

from expectations.data import masking
from expectations.data import messages as m
from expectations.data.messages import MESSAGE_FLAWS, Rules, explode, judge_messages
from expectations.data.personal import FORMS
from retune.recipe.flaws import FLAWS

if TYPE_CHECKING:
    import polars as pl

LENGTH = 120  # characters
_BEFORE = 40  # characters before what was found


def excerpts(batch: "pl.DataFrame", table: "pl.DataFrame", rules: Rules) -> "pl.DataFrame":
    """Return for every flaw of the rows in `batch` what shows it: `row`, `reason`, `place` (of the
    message, from 0; null when it is about the whole row) and `excerpt` (up to LENGTH characters).

    `table` holds the same rows' lines of the feature table. Secrets and what belongs to a person are
    masked, also in roles and problems, before anything is cut to length: excerpts go to logs and
    other people's screens.
    """
    import polars as pl

    judged = judge_messages(explode(batch), rules)
    judged = _masked(judged, "role")
    batch = _masked(batch, "problem")
    first = _masked(judged.filter(pl.col("place") == 0), "content")
    tables = []
    for flaw in FLAWS:
        rows = table.filter(pl.col(flaw)).select("row")
        if rows.is_empty():
            continue
        if flaw in MESSAGE_FLAWS:
            blamed = judged.filter(pl.col(flaw)).unique("row", keep="first", maintain_order=True)
            examples = _masked(rows.join(blamed, on="row"), "content").select(
                "row", pl.col("place").cast(pl.Int64), excerpt=_around(flaw, rules)
            )
        else:
            whole_rows = rows.join(_of_whole_row(flaw, batch, table, judged), on="row", how="left")
            heads = whole_rows.join(first.select("row", "content"), on="row", how="left")
            text = pl.concat_str(pl.col("about").fill_null(""), pl.col("content").fill_null(""))
            examples = heads.select(
                "row", place=pl.lit(None, pl.Int64), excerpt=text.str.head(LENGTH)
            )
        tables.append(examples.with_columns(reason=pl.lit(flaw)))
    schema = {"row": pl.Int64, "place": pl.Int64, "excerpt": pl.String, "reason": pl.String}
    return pl.concat([pl.DataFrame(schema=schema), *tables]).sort("row", maintain_order=True)


def _of_whole_row(
    flaw: str, batch: "pl.DataFrame", table: "pl.DataFrame", judged: "pl.DataFrame"
) -> "pl.DataFrame":
    """Say of each row (`row`, `about`) what its head alone does not show."""
    import polars as pl

    if flaw in ("malformed", "oversized_row"):
        return batch.select("row", about="problem")
    if flaw == "roles_out_of_order":
        roles = judged.group_by("row").agg(about=pl.col("role").str.join(" ").str.head(60))
        return roles.with_columns(pl.col("about") + ": ")
    if flaw.startswith("score_"):
        return batch.select(
            "row", about=pl.format("score {}: ", pl.col("score").cast(pl.String).fill_null("none"))
        )
    if flaw.endswith("_duplicate"):
        return table.select("row", about=pl.format("like row {}: ", "duplicate_of"))
    return batch.select("row", about=pl.lit(""))


def _around(flaw: str, rules: Rules) -> "pl.Expr":
    """Return the text around what was found, or the message's head where nothing can be pointed at."""
    import polars as pl

    text = pl.col("content")
    patterns = {
        "special_token": _any_of((*rules.control_tokens, *m.FOREIGN_TOKENS)),
        "invalid_unicode": m.BROKEN,
        "control_character": m.CONTROL,
        "mojibake": m.MOJIBAKE,
        "self_identification": _any_of(rules.config.identities),
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
