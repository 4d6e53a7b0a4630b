"""What the files that deploy retune name, so that tests can ask whether it exists."""

import re
import shlex
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
INFRA = ROOT / "infra"
DOCKERFILES = sorted(INFRA.glob("images/*.Dockerfile"))
SCRIPTS = sorted([*INFRA.rglob("*.sh"), *INFRA.rglob("*.sbatch")])
# Variables that are no setting of anybody's library: of the system, or of ours.
OTHERS = re.compile(
    r"PATH|HOME|PG\w+|POSTGRES_\w+|PYTHON\w+|PIP_\w+|AWS_\w+|XDG_CACHE_HOME|HF_TOKEN"
    r"|RETUNE_(HOME|LLAMACPP)"
)


def compose() -> dict[str, Any]:
    """Return compose.yaml as Compose reads it, merge keys unfolded."""
    return yaml.safe_load((INFRA / "compose" / "compose.yaml").read_text())


def program(name: str, package: str) -> str:
    """Return the path of a linter; skips the test where it is not installed."""
    path = Path(sys.executable).with_name(name)
    found = str(path) if path.exists() else shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed ({package})")
    return found


def seconds(text: str) -> int:
    """Return a duration of Compose, such as 180s or 1m30s, in seconds."""
    parts = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", text)
    assert parts, text
    return 60 * int(parts[1] or 0) + int(parts[2] or 0)


def patience() -> int:
    """Return the seconds that a worker which is told to end may need."""
    from flows.runs_at_work import REPORT
    from flows.servers import GRACE
    from tasks.train.task import FINISHING

    return FINISHING + REPORT + GRACE


def is_known_variable(name: str) -> bool:
    """Tell whether somebody reads an environment variable: Prefect, MLflow, the system or we."""
    if OTHERS.fullmatch(name):
        return True
    if name.startswith("PREFECT_"):
        from prefect.settings.legacy import _get_valid_setting_names

        return name in _get_valid_setting_names(_settings())
    known = (package("mlflow") / "environment_variables.py").read_text()
    return f'"{name}"' in known


def package(name: str) -> Path:
    """Return the folder of an installed package, which is not imported: that takes seconds."""
    spec = find_spec(name)
    assert spec
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def _settings() -> type:
    from prefect.settings import Settings

    return Settings


def require_command(command: list[str]) -> None:
    """Fail unless the command line is one that its program takes; of what it does not know, skip."""
    name = Path(command[0]).name
    if name == "retune":
        _require_retune(command[1:])
    elif name == "mlflow":
        assert command[1] == "server"
        _require_options(
            command[2:],
            [*package("mlflow").glob("cli/*.py"), *package("mlflow").glob("utils/cli_args.py")],
        )
    elif name == "prefect":
        words = [word for word in command[1:] if word != "--no-prompt"]  # of the program itself
        _require_options(words[1:], _prefect_sources(words[0]))


def _prefect_sources(command: str) -> list[Path]:
    folder, name = package("prefect") / "cli", command.replace("-", "_")
    return [*folder.glob(f"{name}.py"), *folder.glob(f"{name}/*.py"), folder / "_app.py"]


def _require_options(words: list[str], sources: list[Path]) -> None:
    """Fail unless the sources of a program name each option among `words`."""
    text = "".join(source.read_text() for source in sources)
    for word in words:
        if word.startswith("--"):
            assert re.search(f'"{word.partition("=")[0]}["/]', text), word


def _require_retune(words: list[str]) -> None:
    import typer

    from flows.cli import app

    group = typer.main.get_command(app)
    known = {option for param in group.commands[words[0]].params for option in param.opts}
    assert {word.partition("=")[0] for word in words[1:] if word.startswith("--")} <= known


def commands(text: str) -> list[list[str]]:
    """Return the command lines of `retune`, `prefect` and `mlflow` in a shell's text."""
    parts = re.split(r"&&|\n", text)
    words = [shlex.split(part) for part in parts if part.strip()]
    return [
        line for line in words if line and Path(line[0]).name in ("retune", "prefect", "mlflow")
    ]
