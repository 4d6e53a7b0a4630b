"""What starts runs besides schedules: inputs that have changed, and what other programs report.

Prefect's own server has no address for webhooks of others: what happens elsewhere is looked for
(`retune watch`), or reported by a command (`retune trigger`). Each look has an outcome per recipe, kept
as the artifact `watch-<recipe>` in Prefect.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from prefect import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterTags,
)
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments import run_deployment
from prefect.events import emit_event
from prefect.exceptions import ObjectNotFound

from flows import kept_page
from flows.provenance import TRIGGER
from flows.queue import keep_newest
from flows.run_names import FLOW
from retune.errors import RetuneError
from retune.escaping import markdown
from retune.pinning import UNPINNED, pin_dataset
from retune.recipe import Recipe
from retune.sources import pin
from retune.suites.files import pin_suites
from retune.suites.harness import pin_tasks
from retune.tracking import newest_runs

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse

PINNED = "tags.`retune.pin.dataset` LIKE '_%'"  # of a run that knew its inputs, however it ended
SHORT = 19  # characters of a version that tell it from others: sha256: and 12 digits


class TriggerError(RetuneError):
    """A run that cannot be started: there is no such deployment on the server."""


class TriggerOutcome(NamedTuple):
    """What became of a look at a recipe: `started`, or why no run was; `reason` is one sentence."""

    recipe: str
    outcome: str
    reason: str


def watch(recipes: Mapping[str, Recipe]) -> list[TriggerOutcome]:
    """Look once at what the recipes, by their deployments' names, watch; start the runs that are due."""
    return [
        _shown(_watched(name, recipe))
        for name, recipe in recipes.items()
        if recipe.schedule.triggers
    ]


def trigger(name: str, recipe: Recipe, reason: str, force: bool = False) -> TriggerOutcome:
    """Start a run of a deployment for a reason that another program has, and emit `retune.trigger`.

    As a change does, it waits for the end of the cooldown, and joins a run that waits; unless `force`.
    Raises TriggerError.
    """
    outcome = _shown(_start(name, recipe, newest_runs(recipe, PINNED, 1), reason, force))
    emit_event(
        "retune.trigger",
        {"prefect.resource.id": f"retune.recipe.{recipe.name}"},
        payload={"reason": reason, "outcome": outcome.outcome},
    )
    return outcome


def _watched(name: str, recipe: Recipe) -> TriggerOutcome:
    runs = newest_runs(recipe, PINNED, 1)
    if not runs:
        return TriggerOutcome(
            name, "no run yet", "nothing to compare with: the first run is a person's"
        )
    try:
        causes = list(changes(recipe, runs[0].data.tags))
    except (RetuneError, ConnectionError, TimeoutError) as error:
        return TriggerOutcome(name, "not known", str(error).partition("\n")[0])
    if not causes:
        return TriggerOutcome(name, "unchanged", f"as in {runs[0].info.run_name}")
    return _start(name, recipe, runs, "; ".join(causes))


def changes(recipe: Recipe, tags: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence for each input that a recipe watches and that is another one than a run, whose
    tags these are, had. Raises as `retune.sources.pin` does."""
    for cause in recipe.schedule.triggers:
        now = _versions(recipe, cause)
        then = {key: value for key, value in tags.items() if key in now or _is_of(cause, key)}
        if now != then and UNPINNED not in now.values():
            new, old = (", ".join(v[:SHORT] for v in which.values()) for which in (now, then))
            yield f"{cause}: {new or 'none'} instead of {old or 'none'}"


def _is_of(cause: str, key: str) -> bool:
    return cause == "suites" and key.startswith(("retune.pin.suite.", "retune.pin.task."))


def _versions(recipe: Recipe, cause: str) -> dict[str, str]:
    """Return the versions of what a cause names, by the tags in which runs keep them."""
    if cause == "dataset":
        return {"retune.pin.dataset": pin_dataset(recipe.dataset, copies=False)[0]}
    if cause == "model":
        model = recipe.model
        return {"retune.pin.model": pin(model.base, model.revision, "model", "model.base")}
    tasks = {f"retune.pin.task.{n}": pin.version for n, pin in enumerate(pin_tasks(recipe))}
    suites = enumerate(pin_suites(recipe))
    return {f"retune.pin.suite.{n}": version for n, version in suites} | tasks


def _start(
    name: str, recipe: Recipe, runs: "Sequence[StoredRun]", reason: str, force: bool = False
) -> TriggerOutcome:
    """Start a run, unless one waits already or the last one, of `runs` too, is too recent."""
    with get_client(sync_client=True) as client:
        deployment = _deployment(client, name)
        waiting = keep_newest(client, deployment.id)
        if waiting and not force:
            return TriggerOutcome(name, "waits already", f"{waiting.name} will see it: {reason}")
        until = _cooldown(client, deployment, recipe, runs)
    if until and not force:
        return TriggerOutcome(name, "cooldown", f"until {until:%Y-%m-%d %H:%M} UTC: {reason}")
    schedule = recipe.schedule.model_dump(mode="json") | {"force": True}
    run = run_deployment(
        f"{FLOW}/{name}",
        parameters={"schedule": schedule} if force else {},
        tags=[TRIGGER],
        timeout=0,
        _sync=True,  # type: ignore[call-arg]
    )
    return TriggerOutcome(name, "started", f"{run.name}: {reason}")  # type: ignore[union-attr]


def _deployment(client: "SyncPrefectClient", name: str) -> "DeploymentResponse":
    try:
        return client.read_deployment_by_name(f"{FLOW}/{name}")
    except ObjectNotFound:
        raise TriggerError(
            f"Prefect's server has no deployment {FLOW}/{name}; start `retune ui`, or run "
            f"`prefect deploy --all` for a server of your own"
        ) from None


def _cooldown(
    client: "SyncPrefectClient",
    deployment: "DeploymentResponse",
    recipe: Recipe,
    runs: "Sequence[StoredRun]",
) -> datetime | None:
    """Return when the cooldown after the newest run ends, None if it has ended."""
    begun = [datetime.fromtimestamp(run.info.start_time / 1000, UTC) for run in runs]
    # One that failed before it knew its inputs is in Prefect alone.
    triggered = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id]),
            tags=FlowRunFilterTags(all_=[TRIGGER]),
        ),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=1,
    )
    begun += [run.expected_start_time for run in triggered if run.expected_start_time]
    until = max(begun) + timedelta(hours=recipe.schedule.cooldown_hours) if begun else None
    return until if until and until > datetime.now(UTC) else None


def _shown(outcome: TriggerOutcome) -> TriggerOutcome:
    """Keep an outcome on Prefect's page, if it is another than the last one."""
    kept_page.keep(
        kept_page.key("watch", outcome.recipe),
        f"**{markdown(outcome.outcome)}**: {markdown(outcome.reason)}",
        "The last look for changes",
    )
    return outcome
