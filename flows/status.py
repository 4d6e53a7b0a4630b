"""`retune status`: how things stand, recipe by recipe, from MLflow's store and the home folder alone.

No Prefect server is asked: what is to notice that one is gone must not need it.
"""

import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pydantic import BaseModel

from expectations.margins import Margin, margins
from expectations.promotion.approval import APPROVED, REJECTED_BY
from expectations.promotion.demands import GATE
from flows.estimate_error import error_of
from flows.recorded import CALIBRATION, REPLAY_OF
from flows.schedules import Due, dues
from flows.summary import Grid
from retune import registry
from retune.home import home
from retune.machine import gpus
from retune.measures import format_bytes
from retune.notes import title_of, verdicts_of, without_gpu
from retune.processes import is_gone
from retune.registry.approvals import answer_of, request_of
from retune.run_log import End, ends
from retune.tracking import DECISION, OUTCOME, PROCESS, client

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun

OPEN = ("", "passed", "waiting")  # outcomes of earlier versions, of which the decision tells more
DATA_GATES = ("fetch", "screen", "validate", "format")  # what is mended in the dataset
RUNS = 12  # of a recipe, shown as marks
LOOKED_AT = 500  # runs of an experiment, children and replays among them
SPENT_DAYS = 30
HANGS_HOURS = 72  # a run that has been open so long is suspected to hang
FREE_SHARE, FREE_BYTES = 0.05, 10e9  # of the disk; below the larger of both it fills
GRACE = timedelta(days=1)  # after which a run that was due is missed, or half its period
MARKS = {
    **dict.fromkeys(("Promoted", "passed", "Finished", "Replayed"), "▲"),
    **dict.fromkeys(("Equivalent", "Undecided", "Registered", "Barred"), "="),
    **dict.fromkeys(("Rejected", "rejected"), "✗"),
    **dict.fromkeys(("Failed", "failed", "Crashed"), "!"),
    **dict.fromkeys(("Cancelled", "Stopped", "stopped"), "⊘"),
    **dict.fromkeys(("Suspended", "AwaitingApproval"), "?"),
    "Skipped": "·",
    "Running": "…",
    "Dead": "†",
}
LEGEND = (
    "Runs, the newest last: ▲ promoted, = no change, ✗ rejected, ! failed, ⊘ cancelled or "
    "interrupted (KILLED in MLflow), · skipped, ? waits for approval, … at work, † lost process."
)
MEANT = (
    "Loss ratio: the tuned model's loss by its base's. KL divergence, perplexity ratio and same next "
    "token: how far the merged model is from the trained one (not at all: 0, 1 and 100%)."
)
SMALLEST = 0.001  # of a value that is told in digits


class RecipeStatus(BaseModel):
    """How one recipe stands. Times are UTC; `margins` are the narrowest three, as lines.

    `to_do` is what a person would do now; `estimate_error` is how far the `estimates` of
    what the last runs would take were off, in the median.
    """

    recipe: str
    marks: str = ""
    last_ending: str = ""
    last_finished: datetime | None = None
    champion: str = ""
    champion_since: datetime | None = None
    margins: list[str] = []
    next_run: datetime | None = None
    gpu_hours: float = 0.0
    cost: float = 0.0
    estimate_error: float | None = None
    estimates: int = 0
    waiting: list[str] = []
    to_do: list[str] = []
    dead: list[str] = []
    problems: list[str] = []


class Status(BaseModel):
    """How things stand. `problems` are what somebody must look at, those of the recipes included."""

    at: datetime
    recipes: list[RecipeStatus]
    free_bytes: int
    disk_bytes: int
    gpus: list[str]
    problems: list[str]

    def grids(self) -> list[Grid]:
        """Return the tables that a person reads."""
        columns = ["recipe", "runs", "serves", "since", "last run", "next run"]
        columns += [f"spent in {SPENT_DAYS} days"]
        columns += ["estimates"] * self._estimated
        rows = [_row(one, self.at)[: len(columns)] for one in self.recipes]
        narrow = [
            [one.recipe if not number else "", line]
            for one in self.recipes
            for number, line in enumerate(one.margins)
        ]
        free = f"{format_bytes(self.free_bytes)} of {format_bytes(self.disk_bytes)} free"
        machine = [["disk", f"{free}, {home()}"], ["GPU", ", ".join(self.gpus) or "none"]]
        to_do = [[one.recipe, words] for one in self.recipes for words in one.to_do]
        return [
            *_some("To look at", [""], [[problem] for problem in self.problems]),
            *_some("To do", ["recipe", ""], to_do),
            Grid(title="Recipes", columns=columns, rows=rows, note=LEGEND),
            *_some(
                "How close the last run that finished came to a limit",
                ["recipe", ""],
                narrow,
                MEANT,
            ),
            Grid(title="Machine", columns=["", ""], rows=machine, sentences=True),
        ]

    @property
    def _estimated(self) -> bool:
        """Whether any recipe has runs whose time was estimated before."""
        return any(one.estimate_error is not None for one in self.recipes)

    @property
    def verdict(self) -> str:
        """How things stand, in a few words."""
        to_do = sum(len(one.to_do) for one in self.recipes)
        parts = [_many(len(self.problems), "to look at"), _many(to_do, "to do")]
        return ", ".join(filter(None, parts)) or "All is well"

    def markdown(self) -> str:
        grids = (grid.markdown() for grid in self.grids())
        return "\n\n".join([f"**{self.verdict}**, {self.at:%Y-%m-%d %H:%M} UTC", *grids])


def status(now: datetime | None = None) -> Status:
    """Return how things stand now. Raises RetuneError if MLflow's store cannot be read."""
    now = now or datetime.now(UTC)
    due, logged = dues(now), ends()
    runs = _runs()
    names = sorted({*runs, *due, *(end.recipe for end in logged)} - {""})
    oldest = min((_began(run) for one in runs.values() for run in one), default=now)
    oldest = min([oldest, *(end.at for end in logged)])
    recipes = [
        _recipe(
            name, runs.get(name, []), [e for e in logged if e.recipe == name], due.get(name), now
        )
        for name in names
    ]
    for one in recipes:
        one.problems += _overdue(one, due.get(one.recipe), oldest, now)
    disk = shutil.disk_usage(home() if home().exists() else home().parent)
    problems = [f"{one.recipe}: {problem}" for one in recipes for problem in one.problems]
    if disk.free < max(FREE_BYTES, FREE_SHARE * disk.total):
        problems.append(
            f"the disk of {home()} fills: {format_bytes(disk.free)} of {format_bytes(disk.total)} are "
            f'free; delete outputs below work/ (see "Cleaning up" in docs/operate.md)'
        )
    return Status(
        at=now,
        recipes=recipes,
        free_bytes=disk.free,
        disk_bytes=disk.total,
        gpus=list(gpus()),
        problems=problems,
    )


def _runs() -> "dict[str, list[MlflowRun]]":
    """Return the recipes' own runs, the newest first, by the recipe's name."""
    by_recipe: dict[str, list[MlflowRun]] = {}
    for experiment in client().search_experiments():
        runs = client().search_runs(
            [experiment.experiment_id],
            max_results=LOOKED_AT,
            order_by=["attributes.start_time DESC"],
        )
        for run in runs:
            name, tags = run.data.params.get("name"), run.data.tags
            if name and not tags.keys() & {"mlflow.parentRunId", CALIBRATION, REPLAY_OF}:
                by_recipe.setdefault(name, []).append(run)
    return by_recipe


def _began(run: "MlflowRun") -> datetime:
    return datetime.fromtimestamp(run.info.start_time / 1000, UTC)


def _ending(run: "MlflowRun") -> str:
    """Return how a run ended, by the name of Prefect's state where that is known."""
    tags = run.data.tags
    if run.info.status == "RUNNING":
        process = tags.get(PROCESS, "")
        return "Dead" if process and is_gone(process) else "Running"
    # What was decided is older than a failure after it.
    decision = tags.get(DECISION, "").partition(":")[0]
    outcome = tags.get(OUTCOME, "")
    if decision and outcome.lower() in OPEN:
        return decision
    return outcome or "stopped"


def _recipe(
    name: str, runs: "Sequence[MlflowRun]", logged: Sequence[End], due: Due | None, now: datetime
) -> RecipeStatus:
    in_mlflow = {run.info.run_id for run in runs}
    marks = [(_began(run), _ending(run)) for run in runs]
    marks += [(end.at, end.ending) for end in logged if end.run_id not in in_mlflow]
    marks.sort()
    finished = [
        datetime.fromtimestamp(run.info.end_time / 1000, UTC)
        for run in runs
        if run.info.status == "FINISHED" and run.info.end_time
    ]
    # A rejection is no silence, and neither is a skip; a crash is, and what somebody cancels.
    finished += [end.at for end in logged if end.ending not in ("Failed", "Crashed", "Cancelled")]
    since = now - timedelta(days=SPENT_DAYS)
    recent = [without_gpu(run) for run in runs if _began(run) >= since]
    error, estimates = error_of([run.data.metrics for run in runs])
    champion, champion_since = _champion(name)
    hanging = [run for run in runs if _ending(run) == "Running"]
    return RecipeStatus(
        recipe=name,
        marks="".join(MARKS.get(ending, "=") for _, ending in marks[-RUNS:]),
        last_ending=marks[-1][1] if marks else "",
        last_finished=max(finished, default=None),
        champion=champion,
        champion_since=champion_since,
        margins=list(_margins([run for run in runs if run.info.status == "FINISHED"][:2])),
        next_run=due.next if due else None,
        gpu_hours=sum(metrics.get("train/gpu_hours", 0) for metrics in recent),
        cost=sum(metrics.get("train/cost", 0) for metrics in recent),
        estimate_error=error,
        estimates=estimates,
        waiting=list(_waiting(name)),
        to_do=[*_waiting(name), *_mending(marks[-1] if marks else None, runs, logged)],
        dead=[run.info.run_name for run in runs if _ending(run) == "Dead"],
        problems=[
            *(f"{run.info.run_name} lost its process" for run in runs if _ending(run) == "Dead"),
            *(
                f"{run.info.run_name} has been at work since {_began(run):%Y-%m-%d %H:%M} UTC"
                for run in hanging
                if now - _began(run) > timedelta(hours=HANGS_HOURS)
            ),
        ],
    )


def _margins(runs: "Sequence[MlflowRun]") -> Iterator[str]:
    """Yield the narrowest margins of the newest run, with what they were in the one before."""
    if not runs:
        return
    before = {one.metric: one for one in _of(runs[1])} if runs[1:] else {}
    for margin in _of(runs[0])[:3]:
        old = before.get(margin.metric)
        trend = "" if old is None else f", {1 - old.room:.0%} in the run before"
        side = "least" if margin.setting.rpartition(".")[2].startswith("min_") else "most"
        value = "under 0.001" if 0 < margin.value < SMALLEST else f"{margin.value:.3g}"
        yield (
            f"{_words(margin.metric)} {value}, may be at {side} {margin.limit:g} ({margin.setting}): "
            f"{1 - margin.room:.0%} of the way to the limit is used{trend}"
        )


def _of(run: "MlflowRun") -> list[Margin]:
    return margins(run.data.metrics, run.data.params)


def _words(metric: str) -> str:
    try:
        return title_of(metric)
    except KeyError:
        return metric.partition("/")[2].replace("_", " ")


def _champion(name: str) -> tuple[str, datetime | None]:
    serving = registry.serving(name)
    if serving is None:
        return "", None
    log = registry.history(name)
    entry = registry.who_served(log, log[-1].at) if log else None
    return str(serving.number), entry.at if entry else None


def _waiting(name: str) -> Iterator[str]:
    for version in registry.versions(name):
        request = request_of(version)
        if request and not request.has_expired() and not answer_of(version, request.champion):
            yield (
                f"{version} waits: `retune approve {version}` or `retune reject`, or Resume in "
                f"the menu of its run's page, until {request.expires:%Y-%m-%d %H:%M} UTC (what was "
                f"answered there counts once its run goes on)"
            )


def _mending(
    last: tuple[datetime, str] | None, runs: "Sequence[MlflowRun]", logged: Sequence[End]
) -> Iterator[str]:
    """Yield what a person would do about the last run, if it was rejected or failed."""
    if last is None:
        return
    at, ending = last
    if ending.lower() not in ("rejected", "failed"):
        return
    run = next((run for run in runs if _began(run) == at), None)
    decision = run.data.tags.get(DECISION, "") if run else ""
    if APPROVED in decision or decision.startswith(REJECTED_BY):
        return  # a person has decided, or let it be
    name = str(run.info.run_name) if run else f"the run that ended {at:%Y-%m-%d %H:%M} UTC"
    of_run = [end for end in logged if (run and end.run_id == run.info.run_id) or end.at == at]
    why = f" ({of_run[-1].reason})" if of_run and of_run[-1].reason else ""
    mend = _mend(run) if run and ending.lower() == "rejected" else "its page `summary` says how"
    yield f"{name} {'was ' * (ending.lower() == 'rejected')}{ending.lower()}{why}: {mend}"


def _mend(run: "MlflowRun") -> str:
    """Return what would let a rejected run pass: by the settings of what failed."""
    failed = [one for one in verdicts_of(run.info.run_id) if one["result"] == "FAILED"]
    settings = dict.fromkeys(one["setting"] for one in failed if one["setting"])
    change = f"change {' and '.join(settings)}" if settings else "see its page `summary`"
    if any(one["gate"] in DATA_GATES for one in failed):
        return f"repair {run.data.params.get('dataset.source', 'the dataset')}, or {change}"
    if any(one["gate"] == GATE for one in failed):  # to loosen the rule is the last thing to do
        return "nothing, if the reasons are right: what serves goes on; else mend the rows or the recipe"
    return change


def _overdue(one: RecipeStatus, due: Due | None, oldest: datetime, now: datetime) -> Iterator[str]:
    """Yield that a scheduled recipe had no finished run in its period."""
    if due is None:
        return
    latest = one.last_finished or oldest  # a store that is younger than the period misses nothing
    allowed = due.period + min(GRACE, due.period / 2)
    if now - latest > allowed:
        since = f"since {latest:%Y-%m-%d %H:%M} UTC" if one.last_finished else "ever"
        yield (
            f"no run has finished {since}, and one is due every {_age(due.period)}: see that Prefect's "
            f"server and its worker run, and how the last run ended"
        )


def _row(one: RecipeStatus, now: datetime) -> list[str]:
    spent = [f"{one.gpu_hours:.2f} GPU-h"] + ([f"{one.cost:,.2f}"] if one.cost else [])
    return [
        one.recipe,
        one.marks,
        f"version {one.champion}" if one.champion else "none yet",
        _age(now - one.champion_since) if one.champion_since else "",
        one.last_ending,
        f"{one.next_run:%m-%d %H:%M} UTC" if one.next_run else "by hand",
        ", ".join(spent),
        ""
        if one.estimate_error is None
        else f"{one.estimate_error:.0%} off, the median of {one.estimates} runs",
    ]


def _age(span: timedelta) -> str:
    hours = span.total_seconds() / 3600
    return f"{hours / 24:.0f} d" if hours >= 48 else f"{hours:.0f} h" if hours >= 1 else "<1 h"


def _some(heading: str, columns: list[str], rows: list[list[str]], note: str = "") -> list[Grid]:
    return (
        [Grid(title=heading, columns=columns, rows=rows, note=note, sentences=True)] if rows else []
    )


def _many(number: int, what: str) -> str:
    return f"{number} thing{'s' * (number != 1)} {what}" if number else ""
