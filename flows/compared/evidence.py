"""One run as the comparison sees it: what MLflow keeps of it, and its work folder where that is."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import yaml

from flows.compared.artifacts import artifact, table
from flows.compared.records import ComparedRun
from flows.compared.rows import ARTIFACT as ROWS
from flows.provenance import FOLDER
from retune import registry
from retune.notes import settings
from retune.outcomes import ARTIFACT as OUTCOMES
from retune.outcomes import FILE
from retune.outputs import here
from retune.recipe import Recipe, RecipeError
from retune.recipe.evaluation import ANCHOR
from retune.registry.candidates import REGISTERED_AS
from retune.tracking import DECISION, OUTCOME, client, download_json, setting_text

if TYPE_CHECKING:
    import polars as pl
    from mlflow.entities import Run as MlflowRun

PIN, VERSION = "retune.pin.", "version of "
ANCHORED = f"{ANCHOR}/{FILE}"
FILES = "quantize/gguf_files.json"


class RunEvidence(NamedTuple):
    """What there is of one run.

    `recipe` is the resolved one, None if this version of retune cannot read it; `settings` and the
    facts of the `environment` are text. `rows` has a line per accepted row, `outcomes` one per example,
    `files` one per GGUF file; `texts` is the file of its rows, None if it is not on this machine.
    """

    run: "MlflowRun"
    recipe: Recipe | None
    settings: dict[str, str]
    environment: dict[str, str]
    rows: "pl.DataFrame | None"
    outcomes: "pl.DataFrame | None"
    files: list[dict[str, Any]]
    texts: Path | None

    def described(self) -> ComparedRun:
        info, data = self.run.info, self.run.data
        version = data.tags.get(REGISTERED_AS, "")
        return ComparedRun(
            id=info.run_id,
            name=info.run_name,
            recipe=data.params.get("name", ""),
            started=f"{datetime.fromtimestamp(info.start_time / 1000, UTC):%Y-%m-%d %H:%M:%S}",
            status=info.status,
            version=version,
            serves=_serves(version),
            rolled_back=_is_barred(version),
            outcome=data.tags.get(DECISION, "").partition(":")[0] or data.tags.get(OUTCOME, ""),
        )


def _serves(version: str) -> bool:
    """Tell whether a version, `recipe/3`, serves now; none does not."""
    serving = registry.serving(version.rpartition("/")[0]) if version else None
    return str(serving) == version if serving else False


def _is_barred(version: str) -> bool:
    """Tell whether a version is one that nobody wants again; none is not, nor one that was deleted."""
    name, _, number = version.rpartition("/")
    candidates = registry.versions(name) if name else []
    return any(one.barred is not None for one in candidates if str(one.number) == number)


def evidence(run_id: str) -> RunEvidence:
    """Return what there is of a run, by its id in MLflow."""
    run = client().get_run(run_id)
    recipe = _recipe(run_id)
    return RunEvidence(
        run=run,
        recipe=recipe,
        settings=_settings(run, recipe),
        environment=_environment(run),
        rows=table(run_id, ROWS),
        outcomes=_outcomes(run_id),
        files=cast("list[dict[str, Any]]", download_json(run_id, FILES) or []),  # a list of them
        texts=_texts(run),
    )


def _outcomes(run_id: str) -> "pl.DataFrame | None":
    """Return what models did with each example, those of the anchor included."""
    import polars as pl

    tables = [table(run_id, path) for path in (OUTCOMES, ANCHORED)]
    there = [one for one in tables if one is not None]
    return pl.concat(there, how="diagonal") if there else None


def _recipe(run_id: str) -> Recipe | None:
    """Return the resolved recipe; None of a run that ended before it was kept, or that has settings
    which this version of retune does not know."""
    with artifact(run_id, f"{FOLDER}/recipe.resolved.yaml") as file:
        if file is None:
            return None
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    try:
        return Recipe.parse(values)
    except RecipeError:
        return None


def _settings(run: "MlflowRun", recipe: Recipe | None) -> dict[str, str]:
    """Return the settings, resolved if the recipe can be read, and the versions of the inputs."""
    texts = settings(recipe) if recipe else dict(run.data.params)
    pins = {
        f"{VERSION}{name.removeprefix(PIN)}": value
        for name, value in run.data.tags.items()
        if name.startswith(PIN)
    }
    return texts | pins


def _environment(run: "MlflowRun") -> dict[str, str]:
    software = download_json(run.info.run_id, f"{FOLDER}/software.json") or {}
    machine = download_json(run.info.run_id, f"{FOLDER}/machine.json") or {}
    facts = {"retune": software.pop("number", None), "commit": software.pop("commit", None)}
    facts |= software.pop("packages", {})
    facts |= {"uncommitted changes": software.pop("dirty", None)}
    facts |= {f"machine: {name}": value for name, value in machine.items()}
    return {name: setting_text(value) for name, value in facts.items() if value is not None}


def _texts(run: "MlflowRun") -> Path | None:
    """Return the file of a run's accepted rows, if its work folder is on this machine."""
    fingerprint = run.data.tags.get("retune.step.validate", "")
    path = here(f"validate/{fingerprint}") / "rows.parquet"
    return path if fingerprint and path.is_file() else None
