"""The commands of the registry: which version serves, which did, and who decides.

They need neither a GPU nor the network beyond MLflow's store, and are done in seconds.
"""

import json
import re
import socket
import sys
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retune.errors import RetuneError
from retune.escaping import visible

if TYPE_CHECKING:
    from types import ModuleType

    from rich.table import Table

    from retune.registry import PromotionEntry, RegisteredVersion
    from retune.registry.approvals import Request, Verb

Name = Annotated[
    str, typer.Argument(metavar="RECIPE", help="Name of a recipe, or its recipe.yaml.")
]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="Id or name of a run, RECIPE@challenger, or RECIPE/3.")
]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is kept in the promotion log.")]
WithoutFiles = Annotated[
    bool,
    typer.Option("--without-files", help="Go on though its files are not on this machine."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class NotADate(RetuneError):
    """A date that cannot be read."""


def promote(
    recipe: Name,
    version: Annotated[int, typer.Argument(help="Number of the version, as MLflow shows it.")],
    reason: Reason = "by hand",
    unbar: Annotated[
        bool, typer.Option("--unbar", help="Let a version serve again that was rolled back.")
    ] = False,
    without_files: WithoutFiles = False,
) -> None:
    """Let a version of a recipe's model serve, whatever its evidence."""
    registry = _prepared()
    name = _name(recipe)
    chosen = registry.version(name, version)
    _require_files(chosen, without_files)
    serving = registry.serving(name)
    entry = registry.promote(
        name, version, who(), reason, {}, serving and serving.number, unbar=unbar
    )
    _tell(entry, chosen)


def rollback(
    recipe: Name,
    to: Annotated[
        int | None, typer.Option(help="Number of the version; empty: the one that served before.")
    ] = None,
    reason: Reason = "rolled back by hand",
    without_files: WithoutFiles = False,
) -> None:
    """Let an earlier version serve again, and bar the one that is left from being promoted again."""
    registry = _prepared()
    name = _name(recipe)
    target = registry.target(name, registry.history(name), to)
    _require_files(target, without_files)
    entry = registry.rollback(name, target.number, who(), reason)
    _tell(entry, target)
    print(
        f"{name}/{entry.former} is barred: no run promotes it again; `retune promote {name} "
        f"{entry.former} --unbar` lifts that."
    )


def history(recipe: Name, as_json: AsJson = False) -> None:
    """Show the promotion log of a recipe: who decided what, when and why."""
    registry = _prepared()
    name = _name(recipe)
    log = registry.history(name)
    if as_json:
        print(json.dumps([entry.model_dump(mode="json") for entry in log], indent=1))
        return
    if not log:
        print(f"No version of {name} has served yet.")
        return
    from rich import print as show

    show(_table(log))


def who_served(
    date: Annotated[
        str,
        typer.Argument(
            help="A date (all that served on that day), or a date and time; UTC unless it says."
        ),
    ],
    recipe: Annotated[
        str | None, typer.Argument(metavar="[RECIPE]", help="Name of a recipe; empty: of all.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show which version of a recipe's model served on a date."""
    start, end = _span(date)
    registry = _prepared()
    names = [_name(recipe)] if recipe else registry.names()
    served = {name: _served(registry.history(name), start, end) for name in names}
    if as_json:
        print(
            json.dumps(
                {
                    name: [entry.model_dump(mode="json") for entry in entries]
                    for name, entries in served.items()
                },
                indent=1,
            )
        )
        return
    for name, entries in served.items():
        for entry in entries:
            print(
                f"{name}/{entry.serving} since {entry.at:%Y-%m-%d %H:%M} UTC, by {visible(entry.by)}: "
                f"{visible(entry.reason)} (MLflow run {entry.run_id})"
            )
        if not entries:
            print(f"{name}: no version served then")
    if not served:
        print("No recipe has a registered model yet.")


def approve(run: RunName, reason: Reason = "") -> None:
    """Approve a candidate that waits for it (promotion.mode=approve): it serves from then on."""
    _answer(run, "approve", reason)


def reject(run: RunName, reason: Reason = "") -> None:
    """Reject a candidate that waits for an approval."""
    _answer(run, "reject", reason)


def _prepared() -> "ModuleType":
    """Return the registry, once MLflow and Prefect are pointed at the home folder."""
    from flows import local

    local.configure()
    from retune import registry

    return registry


def _name(recipe: str) -> str:
    if Path(recipe).suffix in (".yaml", ".yml"):
        from flows.recipes import load

        return load(recipe, []).name
    return recipe


def who() -> str:
    from retune.machine import user_name

    return f"{user_name() or 'somebody'} on {socket.gethostname()}"


def _require_files(version: "RegisteredVersion", without_files: bool) -> None:
    """Raise FilesGone if this machine serves and could not serve `version`."""
    from retune import serving

    if serving.serves_here(version.name) and not without_files:
        serving.require_files(version)


def _tell(entry: "PromotionEntry", version: "RegisteredVersion") -> None:
    """Print what serves, and let everything follow that goes with it."""
    from flows import in_service, local
    from retune import registry

    print(f"{version} serves{entry.instead}: entry {entry.number} of the log.")
    version = registry.version(version.name, version.number)
    newest = registry.versions(version.name)[-1]
    for failure in in_service.follow(entry, version, in_service.news_of(newest), {}):
        print(f"retune: {visible(failure)}", file=sys.stderr)
    if local.api_address():
        _show(version.name)


def _show(name: str) -> None:
    """Renew Prefect's page of what serves, if its server answers."""
    import httpx

    from flows import in_service, local

    local.quieten()  # Prefect tells what it still sends when the command ends
    try:
        in_service.show(name)
    except (httpx.HTTPError, RuntimeError, OSError) as error:
        print(f"retune: Prefect's page was not renewed ({type(error).__name__})", file=sys.stderr)


def _answer(run: str, verb: "Verb", reason: str) -> None:
    registry = _prepared()
    from flows.promotion import decided_later
    from retune.registry import approvals
    from retune.registry.candidates import REGISTERED_AS
    from retune.tracking import REJECTED, client

    registered = run if re.fullmatch(r".+/\d+", run) else ""  # its own run may have been deleted
    if not registered:
        run_id = registry.find(run)
        registered = client().get_run(run_id).data.tags.get(REGISTERED_AS, "")
        if not registered:
            raise registry.RegistryError(f"the run {run_id} made no candidate; name one that did")
    name, _, number = registered.rpartition("/")
    version = registry.version(name, int(number))
    request = approvals.request_of(version)
    if request and request.flow_run_id:
        _require_prefect(request)
    elif verb == "approve":
        _require_files(version, without_files=False)
    word = {"approve": "approved", "reject": "rejected"}[verb]
    said, request, _ = approvals.answer(version, verb, who(), reason or f"{word} by hand")
    print(f"{version}: {word} by {said.by}.")
    if request.flow_run_id and _resume(request, verb, reason):
        print("Its flow run goes on.")
    elif verb == "reject":
        why = f"rejected by {said.by}: {said.reason}"
        decided_later(version, request.run_id, REJECTED, why)
    else:
        entry = registry.promote(
            name,
            version.number,
            said.by,
            said.reason,
            {"digest": request.evidence},
            request.champion,
        )
        why = f"{version} serves{entry.instead}; reason ({said.by}): {said.reason}"
        decided_later(version, request.run_id, "Promoted", why, entry)
        _tell(entry, version)
        if client().get_run(request.run_id).data.params.get("publishing.enabled") == "true":
            print("To publish it, run the recipe again: what is made is reused.")


def _require_prefect(request: "Request") -> None:
    from flows import local

    local.require_server(f"its flow run {request.flow_run_id} waits on a Prefect server")


def _resume(request: "Request", verb: "Verb", reason: str) -> bool:
    """Let the flow run go on that waits; tell whether one did."""
    from uuid import UUID

    import httpx
    from prefect import get_client

    filled = {"verb": verb, "reason": reason, "by": who()}
    with get_client(sync_client=True) as client:
        try:
            result = client.resume_flow_run(UUID(str(request.flow_run_id)), filled)
        except httpx.HTTPStatusError:  # it was deleted, or has ended
            return False
    return str(result.status).endswith("ACCEPT")


def _table(log: "list[PromotionEntry]") -> "Table":
    from rich.table import Table
    from rich.text import Text

    from retune.registry.log import HEADS

    table = Table(box=None, pad_edge=False)
    for head in HEADS:
        table.add_column(head, overflow="fold")
    for entry in log:
        table.add_row(*(Text(visible(cell)) for cell in entry.cells()))
    return table


def _span(text: str) -> tuple[datetime, datetime]:
    """Return the first and the last moment that a date, or a date and time, means."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise NotADate(
            f"{text!r:.40} is no date; write it as 2026-11-25, or 2026-11-25T14:30 (UTC)"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    is_day = moment.time() == time() and "T" not in text and ":" not in text
    return moment, moment + timedelta(days=1, microseconds=-1) if is_day else moment


def _served(log: "list[PromotionEntry]", start: datetime, end: datetime) -> "list[PromotionEntry]":
    """Return the entries by which the versions came into service that served between two moments."""
    from retune.registry import who_served as at

    first = at(log, start)
    later = [e for e in log if start < e.at <= end and e.kind in ("promote", "rollback")]
    return [*([first] if first and first.serving else []), *later]
