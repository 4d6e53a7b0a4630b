"""Scores of conversations by a sequence-classification model: made, found again, and compared."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from pathlib import Path
from typing import TYPE_CHECKING

from retune.child import Event, run_child
from retune.files import digest
from retune.inspection import inspect_model
from retune.recipe import Classifier
from retune.sources import COMMIT, local_path, pin, unchanged
from tasks.validate.scoring_child import SETTING, ScoringJob, among, shards

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

# What makes the shards of a job, of so many rows in all, and tells a person how far it is.
Score = Callable[[ScoringJob, int, Callable[[str], None]], Event]
CHILD = Path(__file__).with_name("scoring_child.py")
SHARD_ROWS = 4096
# By chance alone it is off by 1/sqrt(pairs - 1): 0.19 for 30.
LEAST_FOR_CORRELATION = 30


@dataclass(frozen=True)
class Scored:
    """`scores` has columns `row` (int64) and `score` (float64), in row order.

    `version` is the classifier's: a Hub commit, or `sha256:` of a local folder. The rates (tokens
    without padding) and `precision` (of the encoder) are None when all had been scored before.
    """

    scores: "pl.DataFrame"
    version: str
    precision: str | None
    rows_per_second: float | None
    tokens_per_second: float | None


def score_rows(
    rows: Path,
    numbers: "Sequence[int] | pl.Series",
    config: Classifier,
    folder: Path,
    on_progress: Callable[[str], None] = lambda text: None,
    run: Score | None = None,
) -> Scored:
    """Score the rows `numbers` (values of `row`) of a Parquet file with `row` and `messages`.

    What is scored is the contents of all messages, joined by blank lines and cut to
    `config.max_length` tokens; the score is the model's output as it is. `folder` keeps finished
    shards and the child's log: a call that is repeated does what is missing. Runs may share it, as a
    shard is named after all that decides its scores. `on_progress` gets one sentence now and then.
    `run` scores, by default `score_here`.
    Raises SourceError or ChildRefused for a model that cannot be used, HubUnreachable
    when the Hub does not answer, ChildFailed when the child crashes.
    """
    import numpy as np
    import polars as pl

    ordered = pl.Series(numbers, dtype=pl.Int64).unique().sort()
    config, version = resolved(config)
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        folder / shard.file(version, config.max_length): np.array(shard.numbers)
        for shard in shards(rows, ordered, SHARD_ROWS)
    }
    _require_all(ordered, files, rows)
    missing = [shard_rows for file, shard_rows in files.items() if not file.exists()]
    result: Event = {}
    if missing:
        job = ScoringJob(
            rows=rows.absolute(),
            numbers=np.concatenate(missing).tolist(),
            config=config,
            version=version,
            shard_rows=SHARD_ROWS,
            folder=folder.absolute(),
        )
        with unchanged(config.model, version, f"{SETTING}.model"):
            result = (run or score_here)(job, len(ordered), on_progress)
    return Scored(
        scores=_read(files),
        version=version,
        precision=result.get("precision"),
        rows_per_second=result.get("rows_per_second"),
        tokens_per_second=result.get("tokens_per_second"),
    )


def resolved(config: Classifier) -> tuple[Classifier, str]:
    """Return the configuration with an exact model, and the version that identifies its weights.

    Raises as `retune.sources.pin` does, and ModelRefused for a model that may not be loaded.
    """
    setting = f"{SETTING}.model"
    path = local_path(config.model, setting)
    if path:
        model, version = str(path), pin(str(path), None, "model", setting)
        inspect_model(model, version, setting)
        return config.model_copy(update={"model": model, "revision": None}), version
    commit = config.revision or ""
    if not COMMIT.fullmatch(commit):
        commit = pin(config.model, config.revision, "model", setting)
    inspect_model(config.model, commit, setting)
    return config.model_copy(update={"revision": commit}), commit


def _require_all(ordered: "pl.Series", files: "dict[Path, np.ndarray]", rows: Path) -> None:
    import numpy as np

    present = np.sort(np.concatenate([np.empty(0, np.int64), *files.values()]))
    lost = ordered.filter(~among(ordered.to_numpy(), present))
    assert lost.is_empty(), f"{len(lost)} rows to score are not in {rows}, e.g. row {lost[0]}"


def score_here(job: ScoringJob, total: int, on_progress: Callable[[str], None]) -> Event:
    """Score the rows of a job in a child, and tell of it; `total` counts those scored before as well."""
    before = total - len(job.numbers)
    if before:
        on_progress(f"{before:,} of {total:,} rows were scored before")

    def tell(event: Event) -> None:
        on_progress(
            f"scored {before + event['rows']:,} of {total:,} rows, "
            f"{event['rows_per_second']:,.0f} rows/s, {event['tokens_per_second']:,.0f} tokens/s"
        )

    # Runs that share the folder must not overwrite each other's job, which is next to the log.
    log = job.folder / f"scoring-{digest(job.model_dump(mode='json'))}.log"
    # One thread tokenises 100,000 conversations in a minute or two, a GPU scores them in less.
    hub = job.config.revision is not None
    return run_child(
        CHILD, job, log, tell, {"TOKENIZERS_PARALLELISM": "true"}, hub=hub, forked=True
    )


def _read(files: "Iterable[Path]") -> "pl.DataFrame":
    import polars as pl

    none = pl.DataFrame(schema={"row": pl.Int64, "score": pl.Float64})
    return pl.concat([none, *map(pl.read_parquet, files)]).sort("row")


def agreement(stored: "pl.DataFrame", again: "pl.DataFrame", tolerance: float) -> float:
    """Return the share (0 to 1) of the rows of `again` whose score is within `tolerance` of `stored`.

    Both have columns `row` and `score`. A score that is missing or NaN on either side never agrees;
    where nothing was scored again, nothing disagrees (1.0).
    """
    import polars as pl

    if again.is_empty():
        return 1.0
    pairs = again.join(stored.select("row", stored="score"), on="row", how="left")
    off = (pl.col("score") - pl.col("stored")).abs()
    # polars counts NaN as larger than any number, so it is not within anything; null is not either.
    return pairs.select((off <= tolerance).fill_null(False).mean()).item()


def correlation(stored: "pl.DataFrame", again: "pl.DataFrame") -> float | None:
    """Return the rank correlation (Spearman) of the scores of `again` with those `stored`, -1 to 1.

    Both have columns `row` and `score`. None for fewer than LEAST_FOR_CORRELATION pairs of finite
    scores, or if neither side varies; 0 if only one does.
    """
    import polars as pl

    pairs = again.join(stored.select("row", stored="score"), on="row")
    pairs = pairs.filter(pl.col("score").is_finite() & pl.col("stored").is_finite())
    varied = [pairs[name].n_unique() > 1 for name in ("score", "stored")]
    if len(pairs) < LEAST_FOR_CORRELATION or not any(varied):
        return None
    if not all(varied):
        return 0.0
    return float(pairs.select(pl.corr("score", "stored", method="spearman")).item())


def sample(numbers: "Sequence[int] | pl.Series", count: int, seed: int = 0) -> list[int]:
    """Return `count` of the row numbers (all, if fewer), spread over all of them, in order.

    The choice depends on the seed and each number alone: a larger sample holds the smaller ones.
    """

    def rank(number: int) -> bytes:
        return hashlib.sha256(f"{seed}:{number}".encode()).digest()

    return sorted(nsmallest(count, numbers, key=rank))
