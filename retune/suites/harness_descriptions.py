"""How lm-eval describes tasks, kept by the hash of what says so.

lm-eval is asked in a child, which takes 8 to 16 s of a core; a plan, the run after it and each look for
changes would ask it the same.
"""

import json
from collections.abc import Sequence
from importlib import metadata, util
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from retune.files import digest, sha256, write_whole
from retune.home import cache_dir
from retune.recipe.harness import HarnessTask
from retune.version import installed

PACKAGE = "lm_eval"
FOLDER = "lm-eval-tasks"  # in the user's cache
READER = Path(__file__).with_name("harness_tasks.py")  # what makes descriptions of files


class SuiteDescription(BaseModel):
    """A suite as lm-eval describes it: its `leaves` as `harness_tasks.described_leaf` gives them, and of
    lm-eval's own tasks the `places` (folders below its tasks) where they are described."""

    leaves: list[dict[str, Any]]
    places: list[str]


class Kept(SuiteDescription):
    """A description in the cache; `files` is the digest of what lay at its places."""

    files: str


def kept(task: HarnessTask, folder: str | None) -> SuiteDescription | None:
    """Return the description of a suite that was made of the same files before, None if there is none.

    `folder` is the version of the suite's own folder, None for tasks of lm-eval's own.
    """
    try:
        entry = Kept.model_validate_json(_path(task, folder).read_bytes())
    except (OSError, ValidationError):
        return None
    return entry if folder or entry.files == _files(entry.places) else None


def keep(task: HarnessTask, folder: str | None, description: SuiteDescription) -> None:
    """Keep a description for the next that asks; where there is no room for it, that one asks lm-eval."""
    if not folder and _is_being_edited():
        return
    leaves, places = description.leaves, description.places
    entry = Kept(leaves=leaves, places=places, files="" if folder else _files(places))
    path = _path(task, folder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, entry.model_dump_json())
    except OSError:
        return


def _path(task: HarnessTask, folder: str | None) -> Path:
    asked = [task.task, task.metric, task.few_shot, folder]
    return cache_dir() / FOLDER / f"{digest([installed(PACKAGE), sha256(READER), *asked])}.json"


def _files(places: Sequence[str]) -> str:
    """Return the digest of the files in places of lm-eval's own tasks."""
    found = util.find_spec(PACKAGE)
    assert found
    assert found.submodule_search_locations
    root = Path(found.submodule_search_locations[0], "tasks")
    files = sorted(file for place in places for file in (root / place).iterdir())
    return digest([(file.name, sha256(file)) for file in files if file.is_file()])


def _is_being_edited() -> bool:
    """Tell whether lm-eval is a checkout, in which anything may change under one version."""
    origin = metadata.distribution(PACKAGE).read_text("direct_url.json")
    return bool(origin and json.loads(origin).get("dir_info", {}).get("editable"))
