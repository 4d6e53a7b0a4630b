"""The environment: what is installed has the hash in the lock, and nothing else is erased for it."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
LOCKS = ("requirements.lock", "infra/cuda.lock", "infra/no-dependencies.txt")


def install(venv: str, cwd: Path) -> str:
    """Run the script on a folder that it must refuse; return what it says."""
    done = subprocess.run(
        [ROOT / "infra" / "install.sh", sys.executable, venv],
        cwd=cwd, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout
    assert "Installing" not in done.stdout
    return done.stderr


@pytest.fixture
def project(tmp_path):
    """A folder `project` in a user's folder; both hold something."""
    folder = tmp_path / "project"
    (folder / "data").mkdir(parents=True)
    for place in (tmp_path, folder, folder / "data"):
        (place / "thesis.tex").write_text("mine")
    (folder / "link").symlink_to(tmp_path)
    return folder


@pytest.mark.parametrize(
    ("venv", "said"),
    [
        ("..", "would be erased"),
        (".", "would be erased"),
        ("data", "would be erased"),
        ("link", "is a link"),
        ("link/", "is a link"),
        ("link/project/data", "would be erased"),
        ("thesis.tex", "is not a folder"),
        ("", "is empty"),
    ],
)
def test_no_folder_of_others_is_erased(project, venv, said):
    assert said in install(venv, project)
    for place in (project.parent, project, project / "data"):
        assert (place / "thesis.tex").read_text() == "mine"


@pytest.mark.parametrize("there", [["pyvenv.cfg"], [".ready"]])
def test_another_environment_is_not_erased(project, there):
    for name in there:
        (project / "data" / name).touch()
    assert "that `make env` did not make" in install("data", project)
    assert (project / "data" / "thesis.tex").exists()


def entries(name: str) -> dict[str, str]:
    """Return the entries of a lock by their first line's requirement."""
    text = re.sub(r"^#.*\n", "", (ROOT / name).read_text(), flags=re.MULTILINE)
    found = re.findall(r"^\S.*\n(?:\s+.*\n)*", text, re.MULTILINE)
    assert "".join(found) == text
    return {entry.split()[0]: entry for entry in found}


@pytest.mark.parametrize("name", LOCKS)
def test_every_version_has_its_hashes(name):
    assert entries(name)
    for requirement, entry in entries(name).items():
        assert re.fullmatch(r"[a-z0-9-]+==[\w.]+", requirement)
        assert re.search(r" --hash=sha256:[0-9a-f]{64}\b", entry)
        assert "://" not in entry


def test_all_that_is_installed_is_locked():
    """Of what the project asks for, and of what that asks for, only torch has no hash."""
    locked = {
        one.partition("==")[0]: one.partition("==")[2] for name in LOCKS for one in entries(name)
    }
    assert "torch" not in locked
    lines = (ROOT / "infra" / "torch.txt").read_text().splitlines()
    locked["torch"] = lines[-1].removeprefix("torch==")
    assert lines[-1] == f"torch=={metadata.version('torch').partition('+')[0]}"
    only_cuda = {one.partition("==")[0] for one in entries("infra/cuda.lock")}
    wanted, seen = ["retune[dev]", "unsloth", "unsloth-zoo"], set()
    from packaging.requirements import Requirement

    while wanted:
        need = Requirement(wanted.pop())
        if str(need) in seen or need.name in only_cuda:
            continue
        seen.add(str(need))
        for extra in ("", *need.extras):
            for text in metadata.requires(need.name) or []:
                inner = Requirement(text)
                if inner.marker and not inner.marker.evaluate({"extra": extra}):
                    continue
                name = re.sub(r"[-_.]+", "-", inner.name.lower())
                if name in only_cuda:
                    continue
                if name in locked:
                    assert metadata.version(name).partition("+")[0] == locked[name]
                    wanted.append(f"{name}[{','.join(inner.extras)}]" if inner.extras else name)
                else:
                    assert need.name.startswith("unsloth"), f"{need} wants {inner}"


def test_only_torch_and_the_project_itself_go_unchecked():
    text = (ROOT / "infra" / "install.sh").read_text()
    unchecked = [
        line
        for line in text.splitlines()
        if line.startswith('"${pip[@]}"') and "--require-hashes" not in line
    ]
    assert unchecked == [
        '"${pip[@]}" --requirement infra/torch.txt',
        '"${pip[@]}" --no-build-isolation --no-index --editable .',
    ]
