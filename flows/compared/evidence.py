"""One run as the comparison sees it: what MLflow keeps of it, and its work folder where that is."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from flows.compared.artifacts import artifact, table
from flows.compared.records import ComparedRun
from flows.compared.rows import ARTIFACT as ROWS
from flows.provenance import FOLDER
from retune.notes import OUTCOME
from retune.recipe import flat
from retune.tracking import client, setting_text
from retune.workspace import home

if TYPE_CHECKING:
    import polars as pl
    from mlflow.entities import Run as MlflowRun

OUTCOMES, FILES = "evaluate/outcomes.parquet", "quantize/gguf_files.json"
COMPUTED = ("validate.", "convert.", "quantize.")  # parameters that stages add to the settings'


class RunEvidence(NamedTuple):
    """What there is of one run: `settings` as text, the facts of its `environment`, a line per
    accepted row, the outcomes of its examples, its GGUF files, and its rows on this machine (None:
    they are not here)."""

    run: "MlflowRun"
    settings: dict[str, str]
    environment: dict[str, str]
    rows: "pl.DataFrame | None"
    outcomes: "pl.DataFrame | None"
    files: list[dict[str, Any]]
    texts: Path | None

    def described(self) -> ComparedRun:
        info, data = self.run.info, self.run.data
        return ComparedRun(
            id=info.run_id,
            name=info.run_name,
            recipe=data.params.get("name", ""),
            started=f"{datetime.fromtimestamp(info.start_time / 1000, UTC):%Y-%m-%d %H:%M:%S}",
            status=info.status,
            outcome=data.tags.get(OUTCOME, ""),
        )


def evidence(run_id: str) -> RunEvidence:
    """Return what there is of a run, by its id in MLflow."""
    run = client().get_run(run_id)
    return RunEvidence(
        run=run,
        settings=_settings(run),
        environment=_environment(run),
        rows=table(run_id, ROWS),
        outcomes=table(run_id, OUTCOMES),
        files=_json(run_id, FILES) or [],
        texts=_texts(run),
    )


def _settings(run: "MlflowRun") -> dict[str, str]:
    """Return the resolved settings; of a run that ended before they were kept, its parameters."""
    with artifact(run.info.run_id, f"{FOLDER}/recipe.resolved.yaml") as file:
        if file is None:
            return dict(run.data.params)
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    return {name: setting_text(value) for name, value in flat(values).items()}


def _environment(run: "MlflowRun") -> dict[str, str]:
    software = _json(run.info.run_id, f"{FOLDER}/software.json") or {}
    machine = _json(run.info.run_id, f"{FOLDER}/machine.json") or {}
    facts = {"retune": software.pop("number", None), "commit": software.pop("commit", None)}
    facts |= software.pop("packages", {})
    facts |= {"files differ from the commit": software.pop("dirty", None)}
    facts |= {f"machine: {name}": value for name, value in machine.items()}
    return {name: setting_text(value) for name, value in facts.items() if value is not None}


def _json(run_id: str, path: str) -> Any:
    with artifact(run_id, path) as file:
        return json.loads(file.read_text(encoding="utf-8")) if file else None


def _texts(run: "MlflowRun") -> Path | None:
    """Return the file of a run's accepted rows, if its work folder is on this machine."""
    fingerprint = run.data.tags.get("retune.step.validate", "")
    path = home() / "work" / "validate" / fingerprint / "rows.parquet"
    return path if fingerprint and path.is_file() else None
