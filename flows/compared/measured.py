"""What differs between two runs in their measures, their trainings' curves and their files."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from expectations.promotion.contest import NotCalibrated, PairedDifference, contest, shown_metric
from flows.compared.evidence import RunEvidence
from flows.compared.records import Curve, FileChange, MetricChange
from retune.measures import measure, title
from retune.notes import without_gpu
from retune.outcomes import TUNED, grades_of, of_side
from retune.recipe import Promotion
from retune.tracking import client

if TYPE_CHECKING:
    import polars as pl

CURVES = ("train/loss", "train/held_out_loss", "train/grad_norm")
TOKENS = "train/tokens"
POINTS = 400  # of a curve; more cannot be seen
# What a run is judged by as a whole; of single examples the differences tell more.
METRICS = (
    *("validate/rows", "validate/accepted", "validate/quarantined", "format/rows/train"),
    *("format/rows/held_out", "format/tokens/total", "train/steps", "train/total_tokens"),
    *("train/final_loss", "train/final_held_out_loss", "train/median_tokens_per_second"),
    *("train/peak_memory_gib", "train/seconds", "train/gpu_hours", "train/cost"),
    *("evaluate/loss/base", "evaluate/loss/tuned", "evaluate/exact_match/base"),
    *("evaluate/exact_match/tuned", "evaluate/stopped/tuned", "evaluate/repetitive/tuned"),
    "merge/kl_divergence",
)


def differences(
    older: "pl.DataFrame", newer: "pl.DataFrame", rule: Promotion | None
) -> tuple[PairedDifference, ...]:
    """Return what the newer run's model gains over the older one's, with intervals; both are tables of
    outcomes. The margins are the `rule`'s, or the default ones."""
    candidate, opponent = (grades_of(of_side(outcomes, TUNED)) for outcomes in (newer, older))
    try:
        found = contest(candidate, opponent, rule or Promotion(), {})
    except NotCalibrated:  # of margins alone, by which nothing is judged here
        found = contest(candidate, opponent, Promotion(), {})
    return tuple(
        one.model_copy(update={"metric": shown_metric(one.metric)}) for one in found if one.examples
    )


def metrics(older: RunEvidence, newer: RunEvidence) -> list[MetricChange]:
    """Return the measures that either run has."""
    before, after = without_gpu(older.run), without_gpu(newer.run)
    return [
        MetricChange(
            name=name,
            title=_title(name),
            older=before.get(name),
            newer=after.get(name),
            better=_better(name, before.get(name), after.get(name)),
        )
        for name in METRICS
        if name in before or name in after
    ]


def _title(name: str) -> str:
    stage, _, metric = name.partition("/")
    words = title(metric)
    if name == "merge/kl_divergence":  # that of a GGUF file is from the merged model
        return f"{words} of the merged model from base and adapter"
    return f"{stage}: {words}" if metric in ("rows", "seconds", "cost") else words


def _better(
    name: str, before: float | None, after: float | None
) -> Literal["newer", "older", "neither"] | None:
    better = measure(name.partition("/")[2]).better
    if better is None or before is None or after is None:
        return None
    number = measure(name.partition("/")[2]).number
    if number(before) == number(after):  # nobody sees a difference
        return "neither"
    return "newer" if (after < before) == (better == "lower") else "older"


def curves(older: RunEvidence, newer: RunEvidence) -> list[Curve]:
    """Return how the trainings went, over the tokens trained on if both runs say so, else over steps."""
    histories = {"older": _histories(older), "newer": _histories(newer)}
    by_tokens = all(of[TOKENS] for of in histories.values())
    return [
        curve
        for name in CURVES
        for run in ("older", "newer")
        for curve in _curve(name, run, histories[run], by_tokens)
    ]


def _curve(
    name: str,
    run: Literal["older", "newer"],
    histories: Mapping[str, Mapping[int, float]],
    by_tokens: bool,
) -> Iterator[Curve]:
    values, tokens = histories[name], histories[TOKENS]
    steps = [step for step in sorted(values) if not by_tokens or step in tokens]
    if len(steps) < 2:
        return
    steps = _thinned(steps)
    yield Curve(
        name=name,
        run=run,
        tokens=[tokens[step] if by_tokens else step for step in steps],
        values=[values[step] for step in steps],
        over="tokens" if by_tokens else "steps",
    )


def _thinned(steps: list[int]) -> list[int]:
    """Return at most about POINTS of the steps, the last one included."""
    every = len(steps) // POINTS + 1
    return [*steps[:-1:every], steps[-1]]


def _histories(evidence: RunEvidence) -> dict[str, dict[int, float]]:
    run_id = evidence.run.info.run_id
    return {
        name: {
            entry.step: entry.value
            for entry in client().get_metric_history(run_id, name)
            if entry.step  # the first is of the stage as a whole
        }
        if name in evidence.run.data.metrics
        else {}
        for name in (*CURVES, TOKENS)
    }


def files(older: RunEvidence, newer: RunEvidence) -> list[FileChange]:
    """Return the GGUF files of both by their methods, the smallest first."""
    before, after = (_by_method(of.files) for of in (older, newer))
    lines = [
        FileChange(
            method=method,
            **_facts("older", before.get(method, {})),
            **_facts("newer", after.get(method, {})),
            identical=method in before
            and before[method].get("sha256") == after.get(method, {}).get("sha256"),
        )
        for method in {**before, **after}
    ]
    return sorted(lines, key=lambda line: line.newer_bytes or line.older_bytes or 0)


def _by_method(files: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {file["method"]: file for file in files}


def _facts(run: str, file: Mapping[str, Any]) -> dict[str, Any]:
    names = ("bytes", "kl_divergence", "exact_match", "ships")
    return {f"{run}_{name}": file.get(name) for name in names}
