"""The recipe's suites of lm-eval: what they are, by exact versions, before anything is downloaded.

lm-eval describes its tasks in YAML files; they are read in a child, which runs no code of theirs.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import BaseModel

from retune.child import run_child
from retune.files import digest
from retune.measures import format_bytes
from retune.recipe import Recipe
from retune.recipe.harness import HarnessTask
from retune.records import HarnessLeaf, HarnessPin
from retune.sources import SourceError, changed, pin, version_of
from retune.suites.harness_descriptions import PACKAGE, SuiteDescription, keep, kept
from retune.version import installed

CHILD = Path(__file__).with_name("harness_child.py")
# Readers of files that `datasets` has by these names, where others are datasets on the Hub.
READERS = frozenset({"arrow", "csv", "json", "parquet", "text", "xml"})
MOST_FILES, MOST_BYTES = 10_000, 2_000_000_000  # of a folder with tasks and their data
CACHES = {"__pycache__", ".ipynb_checkpoints"}  # which come and go by themselves


class DescribeJob(BaseModel):
    """The tasks that are to be described."""

    tasks: tuple[HarnessTask, ...]


class AskedTask(BaseModel):
    """A suite of lm-eval as it is asked: by which settings, and as what it was pinned."""

    task: HarnessTask
    pin: HarnessPin


def asked_tasks(recipe: Recipe, pins: Sequence[HarnessPin]) -> list[AskedTask]:
    """Return the suites of lm-eval for a child."""
    pairs = zip(recipe.evaluation.tasks, pins, strict=True)
    return [AskedTask(task=task, pin=version) for task, version in pairs]


def pin_tasks(recipe: Recipe) -> tuple[HarnessPin, ...]:
    """Return what each suite of lm-eval is today.

    Raises SourceError where lm-eval is not installed, and for a folder that is not there; ChildRefused
    for a task that lm-eval does not know or that is not graded example by example; of its dataset as
    `retune.sources.pin` does.
    """
    tasks = recipe.evaluation.tasks
    if not tasks:
        return ()
    require_installed()
    folders = [_folder_version(task, number) for number, task in enumerate(tasks)]
    described = _described(tasks, folders)
    pins = tuple(
        HarnessPin(
            harness=installed(PACKAGE),
            folder=folders[number],
            places=() if task.folder else tuple(told.places),
            leaves=tuple(_leaf(leaf, task, number) for leaf in told.leaves),
        )
        for number, (task, told) in enumerate(zip(tasks, described, strict=True))
    )
    require_unchanged(recipe, pins)
    for task, folder, told in zip(tasks, folders, described, strict=True):
        keep(task, folder, told)
    return pins


def require_installed() -> None:
    """Raise SourceError unless lm-eval is here."""
    if installed(PACKAGE) == "absent":
        raise SourceError(
            "evaluation.tasks: lm-eval is not installed here; install it with `pip install "
            '"retune[lm-eval]"`, in a checkout with `.venv/bin/pip install --no-deps --require-hashes -r '
            "infra/lm-eval.lock`"
        )


@contextmanager
def tasks_unchanged(recipe: Recipe, pins: Sequence[HarnessPin]) -> Iterator[None]:
    """Hold lm-eval and the folders of tasks to what was pinned while they are read.

    Raises SourceError.
    """
    require_unchanged(recipe, pins)
    yield
    require_unchanged(recipe, pins)


def require_unchanged(recipe: Recipe, pins: Sequence[HarnessPin]) -> None:
    """Raise SourceError unless lm-eval and the folders of tasks are what was pinned."""
    for number, (task, was) in enumerate(zip(recipe.evaluation.tasks, pins, strict=True)):
        if was.harness != installed(PACKAGE):
            raise SourceError(
                f"evaluation.tasks: lm-eval was {was.harness} when the run began, and is "
                f"{installed(PACKAGE)} here; install the same version on every machine"
            )
        if was.folder and _folder_version(task, number) != was.folder:
            raise changed(task.folder or "", f"evaluation.tasks.{number}.folder")


def data_of(config: Mapping[str, Any], folder: str | None, commit: str | None) -> dict[str, Any]:
    """Return the settings of a task that say where its data are: those of its configuration, with files
    of the folder by their whole path, and the dataset on the Hub at its commit.

    Raises ValueError, in words for after the name of the task, for data that nobody can pin.
    """
    path, options = config.get("dataset_path"), dict(config.get("dataset_kwargs") or {})
    if not isinstance(path, str):
        raise ValueError("names no dataset_path; add the dataset, or the reader of its files")
    if path in READERS:
        files = options.get("data_files")
        if not files:
            raise ValueError("names no data_files in dataset_kwargs; add the files in its folder")
        return {"dataset_kwargs": options | {"data_files": _local(files, folder)}}
    if folder and (Path(folder) / path).exists():
        return {"dataset_path": str(Path(folder) / path)}
    return {"dataset_kwargs": options | {"revision": commit}} if commit else {}


def _local(files: Any, folder: str | None) -> Any:
    """Return data files of a folder by their whole paths, in the shape in which they were named."""
    if isinstance(files, dict):
        return {split: _local(of_split, folder) for split, of_split in files.items()}
    if isinstance(files, list):
        return [_local(name, folder) for name in files]
    inside = Path(folder).expanduser().absolute() if folder else None
    if "://" in files or inside is None:
        raise ValueError(
            f"reads {files}, which nobody can pin; copy the file and the task into a folder of yours, "
            f"and name that"
        )
    # Not where we happen to be started, where lm-eval looks: a folder is complete.
    path = (inside / files).resolve()
    if any(part.startswith(".") for part in Path(files).parts if part not in (".", "..")):
        raise ValueError(f"reads {files}, a hidden file, which is not pinned; give it another name")
    if not path.is_relative_to(inside.resolve()) or not path.is_file():
        raise ValueError(f"reads {files}, and no such file is in {folder}; put it there")
    return str(path)


def _described(
    tasks: Sequence[HarnessTask], folders: Sequence[str | None]
) -> Sequence[SuiteDescription]:
    """Return what each suite is: as it was told of the same files before, else as lm-eval says now."""
    known = [kept(task, folder) for task, folder in zip(tasks, folders, strict=True)]
    if all(known):
        return [one for one in known if one]
    absolute = tuple(
        task.model_copy(update={"folder": str(folder_of(task)) if task.folder else None})
        for task in tasks
    )
    with TemporaryDirectory(prefix="retune-tasks-") as folder:
        log = Path(folder) / "tasks.log"
        told = run_child(CHILD, DescribeJob(tasks=absolute), log)["tasks"]
    return [SuiteDescription.model_validate(one) for one in told]


def _leaf(told: Mapping[str, Any], task: HarnessTask, number: int) -> HarnessLeaf:
    """Return one task with the versions of what it reads."""
    config, name = told["config"], f"evaluation.tasks.{number}: {told['name']}"
    folder = str(folder_of(task)) if task.folder else None
    try:
        data = data_of(config, folder, None)
    except ValueError as problem:
        raise SourceError(f"{name} {problem}") from None
    dataset = None if data else str(config["dataset_path"])
    return HarnessLeaf(
        name=told["name"],
        version=told["version"],
        config=digest(config),
        dataset=dataset,
        commit=dataset and _commit(dataset, config, task, number),
        metric=told["metric"],
        filter=told["filter"],
    )


def _commit(dataset: str, config: Mapping[str, Any], task: HarnessTask, number: int) -> str:
    """Return the commit of a dataset on the Hub. Raises SourceError for one on this disk."""
    setting = f"evaluation.tasks.{number}"
    options = config.get("dataset_kwargs") or {}
    revision = task.revisions.get(dataset) or options.get("revision")
    version = pin(dataset, revision, "dataset", setting)
    if version.startswith("sha256:"):
        raise SourceError(
            f"{setting}: {config['task']} reads {dataset} on this disk, which is not in the folder of "
            f"its tasks; copy it there, and set {setting}.folder"
        )
    return version


def folder_of(task: HarnessTask) -> Path:
    """Return the folder of a task that has one."""
    assert task.folder
    return Path(task.folder).expanduser().absolute()


def _folder_version(task: HarnessTask, number: int) -> str | None:
    """Return `sha256:` of the files in a task's folder, None if it has none. Raises SourceError."""
    if not task.folder:
        return None
    folder, setting = folder_of(task), f"evaluation.tasks.{number}.folder"
    if not folder.is_dir():
        raise SourceError(
            f"{setting}: no folder is at {task.folder!r} (looked in {Path.cwd()}); correct the path"
        )
    names, size = [], 0
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if not path.is_file() or CACHES & set(name.parts) or "/." in f"/{name.as_posix()}":
            continue
        names.append(name.as_posix())
        size += path.stat().st_size
        if len(names) > MOST_FILES or size > MOST_BYTES:
            raise SourceError(
                f"{setting}: {task.folder} has more than {MOST_FILES:,} files or "
                f"{format_bytes(MOST_BYTES)}; name a folder that has only tasks and their data"
            )
    if not names:
        raise SourceError(f"{setting}: {task.folder} is empty; name the folder with the tasks")
    # By its name, also where there is but one file.
    listing = f"{version_of(folder, tuple(names))} {names}"
    return f"sha256:{hashlib.sha256(listing.encode()).hexdigest()}"


def pinned_tasks(recipe: Recipe, pins: Sequence[HarnessPin]) -> tuple[HarnessTask, ...]:
    """Return the recipe's suites of lm-eval with the commits of the datasets that they read."""
    pairs = zip(recipe.evaluation.tasks, pins, strict=True)
    return tuple(
        task.model_copy(update={"revisions": dict(task.revisions) | version.commits})
        for task, version in pairs
    )


def described_version(task: HarnessTask, version: HarnessPin) -> str:
    """Return in words as what a suite of lm-eval is asked: that of its harness, its tasks and its pin."""
    several = sorted({leaf.version for leaf in version.leaves})
    graders = sorted({f"{leaf.metric},{leaf.filter}" for leaf in version.leaves})
    shots = "its own" if task.few_shot is None else str(task.few_shot)
    rows = "all" if task.rows is None else str(task.rows)
    return json.dumps(
        {
            "lm-eval": version.harness,
            "task": task.task,
            "version": ", ".join(several[:3]),
            "metric": ", ".join(graders[:3]),
            "few_shot": shots,
            "rows": rows,
            "pin": version.version,
        }
    )
