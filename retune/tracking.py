"""MLflow: one run per flow run, one child run per quantization, run ids always explicit.

A process-wide active run is thread-local in MLflow and Prefect maps tasks onto threads, so nothing
here relies on one.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Self, cast
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

from retune.errors import RetuneError
from retune.escaping import terminal
from retune.files import digest
from retune.home import home, make_home
from retune.moved_home import ARTIFACTS, DATABASE, settle
from retune.outputs import Output, SomeOutput, note_maker
from retune.processes import is_gone, this_process
from retune.recipe import Recipe, flat
from retune.recipe.address import is_address
from retune.store.place import StoreError
from retune.temporary import temporary_folder
from retune.tracking_client import PatientClient, TrackingUnreachable

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import FileInfo, Metric, Param, RunInfo, RunTag
    from mlflow.entities import Run as StoredRun

PARAM_LIMIT = 6000  # characters; MLflow rejects longer parameter values
DIGEST_LIMIT = 36  # characters of a dataset's digest; MLflow rejects longer ones
# Per request, by MLflow's limits: parameters or tags, and metrics beside as many of both.
BATCH, METRICS = 100, 800
TABLES_TAG = "mlflow.loggedArtifacts"  # of a run: what MLflow's pages show as tables
LEAVING = 10  # seconds that MLflow's monitor of the machine has to end
# Tags of runs: passed, rejected, failed or stopped; what became of the version that it made (the
# version has it, too), and why; the process that works at it.
OUTCOME, DECISION, PROCESS = "retune.outcome", "retune.decision", "retune.process"
PLAN = "retune.plan"  # tag of a run: what identifies all that it would make
REJECTED = "Rejected"  # how the decision on a model begins that may not serve
LOOKED_AT = 100  # runs among which the last accepted one is looked for
OPPONENT = "retune.opponent"  # the adapter of the champion that a run was compared with
# Measures of what a stage took, not of what it made.
SPENT = frozenset({"seconds", "gpu_hours", "energy_kwh", "cost"})


def tracking_uri() -> str:
    """Return $MLFLOW_TRACKING_URI, or the SQLite file in the home folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / DATABASE}"


class ExperimentDeleted(RetuneError):
    """The experiment that runs are to be in was deleted in MLflow."""


class Waiting(Exception):
    """Ends a run for the time being: it goes on, in the same MLflow run, when somebody has decided."""


def exists() -> bool:
    """Tell whether there is a store to look into: looking must not make a database."""
    store = tracking_uri()
    path = store.removeprefix("sqlite:///")
    return path == store or Path(path).is_file()


class Run(BaseModel):
    """An MLflow run, by id, so that it can be handed to any task, thread or process."""

    model_config = ConfigDict(frozen=True)

    id: str
    experiment_id: str
    started: datetime
    upload_models: bool = False

    def log(self, output: SomeOutput) -> SomeOutput:
        """Log a finished stage (new or reused) and return it."""
        stage = output.step.stage
        measured = output.metrics | {"seconds": output.seconds}
        tags = {f"retune.{stage}": "ran", f"retune.step.{stage}": output.step.fingerprint}
        if self.reused(output):
            # What a stage took is counted once, by the run that made its output.
            tags |= {f"retune.{stage}": "reused", f"retune.reused.{stage}": output.origin}
            measured = {name: value for name, value in measured.items() if name not in SPENT}
        else:
            # Of a folder that others may only read, or a store that is away: it is a note.
            with suppress(OSError, StoreError):
                note_maker(output.step, self.id)
        metrics = {f"{stage}/{name}": value for name, value in measured.items()}
        self._send(
            _metrics([(0, metrics)], output.ended),
            _params({f"{stage}.{name}": value for name, value in output.params.items()}),
            _tags(tags),
        )
        history = (output.history,) if output.history else ()
        with output.some(*output.files, *history) as folder:
            self.log_files(folder, output.files, stage)
            if output.history:
                self._log_history(folder / output.history, output.ended)
        if output.models:
            self._log_models(output)
        return output

    def new_child(self, name: str) -> Self:
        """Return a new child run, which its caller ends."""
        return self._start_child(name, datetime.now(UTC))

    def log_child(self, output: SomeOutput, name: str) -> SomeOutput:
        """Log `output` in a child run of its own, which started and ended when it did.

        Its measures are this run's too, as those of `name`: runs are compared by their parents.
        """
        stage = output.step.stage
        measures = {f"{stage}/{key}/{name}": value for key, value in output.metrics.items()}
        self._send(_metrics([(0, measures)], output.ended))
        child = self._start_child(name, output.started)
        child.log(output)
        ended = round(output.ended.timestamp() * 1000)
        client().set_terminated(child.id, "FINISHED", end_time=ended)
        return output

    def log_failed_child(self, name: str, error: BaseException) -> None:
        """Leave a failed child run that says why there is no output."""
        child = self._start_child(name, datetime.now(UTC))
        child.set_tags({"retune.error": terminal(error)[:PARAM_LIMIT]})
        client().set_terminated(child.id, "FAILED")

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log `metrics` at `step` in one request."""
        self._send(_metrics([(step, metrics)]))

    def log_rows(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Log rows of metrics, each with its `step`."""
        self._send(_metrics([(int(row["step"]), _without_step(row)) for row in rows]))

    def last_step(self, name: str) -> int:
        """Return the last step at which the run has a metric, 0 if it has none."""
        history = client().get_metric_history(self.id, name)
        return max((metric.step for metric in history), default=0)

    def log_of_model(self, metrics: "Sequence[Metric]") -> None:
        """Log metrics that name the model, the dataset and the time that they are of."""
        self._send(metrics)

    def log_files(self, folder: Path, files: tuple[str, ...], stage: str) -> None:
        """Store small files or folders, relative to `folder`, below the artifact path `stage`."""
        for file in files:
            path = folder / file
            if path.is_dir():
                client().log_artifacts(self.id, str(path), f"{stage}/{file}")
            else:
                client().log_artifact(self.id, str(path), stage)

    def log_table(self, rows: Sequence[Mapping[str, Any]], file: str) -> None:
        """Store a table as an artifact that MLflow's pages show as one; it replaces an earlier one."""
        columns = list(rows[0]) if rows else []
        content = {"columns": columns, "data": [[row[name] for name in columns] for row in rows]}
        client().log_dict(self.id, content, file)
        tag = client().get_run(self.id).data.tags.get(TABLES_TAG, "[]")
        tables = {entry["path"]: entry for entry in json.loads(tag)}
        tables[file] = {"path": file, "type": "table"}
        self.set_tags({TABLES_TAG: json.dumps(list(tables.values()))})

    def log_texts(self, texts: Mapping[str, str], folder: str) -> None:
        """Store small texts by file name, below the artifact path `folder`."""
        for name, text in texts.items():
            client().log_text(self.id, text, f"{folder}/{name}")

    def log_base_model(self, name: str, pin: str, commit: str | None) -> None:
        """Log the base model at its version as an input of the run.

        `name` is a Hub id at `commit`, or a local path when there is none. MLflow knows a model by
        experiment: one version that several runs start from is one model there.
        """
        from mlflow.entities import LoggedModelInput

        label = (
            re.sub(r"[^\w-]", "-", Path(name).name)[:100] or "base"
        )  # MLflow refuses . / : and others
        tags = {"retune.pin": pin, "retune.source": f"{name}@{commit}" if commit else name}
        models = client().search_logged_models(
            [self.experiment_id], f"tags.`retune.pin` = '{pin}' AND name = '{label}'", max_results=1
        )
        if models:
            model_id = models[0].model_id
        else:
            model = client().create_logged_model(
                self.experiment_id, label, tags=tags, model_type="base model"
            )
            model_id = client().finalize_logged_model(model.model_id, "READY").model_id
        client().log_inputs(self.id, models=[LoggedModelInput(model_id)])

    def log_output_model(self, model_id: str) -> None:
        """Log a model of MLflow's as an output of the run.

        A run that waited, or lost its process, has it already, which MLflow refuses twice.
        """
        from mlflow.entities import LoggedModelOutput

        outputs = client().get_run(self.id).outputs
        if model_id not in {one.model_id for one in (outputs.model_outputs if outputs else [])}:
            client().log_outputs(self.id, models=[LoggedModelOutput(model_id, step=0)])

    def log_dataset(
        self,
        name: str,
        digest: str,
        source: str,
        commit: str | None,
        rows: int,
        context: str,
        *,
        subset: str | None = None,
        split: str | None = None,
    ) -> None:
        """Log a dataset as an input of the run; `context` says what for, such as "training".

        `source` is a Hub id at `commit`, or a local path when there is none. `digest` (its first 36
        characters) tells versions apart: of datasets with the same name and digest, MLflow keeps
        the first one's `rows` for the whole experiment.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        kind, place = _dataset_source(source, commit, subset, split)
        dataset = Dataset(
            name=name,
            digest=digest[:DIGEST_LIMIT],
            source_type=kind,
            source=json.dumps(place),
            profile=json.dumps({"num_rows": rows}),
        )
        tags = [InputTag("mlflow.data.context", context)]
        client().log_inputs(self.id, datasets=[DatasetInput(dataset, tags)])

    def accept(
        self, rows: Output, recipe: Recipe, dataset_pin: str, mix: tuple[str, ...] = ()
    ) -> None:
        """Note that the gate let this dataset pass: the next version is compared with it.

        `rows` are the accepted rows, `dataset_pin` is the version of the data that they come from,
        `mix` those of its parts, each of which is an input of the run by itself.
        """
        dataset = recipe.dataset
        self.set_tags({"retune.gate": "passed", "retune.dataset": dataset_pin})
        counts = [round(rows.metrics["accepted"])]
        if dataset.mix:
            by_part = _rows_by_part(rows.folder / "rows.parquet")
            counts = [by_part.get(name, 0) for name in dataset.names]
        for number, part in enumerate(dataset.parts):
            version = mix[number] if dataset.mix else dataset_pin
            self.log_dataset(
                name=Path(part.source).name,
                digest=digest([rows.step.fingerprint, number]) if number else rows.step.fingerprint,
                source=part.source,
                commit=None if version.startswith("sha256:") else version,
                rows=counts[number],
                context="training",
                subset=part.subset,
                split=part.split,
            )

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags; values are text."""
        self._send(tags=_tags(tags))

    def reused(self, output: Output) -> bool:
        """Tell whether `output` was finished before this run began."""
        return output.started < self.started

    def child(self, name: str) -> Self | None:
        """Return the newest child run called `name`, None if there is none."""
        children = client().search_runs(
            [self.experiment_id],
            f"tags.`mlflow.parentRunId` = '{self.id}' AND attributes.run_name = '{name}'",
        )
        return self.model_copy(update={"id": children[0].info.run_id}) if children else None

    def _start_child(self, name: str, started: datetime) -> Self:
        """Return the child run called `name`: a run that is continued has some already."""
        if child := self.child(name):
            return child
        run = client().create_run(
            self.experiment_id,
            start_time=round(started.timestamp() * 1000),
            tags={"mlflow.parentRunId": self.id},
            run_name=name,
        )
        return self.model_copy(update={"id": run.info.run_id})

    def _send(
        self,
        metrics: "Sequence[Metric]" = (),
        params: "Sequence[Param]" = (),
        tags: "Sequence[RunTag]" = (),
    ) -> None:
        """Log all of them in as few requests as MLflow's limits allow."""
        while metrics or params or tags:
            client().log_batch(self.id, metrics[:METRICS], params[:BATCH], tags[:BATCH])
            metrics, params, tags = metrics[METRICS:], params[BATCH:], tags[BATCH:]

    def _log_history(self, file: Path, ended: datetime) -> None:
        lines = file.read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        # All of it, or what a run that follows the stage live has missed.
        names = {name for row in rows[:1] for name in _without_step(row)}
        last = max((self.last_step(name) for name in sorted(names)[:1]), default=0)
        missed: list[tuple[int, Mapping[str, float]]] = [
            (row["step"], _without_step(row)) for row in rows if row["step"] > last
        ]
        self._send(_metrics(missed, ended))

    def _log_models(self, output: Output) -> None:
        listing = []
        for name in output.models:
            listing.append({"uri": output.uri(name), **output.entry(name).model_dump()})
            if self.upload_models:
                path = output.folder / name
                log = client().log_artifacts if path.is_dir() else client().log_artifact
                log(self.id, str(path), f"{output.step.stage}/models")
        client().log_dict(self.id, {"models": listing}, f"{output.step.stage}/models.json")


@lru_cache(maxsize=1)
def client() -> "MlflowClient":
    """Return the client of the tracking server, quietened: a run's output is the pipeline's own.

    Its calls raise TrackingUnreachable where a server does not answer.
    """
    import logging

    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient

    # The first use of a SQLite file narrates 40 schema migrations, each training its monitor's threads.
    for name in ("alembic", "mlflow.store.db.utils", "mlflow.system_metrics"):
        logging.getLogger(name).setLevel(logging.WARNING)
    make_home()
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        settle()
    return cast("MlflowClient", PatientClient(MlflowClient(tracking_uri())))


@contextmanager
def start_run(
    recipe: Recipe, name: str, tags: Mapping[str, str], plan: str | None = None
) -> Iterator[Run]:
    """Open the MLflow run of one flow run; it ends FINISHED, FAILED or KILLED as the block does.

    Logs the whole recipe as flat parameters. `name` is the run's name, `tags` say where it ran.
    `plan` identifies all that the run would make: if the newest run of this plan did not come to its
    end (it lost its process, was told to end, or failed without a verdict), that run is opened again,
    and its curves continue where they were. So is that of the same flow run of Prefect's (a tag), which
    goes on after it waited or is tried again.
    """
    run_tags = dict(tags) | {PROCESS: this_process(), PLAN: plan or ""}
    experiment_id = _experiment(_experiment_name(recipe))
    earlier = plan and (
        _lost_run(experiment_id, plan)
        or _waiting_run(experiment_id, plan, tags)
        or _unfinished_run(experiment_id, plan)
    )
    info = _reopened(earlier) if earlier else client().create_run(experiment_id, run_name=name).info
    run = Run(
        id=info.run_id,
        experiment_id=experiment_id,
        started=datetime.fromtimestamp(info.start_time / 1000, UTC),
        upload_models=recipe.tracking.upload_models,
    )
    try:
        run.set_tags(run_tags)
        run._send(params=_params(flat(recipe)))
        yield run
    except Waiting:
        client().set_terminated(run.id, "FINISHED")
        raise
    except BaseException as error:
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        with suppress(TrackingUnreachable):  # the error that came first is the one to tell
            run.set_tags({"retune.error": terminal(error)[:PARAM_LIMIT]})
            client().set_terminated(run.id, status)
        raise
    client().set_terminated(run.id, "FINISHED")


def _reopened(run: "RunInfo") -> "RunInfo":
    """Open a run that ended again, if it did; it has no error any more."""
    if run.status != "RUNNING":
        client().update_run(run.run_id, status="RUNNING")
    if "retune.error" in client().get_run(run.run_id).data.tags:
        client().delete_tag(run.run_id, "retune.error")
    return run


def _lost_run(experiment_id: str, plan: str) -> "RunInfo | None":
    """Return the newest run of `plan` that is open although the process that ran it is gone."""
    runs = client().search_runs(
        [experiment_id],
        f"attributes.status = 'RUNNING' AND tags.`retune.plan` = '{plan}'",
        order_by=["attributes.start_time DESC"],
    )
    return next((r.info for r in runs if is_gone(r.data.tags[PROCESS])), None)


def _waiting_run(experiment_id: str, plan: str, tags: Mapping[str, str]) -> "RunInfo | None":
    """Return the run of `plan` that this flow run of Prefect's left when it began to wait or failed."""
    flow_run = tags.get("prefect.flow_run_id")
    if not flow_run:
        return None
    runs = client().search_runs(
        [experiment_id],
        f"tags.`prefect.flow_run_id` = '{flow_run}' AND tags.`retune.plan` = '{plan}'",
    )
    return runs[0].info if runs else None


def _unfinished_run(experiment_id: str, plan: str) -> "RunInfo | None":
    """Return the newest run of `plan` if it ended without a verdict: it was stopped, or failed."""
    runs = client().search_runs(
        [experiment_id],
        f"tags.`retune.plan` = '{plan}'",
        max_results=1,
        order_by=["attributes.start_time DESC"],
    )
    for run in runs:
        stopped = run.info.status == "KILLED"
        failed = (
            run.info.status == "FAILED" and run.data.tags.get(OUTCOME, "").lower() != "rejected"
        )
        return run.info if stopped or failed else None
    return None


@contextmanager
def watch_machine(run: Run) -> Iterator[None]:
    """Log MLflow's system metrics (CPU, memory, disk, network, GPUs) to `run` meanwhile."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run.id, resume_logging=True, tracking_uri=tracking_uri())
    monitor.start()
    try:
        yield
    finally:
        # It waits for its thread, which waits for MLflow.
        finishing = Thread(target=monitor.finish, daemon=True)
        finishing.start()
        finishing.join(LEAVING)


def last_accepted(recipe: Recipe, dataset_pin: str) -> str | None:
    """Return the id of the recipe's newest run whose gate accepted another version of the data.

    None if there is none. Another version, because a run on the same data must find the same
    reference again: what it is compared with is part of what determines its validation. Data of which
    the model was rejected are nothing to compare with: poisoned ones would be what is normal next time.
    """
    # MLflow's filter language has no escapes, so what goes into it has no quotes.
    assert re.fullmatch(r"[\w:]+", dataset_pin), f"not a commit or sha256: {dataset_pin!r}"
    condition = f"tags.`retune.gate` = 'passed' AND tags.`retune.dataset` != '{dataset_pin}'"
    runs = newest_runs(recipe, condition, LOOKED_AT)
    kept = (run for run in runs if not run.data.tags.get(DECISION, "").startswith(REJECTED))
    return next((run.info.run_id for run in kept), None)


def newest_run(recipe: Recipe, condition: str) -> str | None:
    """Return the id of the newest run in the recipe's experiment for which `condition` holds, in
    MLflow's filter language; None if there is none. Makes no store where there is none."""
    runs = newest_runs(recipe, condition, 1)
    return runs[0].info.run_id if runs else None


def newest_runs(recipe: Recipe, condition: str, count: int) -> "list[StoredRun]":
    """Return the newest `count` runs for which `condition` holds, as `newest_run` finds them."""
    if not exists():
        return []
    experiment = client().get_experiment_by_name(_experiment_name(recipe))
    if not experiment:
        return []
    return client().search_runs(
        [experiment.experiment_id],
        condition,
        max_results=count,
        order_by=["attributes.start_time DESC"],
    )


def every_run() -> "Iterator[StoredRun]":
    """Yield every run of every experiment, children too. Makes no store where there is none."""
    if not exists():
        return
    experiments = [one.experiment_id for one in client().search_experiments(max_results=1000)]
    token = None
    while experiments:
        page = client().search_runs(experiments, max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def download_json(run_id: str, artifact_path: str) -> dict[str, Any] | None:
    """Return a JSON artifact of a run, None if the run has no such artifact."""
    with temporary_folder() as target:
        path = download(run_id, artifact_path, target)
        return json.loads(path.read_text(encoding="utf-8")) if path else None


def artifacts(run_id: str, folder: str | None = None) -> "list[FileInfo]":
    """Return what a run has in a folder of its artifacts; nothing where the server says that their place
    is not there, as a bucket that is made with the first file."""
    from requests import HTTPError

    try:
        return client().list_artifacts(run_id, folder)
    except HTTPError as error:
        if error.response is None or error.response.status_code != 404:
            raise
        return []


def download(run_id: str, artifact_path: str, target: Path) -> Path | None:
    """Copy an artifact of a run into the folder `target` and return where it is, None if the run has
    no such artifact."""
    folder = artifact_path.rpartition("/")[0] or None
    # Asked for a missing file, each kind of artifact store raises an error of its own.
    if artifact_path not in {file.path for file in artifacts(run_id, folder)}:
        return None
    return Path(client().download_artifacts(run_id, artifact_path, str(target)))


def _dataset_source(
    source: str, commit: str | None, subset: str | None, split: str | None
) -> tuple[str, dict[str, str | None]]:
    """Return the source's type and fields as MLflow's own sources write them.

    See `to_dict` in mlflow/data/huggingface_dataset_source.py and artifact_dataset_sources.py.
    """
    if commit is None and is_address(source):
        return urlsplit(source).scheme, {"uri": source}
    if commit is None:
        return "local", {"uri": str(Path(source).expanduser().absolute())}
    place = {"path": source, "config_name": subset, "split": split, "revision": commit}
    return "hugging_face", place


def _rows_by_part(path: Path) -> dict[str, int]:
    """Return how many rows of each part of a mix there are in a file of rows."""
    import pyarrow.parquet as pq

    counted = pq.read_table(path, columns=["part"])["part"].value_counts().to_pylist()
    return {entry["values"]: entry["counts"] for entry in counted}


def _experiment_name(recipe: Recipe) -> str:
    return recipe.tracking.experiment or recipe.name


def _experiment(name: str) -> str:
    experiment = client().get_experiment_by_name(name)
    if experiment and experiment.lifecycle_stage == "deleted":
        # The address of a server may hold a password, and is set where this is read.
        store = (
            ""
            if os.environ.get("MLFLOW_TRACKING_URI")
            else f"MLFLOW_TRACKING_URI={tracking_uri()} "
        )
        raise ExperimentDeleted(
            f"tracking.experiment: {name!r} was deleted in MLflow; restore it by `{store}mlflow "
            f"experiments restore --experiment-id {experiment.experiment_id}`, or name another one"
        )
    if experiment:
        return experiment.experiment_id
    # A server stores artifacts where it was told to; the embedded default needs a folder.
    local = None if os.environ.get("MLFLOW_TRACKING_URI") else (home() / ARTIFACTS).as_uri()
    return client().create_experiment(name, artifact_location=local)


def _metrics(
    rows: list[tuple[int, Mapping[str, float]]], at: datetime | None = None
) -> "list[Metric]":
    """Return rows of metrics by step; a row that MLflow has, of the same time, stays single there."""
    from mlflow.entities import Metric

    then = round((at or datetime.now(UTC)).timestamp() * 1000)
    return [Metric(key, value, then, step) for step, row in rows for key, value in row.items()]


def _without_step(row: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name != "step"}


def _params(params: Mapping[str, Any]) -> "list[Param]":
    from mlflow.entities import Param

    return [Param(key, setting_text(value)[:PARAM_LIMIT]) for key, value in params.items()]


def _tags(tags: Mapping[str, str]) -> "list[RunTag]":
    from mlflow.entities import RunTag

    return [RunTag(key, value) for key, value in tags.items()]


def setting_text(value: Any) -> str:
    """Return a parameter as text: the same for values that mean the same."""
    return value if isinstance(value, str) else json.dumps(value, default=str, sort_keys=True)
