"""How people name a run: its id, its name, a version or an alias of its recipe, or `latest`."""

import re
from typing import TYPE_CHECKING

from retune.registry.versions import NAME, RegistryError, aliased, require, version
from retune.tracking import client, exists

if TYPE_CHECKING:
    from mlflow.entities import Run as Stored

LATEST = "latest"
FORMS = "a run's id or name, RECIPE@champion, RECIPE/3, RECIPE@latest or latest"


def find(reference: str) -> str:
    """Return the id of the MLflow run that `reference` names.

    That is a run's id or the start of one (8 hex digits or more), a run's name (the newest of that
    name), `RECIPE@champion` or another alias, `RECIPE/3`, `RECIPE@latest` (the recipe's newest run) or
    `latest` (the newest of all). Children of runs are not meant. Raises RegistryError.
    """
    if match := re.fullmatch(rf"({NAME.pattern})/(\d+)", reference):
        return version(match[1], int(match[2])).run_id
    if match := re.fullmatch(rf"({NAME.pattern})@([\w.-]+)", reference):
        return _of_alias(match[1], match[2])
    if reference == LATEST:
        return _newest("")
    return _by_id(reference) or _by_name(reference)


def _of_alias(name: str, alias: str) -> str:
    if alias == LATEST:
        return _newest(f"params.`name` = '{name}'", f"of the recipe {name!r}")
    model = require(name)
    if named := aliased(name, alias):
        return named.run_id
    there = ", ".join(sorted(model.aliases)) or "none"
    raise RegistryError(f"{name} has no alias {alias!r:.80} (there: {there}); name one of these")


def _by_id(reference: str) -> str | None:
    if not re.fullmatch(r"[0-9a-f]{8,32}", reference):
        return None
    runs = _search(f"attributes.run_id LIKE '{reference}%'")
    ids = sorted({run.info.run_id for run in runs})
    if len(ids) > 1:
        raise RegistryError(f"{reference} begins {len(ids)} runs' ids; give more of its digits")
    return ids[0] if ids else None


def _by_name(reference: str) -> str:
    # MLflow's filter language has no escapes: a name with both kinds of quotes cannot be asked for.
    quote = next((mark for mark in "'\"" if mark not in reference), None)
    if quote is None:
        raise RegistryError(f"no run {reference!r:.110} can be looked for by name; give its id")
    return _newest(f"attributes.run_name = {quote}{reference}{quote}", repr(reference)[:110])


def _newest(condition: str, words: str = "") -> str:
    if runs := _search(condition):
        return runs[0].info.run_id
    raise RegistryError(f"no run {words} in MLflow".replace("  ", " ") + f"; give {FORMS}")


def _search(condition: str) -> "list[Stored]":
    """Return runs that are nobody's children, the newest first."""
    if not exists():
        return []
    experiments = [one.experiment_id for one in client().search_experiments(max_results=1000)]
    runs: list[Stored] = []
    token = None
    while not runs:
        page = client().search_runs(
            experiments,
            condition,
            max_results=200,
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        runs = [run for run in page if "mlflow.parentRunId" not in run.data.tags]
        token = page.token
        if not token:
            break
    return runs
