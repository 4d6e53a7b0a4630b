"""What follows when another version serves: the serving folder, Ollama, webhooks, and Prefect's page.

None of it can undo the decision, so what fails here is told, and fails nothing.
"""

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from flows import kept_page, local
from retune import registry, serving
from retune.errors import RetuneError
from retune.escaping import markdown, terminal
from retune.registry import PromotionEntry, RegisteredVersion, RegistryError
from retune.registry.log import HEADS
from retune.registry.versions import PREVIOUS
from retune.saved_view import STANDING
from retune.tracking import client
from retune.webhooks import post_all
from tasks.stage import secret_block
from tasks.stage import show as shown

OLLAMA_PATIENCE = 600  # seconds; `ollama create` copies the file
LAST_ENTRIES = 20  # of the log, on Prefect's page


class News(NamedTuple):
    """Who is told, by the recipe: `webhooks`, and the name in Ollama."""

    webhooks: tuple[str, ...] = ()
    ollama: str | None = None


def news_of(version: RegisteredVersion) -> News:
    """Return what the recipe said when it made a version, from its MLflow run alone."""
    params = client().get_run(version.run_id).data.params
    try:
        webhooks = tuple(json.loads(params.get("promotion.webhooks", "[]")))
    except ValueError:
        webhooks = ()  # MLflow cuts long parameters
    ollama = params.get("promotion.ollama", "null")
    return News(webhooks, None if ollama in ("null", "None", "") else ollama)


def follow(
    entry: PromotionEntry, version: RegisteredVersion, news: News, evidence: Mapping[str, Any]
) -> list[str]:
    """Let everything follow that `version` serves; return a sentence for each thing that failed."""
    failures = [*serve(version), *_ollama(news.ollama, version), *_describe(version)]
    if news.webhooks:
        failures += post_all(news.webhooks, payload(entry, version, evidence), _secret)
    return failures


def payload(
    entry: PromotionEntry, version: RegisteredVersion, evidence: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what webhooks are posted; `text` is what chat programs show."""
    verb = "rolled back to" if entry.kind == "rollback" else "promoted"
    return {
        "text": f"{version.name}: {verb} version {entry.version}{entry.instead}, by {entry.by}: "
        f"{entry.reason}",
        "event": entry.kind,
        "recipe": version.name,
        "version": entry.version,
        "former": entry.former,
        "by": entry.by,
        "at": entry.at.isoformat(),
        "reason": entry.reason,
        "mlflow_run_id": version.run_id,
        "evidence": dict(evidence),
    }


def serve(version: RegisteredVersion) -> list[str]:
    """Let the serving folder hold `version`; return a sentence if it cannot."""
    aliases = {one.number for one in registry.versions(version.name) if one.aliases}
    try:
        serving.serve(version, aliases)
    except (RetuneError, OSError) as error:
        return [f"{serving.folder_of(version.name)} does not hold {version}: {error}"]
    return []


def _describe(version: RegisteredVersion) -> list[str]:
    """Let MLflow's page of the model begin with what serves; return a sentence if it cannot."""
    from mlflow.exceptions import MlflowException

    try:
        log = registry.history(version.name)
        client().update_registered_model(version.name, page(version, log))
        _place(version, log)
    except (MlflowException, RetuneError) as error:
        return [f"MLflow's page of {version.name} does not say that {version} serves: {error}"]
    return []


def _place(version: RegisteredVersion, log: Sequence[PromotionEntry]) -> None:
    """Let MLflow's pages of the version that serves, and of those that did, say so, and their runs."""
    came = registry.who_served(log, log[-1].at) if log else None
    since = f" since {came.at:%Y-%m-%d %H:%M} UTC, by {markdown(came.by)}" if came else ""
    registry.placed_as(version, f"**Serves{since}**")
    _tag(version, "serves")
    served = {number for entry in log for number in (entry.serving, entry.former) if number}
    for one in registry.versions(version.name):
        if one.number == version.number or one.number not in served:
            continue
        place, more = "served before", ""
        if one.barred is not None:
            place = "rolled back"
            more = f": {markdown(one.barred)}. It is barred: {_unbar(one)}"
        elif PREVIOUS in one.aliases:
            place = "previous"
        registry.placed_as(one, f"**{place.capitalize()}**{more}; {markdown(version)} serves now")
        _tag(one, place)


def _tag(version: RegisteredVersion, place: str) -> None:
    """Let the run of a version say what became of it."""
    from mlflow.exceptions import MlflowException

    with suppress(MlflowException):  # it was deleted
        client().set_tag(version.run_id, STANDING, place)


def _unbar(version: RegisteredVersion) -> str:
    return f"`retune promote {version.name} {version.number} --unbar` lets it serve again"


def _ollama(tag: str | None, version: RegisteredVersion) -> list[str]:
    """Let a name in Ollama be the version that serves."""
    if not tag:
        return []
    modelfile = serving.folder_of(version.name) / serving.MODELFILE
    program = shutil.which("ollama")
    if not program:
        return [
            f"promotion.ollama={tag}: no program `ollama` on this machine; install it, or leave it out"
        ]
    if not modelfile.is_file():
        return [f"promotion.ollama={tag}: {version} has no Modelfile that Ollama could run"]
    try:
        done = subprocess.run(
            [program, "create", tag, "-f", str(modelfile)],
            cwd=modelfile.parent.resolve(),
            capture_output=True,
            text=True,
            check=False,
            timeout=OLLAMA_PATIENCE,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return [f"promotion.ollama={tag}: `ollama create` did not end well: {error}"]
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-300:]
        return [f"promotion.ollama={tag}: `ollama create` failed: {terminal(said)}"]
    return []


def _secret(name: str) -> str:
    """Return the address that a Secret block of Prefect holds. Raises RegistryError."""
    if not local.api_address():  # Prefect would start a server of its own
        raise RegistryError("a secret is Prefect's, and no server of its runs; start `retune ui`")
    address = secret_block(name)
    if address is None:
        raise RegistryError("Prefect has no Secret block of this name; make it below Blocks")
    return address


# Prefect's page.


def key_of(name: str) -> str:
    """Return the key of the artifact that says which version of a recipe serves."""
    return kept_page.key("in-service", name)


def show(name: str) -> None:
    """Make the artifact `in-service-<recipe>`, whose versions are the history, if it changed."""
    serving_now = registry.serving(name)
    if serving_now is None:
        return
    shown(
        kept_page.keep,
        key=key_of(name),
        markdown=page(serving_now, registry.history(name)),
        description=f"Which version of {name} serves",
    )


def sentence(version: RegisteredVersion, log: Sequence[PromotionEntry]) -> str:
    """Return in Markdown which version serves, since when, and who decided that."""
    entry = registry.who_served(log, log[-1].at) if log else None
    since = f" since {entry.at:%Y-%m-%d %H:%M} UTC, by {markdown(entry.by)}" if entry else ""
    return f"**{markdown(version)}** serves{since}."


def _way_back(name: str) -> str:
    """Return how to go back, if there is a version to go back to, and which versions are barred."""
    every = registry.versions(name)
    barred = [version for version in every if version.barred is not None]
    named = ", ".join(str(version.number) for version in barred)
    left = f" Barred: {named}; {_unbar(barred[-1])}." if barred else ""
    before = next((version.number for version in every if PREVIOUS in version.aliases), None)
    if before is None:
        return f"There is no version to go back to.{left}"
    return f"To go back to version {before}: `retune rollback {name}`.{left}"


def page(version: RegisteredVersion, log: Sequence[PromotionEntry]) -> str:
    """Return which version serves, and the log, the newest first."""
    lines = [
        sentence(version, log),
        "",
        f"Its files: `{serving.folder_of(version.name)}`. MLflow run `{version.run_id}`. "
        f"{_way_back(version.name)}",
        "",
        f"|{' | '.join(HEADS)} |",
        "|---:|---|---|---:|---:|---|---|",
    ]
    for one in list(reversed(log))[:LAST_ENTRIES]:
        *facts, by, reason = one.cells()
        lines.append("| " + " | ".join([*facts, markdown(by), markdown(reason)]) + " |")
    return "\n".join(lines)
