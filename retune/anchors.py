"""The anchor: the rows that a champion was judged by, which its successors are judged by as well.

The held-out rows of a dataset that was poisoned are poisoned, too: on them a model that learnt the poison
looks better than one that did not. So a candidate also meets rows that it did not bring. They go from
champion to champion, and slow drift is kept out of them by five rules:

- A question keeps the answer that it came with, whatever later datasets say: what changes a few answers a
  night finds the first ones here.
- The loss to be held is that of the best champion so far, not that of the last: else each could be worse
  than the one before by what nobody can tell apart.
- What the champion lacks to that best one goes along (`behind`): after an upgrade of torch, transformers
  or peft the champion is measured anew, and the best one's loss is taken to be as far from it as before.
  Else every upgrade would forgive what it lacks.
- Beyond `evaluation.loss_rows` a sample by a hash of the question stays: if the newest came first, new
  rows would push the old ones out. The hash has a salt that no dataset knows: else somebody could write
  questions that stay.
- A row leaves when its question is no longer in the dataset of a new champion, which may be a window of
  time: nobody is to be held forever to what is not asked any more.

A candidate that only a person may promote begins it anew, by its own rows. One that is promoted without
a person never does, also where the recipe only warns of the anchor: it hands on the rows that it met.
"""

import hashlib
import json
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, NamedTuple

from retune.errors import RetuneError
from retune.escaping import visible
from retune.files import digest, sha256
from retune.held_out import held_out_rows
from retune.outcomes import HELD_OUT, LOSS, TUNED, averaged, example_name, of_side, read_grades
from retune.outputs import here
from retune.questions import answered, asked, first_question
from retune.recipe import Recipe
from retune.records import AnchorFile, Champion, Chats
from retune.temporary import temporary_folder
from retune.tracking import client, download
from retune.version import installed

if TYPE_CHECKING:
    import polars as pl

FILE = "anchor.parquet"
ARTIFACT = f"anchor/{FILE}"  # of a run: the rows that the successors of its candidate are judged by
KEY = "asked"  # the column that tells rows apart
ENGINE = ("torch", "transformers", "peft")  # packages whose versions a loss depends on
SALT_BYTES = 16
LONGEST_REASON = 200  # characters of an error that a sentence quotes


class AnchorGone(RetuneError):
    """There is no anchor; the message is a sentence that says why."""


class Measuring(NamedTuple):
    """By what a loss was taken, in three digests: the `rendering` of messages as tokens, the `limits`
    that cut and choose these, and the `engine`, of which another differs by rounding alone."""

    rendering: str
    limits: str
    engine: str


def measuring(recipe: Recipe, tokenizer: Path) -> Measuring:
    """Return by what a run takes losses; `tokenizer` is the folder of its tokenizer."""
    limits = [recipe.model.max_length, recipe.training.train_on]
    return Measuring(rendering(tokenizer), digest(limits), digest(engine()))


def engine() -> dict[str, str]:
    """Return the versions of the packages that a loss depends on, by their names."""
    return {name: installed(name) for name in ENGINE}


def rendering(tokenizer: Path) -> str:
    """Return what tells the tokens of a conversation from another tokenizer's or chat template's; how
    they are padded and cut is no part of it."""
    told = _json(tokenizer / "tokenizer.json")
    template = tokenizer / "chat_template.jinja"
    if template.is_file():
        words: object = template.read_text(encoding="utf-8")
    else:
        words = _json(tokenizer / "tokenizer_config.json").get("chat_template")
    return digest(
        [
            {name: part for name, part in told.items() if name not in ("padding", "truncation")},
            words,
        ]
    )


def own_rows(
    held_out: Path, outcomes: Path | None, limit: int, measured: Measuring
) -> "pl.DataFrame":
    """Return the rows that a candidate was judged by: the first `limit` of `held_out` (Parquet), with its
    losses in `outcomes`, null where there are none.

    Columns: `source`, `messages`, `input_ids`, `unlearned`, the keys `first`, `asked` and `answered` (see
    `retune.questions`), `loss` (nats per token), by how much the candidate is worse than that, `behind`,
    which is 0, `tokens`, the three of Measuring, and a new `salt`.
    """
    import polars as pl

    table = pl.scan_parquet(held_out).head(limit).collect()
    if "unlearned" not in table.columns:  # of before there were any
        table = table.with_columns(unlearned=pl.lit([], dtype=pl.List(pl.Int32)))
    said = [messages for _, messages in held_out_rows(held_out, limit)]
    message = pl.Struct({"role": pl.String, "content": pl.String})
    rows = table.select(
        "source",
        pl.Series("messages", said, dtype=pl.List(message)),
        pl.col("input_ids", "unlearned").cast(pl.List(pl.Int32)),
        example=pl.Series([example_name(one, LOSS) for one in said], dtype=pl.String),
    ).with_columns(first=first_question(), asked=asked(), answered=answered())
    rows = rows.join(_losses(outcomes), on="example", how="left", maintain_order="left")
    if outcomes:  # a row without a token to be learnt has no loss
        rows = rows.filter(pl.col("loss").is_not_null())
    rows = rows.drop("example")
    marks = {name: pl.lit(value) for name, value in measured._asdict().items()}
    marks |= {"behind": pl.lit(0.0), "salt": pl.lit(token_hex(SALT_BYTES))}
    return rows.with_columns(**marks).unique(KEY, keep="first", maintain_order=True)


def carried_on(rows: "pl.DataFrame", own: "pl.DataFrame", limit: int) -> "pl.DataFrame":
    """Return the anchor of a candidate that has passed the former one: these `rows` of it as they are,
    and its `own` of other questions; of more than `limit` a sample that depends on the questions."""
    import polars as pl

    fresh = own.join(rows, on=KEY, how="anti", maintain_order="left")
    salt = rows["salt"].first() or own["salt"].first()
    both = pl.concat([rows.select(own.columns), fresh]).with_columns(salt=pl.lit(salt))
    return _sampled(both, limit)


def _sampled(rows: "pl.DataFrame", limit: int) -> "pl.DataFrame":
    """Return at most `limit` of the rows, which depend on their questions and the salt alone."""
    import polars as pl

    places = [
        hashlib.blake2b(text.encode(), key=bytes.fromhex(salt)).hexdigest()
        for text, salt in rows.select(KEY, "salt").iter_rows()
    ]
    return rows.with_columns(place=pl.Series(places)).sort("place").head(limit).drop("place")


def beside(rows: "pl.DataFrame", chats: Chats) -> "pl.DataFrame":
    """Return anchor rows with what another dataset says of their questions: `leaked` tells whether the
    first question is among its training rows, `occurs` whether it has the question at all, and `now` is
    the answer that it has instead, null where it has this one or none."""
    import polars as pl

    train, held_out = (_alike(file, rows) for file in (chats.train, chats.held_out))
    trained = train.select("first").unique()
    known = (
        pl.concat([train, held_out])
        .join(rows.lazy().select(KEY).unique(), on=KEY, how="semi")
        .group_by(KEY)
        .agg(answers=pl.col("answered").unique().sort())
    )
    is_kept = pl.col("answers").list.contains(pl.col("answered"))
    return (
        rows.lazy()
        .join(trained.with_columns(leaked=True), on="first", how="left", maintain_order="left")
        .join(known, on=KEY, how="left", maintain_order="left")
        .with_columns(
            leaked=pl.col("leaked").fill_null(False),
            occurs=pl.col("answers").is_not_null(),
            now=pl.when(~is_kept).then(pl.col("answers").list.first()),
        )
        .drop("answers")
        .collect(engine="streaming")
    )


def recalled(champion: Champion, limit: int) -> "pl.DataFrame":
    """Return the champion's anchor, from MLflow; of a version of before they were kept, from what its
    run left here.

    Raises AnchorGone, also for one that is damaged or cannot be had: the champion's own rows are no
    anchor that went from champion to champion, and nobody would see that they took its place.
    """
    if champion.anchor is None:
        try:
            return _rebuilt(champion, limit)
        except AnchorGone as gone:
            without = f"version {champion.version} was registered without any"
            raise AnchorGone(f"{without}; and {gone}") from gone
    return _kept(champion.anchor, limit)


def written(rows: "pl.DataFrame", path: Path, run_id: str) -> AnchorFile:
    """Write anchor rows to `path`, which is an artifact of the run from then on."""
    rows.write_parquet(path)
    return AnchorFile(run_id=run_id, sha256=sha256(path), rows=len(rows))


def _kept(anchor: AnchorFile, limit: int) -> "pl.DataFrame":
    import polars as pl
    from mlflow.exceptions import MlflowException

    place = f"{ARTIFACT} of the MLflow run {anchor.run_id}"
    with temporary_folder() as folder:
        try:
            file = download(anchor.run_id, ARTIFACT, folder)
        except (MlflowException, OSError) as error:
            reason = f"{type(error).__name__}: {visible(str(error), LONGEST_REASON)}"
            raise AnchorGone(f"{place} cannot be read ({reason})") from error
        if file is None:
            raise AnchorGone(f"{place} is not there any more")
        if sha256(file) != anchor.sha256:
            raise AnchorGone(f"{place} is not what was kept there: its sha256 is another")
        return _completed(pl.read_parquet(file)).head(limit)


def _completed(rows: "pl.DataFrame") -> "pl.DataFrame":
    """Return rows that an earlier retune kept with the columns that it did not know."""
    import polars as pl

    later = {"behind": pl.lit(0.0), "salt": pl.lit(token_hex(SALT_BYTES))}
    return rows.with_columns(**{k: v for k, v in later.items() if k not in rows.columns})


def _rebuilt(champion: Champion, limit: int) -> "pl.DataFrame":
    from mlflow.exceptions import MlflowException

    try:
        tags = client().get_run(champion.run_id).data.tags
    except MlflowException:
        raise AnchorGone(f"its run {champion.run_id} is not in MLflow") from None
    folder = here(f"format/{tags.get('retune.step.format', 'none')}")
    held_out = folder / "held_out.parquet"
    if not held_out.is_file():
        raise AnchorGone(f"its held-out rows are not in {folder}")
    unknown = Measuring(rendering(folder / "tokenizer"), "", "")
    return own_rows(held_out, None, limit, unknown)


def _alike(file: Path, rows: "pl.DataFrame") -> "pl.LazyFrame":
    """Return the keys of a file's conversations that begin as one of the rows does."""
    import polars as pl

    firsts = rows.lazy().select("first").unique()
    conversations = pl.scan_parquet(file).select("messages", first=first_question())
    keys = {KEY: asked(), "answered": answered()}
    return conversations.join(firsts, on="first", how="semi").select("first", **keys)


def _losses(outcomes: Path | None) -> "pl.DataFrame":
    import polars as pl

    columns = {"example": pl.String, "loss": pl.Float64, "tokens": pl.Int64}
    if outcomes is None:
        return pl.DataFrame(schema=columns)
    grades = averaged(of_side(read_grades(outcomes), TUNED))
    return grades.filter(pl.col("suite") == HELD_OUT, pl.col("scorer") == LOSS).select(
        "example", loss="value", tokens=pl.col("weight").cast(pl.Int64)
    )


def _json(file: Path) -> dict[str, object]:
    try:
        told: dict[str, object] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told
