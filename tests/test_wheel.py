"""The wheel: one package beside those of others, with all that runs read, and it works away from here."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from retune.made_with import made_with
from tests.test_house import ALLOWED, ROOT

APP = "retune_app"
BESIDE = ("LICENSE", "MANIFEST.in", "README.md", "THIRD_PARTY_NOTICES.md", "prefect.yaml")


def sources() -> set[str]:
    """Return the files of the packages in the repository's folders, data included."""
    files = (
        path
        for folder in ALLOWED
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc" and (path.parent / "__init__.py").is_file()
    )
    return {str(path.relative_to(ROOT)) for path in files} - {"flows/installed/__init__.py"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, made of a copy without the network: building leaves files behind."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for name in (*ALLOWED, *BESIDE, "pyproject.toml", "setup.py"):
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, copy / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, copy / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, *offline, "--wheel-dir", out, copy], check=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory) -> Path:
    """A folder that the wheel is installed in: it is unpacked."""
    folder = tmp_path_factory.mktemp("site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def python(site: Path, where: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in a folder of somebody, where only the wheel's package can be found by its path."""
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment = plain | {"PYTHONPATH": str(site), "RETUNE_HOME": str(where / "home")}
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments],
        cwd=where, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_it_takes_one_name_beside_those_of_others(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0] for name in names} == {
        APP,
        f"retune-{metadata.version('retune')}.dist-info",
    }


def test_all_that_is_read_is_there_as_it_is_here(wheel):
    with zipfile.ZipFile(wheel) as archive:
        there = {name for name in archive.namelist() if name.startswith(f"{APP}/")}
        assert there == {f"{APP}/{name}" for name in {*sources(), "__init__.py", "prefect.yaml"}}
        for name in sources() | {"prefect.yaml"}:
            assert archive.read(f"{APP}/{name}") == (ROOT / name).read_bytes(), name
    needed = {"infra/llamacpp/hook.cmake", "infra/llamacpp/tokenize.cpp", "infra/cuda.lock"}
    assert needed <= sources()


def test_it_says_its_licence(site):
    (installed,) = metadata.distributions(path=[str(site)], name="retune")
    assert installed.metadata["License-Expression"] == "Apache-2.0"
    assert len(installed.metadata.get_all("License-File") or []) == 2


def test_its_program_runs_anywhere(site, tmp_path):
    start = "import retune_app; retune_app.main()"
    version = python(site, tmp_path, start, "--version")
    assert version.stdout == f"retune {metadata.version('retune')}\n", version.stderr
    assert "scaffold-suite" in python(site, tmp_path, start, "--help").stdout
    # The deployments came along; the demo's data is made by `python -m retune_app.demo.prepare`.
    planned = python(site, tmp_path, start, "plan", "demo")
    assert "nothing is at '.retune/demo/finetome-demo.jsonl'" in planned.stderr


def test_each_entry_point_leads_into_it(site, tmp_path):
    """In a process that knows of no other path than the one where it is installed."""
    code = f"""
from importlib.metadata import distributions
(retune,) = distributions(path=[{str(site)!r}], name="retune")
print(sorted((one.group, one.name) for one in retune.entry_points if callable(one.load())))
import flows.mlflow_app, retune
print(flows.mlflow_app.__file__, retune.__file__)
"""
    done = python(site, tmp_path, code)
    assert done.returncode == 0, done.stderr
    points, files = done.stdout.splitlines()
    assert points == str(
        [("console_scripts", "retune"), ("mlflow.app", "retune"), ("mlflow.app", "retune-sign-in")]
    )
    assert all(Path(file).is_relative_to(site) for file in files.split())


def test_its_children_find_it(site, tmp_path):
    """A stage's child is started by the path of its script, and imports by name."""
    row = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    code = """
import retune_app
from pathlib import Path
from retune.config import Dataset
from retune.sources import pin
from tasks.fetch.guarded import fetch_rows
source = "rows.jsonl"
print(fetch_rows(Dataset(source=source), pin(source, None, "dataset", "dataset.source"), Path()))
"""
    done = python(site, tmp_path, code)
    assert done.stdout == "1\n", done.stderr


def test_outputs_are_the_same_as_a_checkouts(site, tmp_path):
    code = """
import json, retune_app
from retune.made_with import made_with
print(json.dumps(made_with("format", "tasks.format.task")))
"""
    done = python(site, tmp_path, code)
    assert json.loads(done.stdout) == made_with("format", "tasks.format.task"), done.stderr


def test_its_modules_can_be_started(site, tmp_path):
    start = "import runpy, sys; runpy.run_module('retune_app.infra.llamacpp.build', alter_sys=True)"
    done = python(site, tmp_path, start)
    assert done.returncode == 0, done.stderr


def test_a_checkout_is_found_as_well(tmp_path):
    code = "import flows.installed as app; print(app.HOME)"
    done = python(ROOT, tmp_path, code)
    assert done.stdout == f"{ROOT}\n", done.stderr
