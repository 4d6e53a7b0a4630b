"""What a command or a worker's run writes is for its user's eyes alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
# A command, and a flow run that came to a team's own worker and so by no command.
CODE = {
    "command": "from flows import local; local.configure()",
    "worker": "from flows.retrain import retrain\nretrain.fn(name='r', dataset=None, model=None)",
}
WRITE = """
import subprocess
from retune.building import building
from retune.outputs import Output, Step
with building(Step(stage="train", key={})) as build:
    (build.path / "mine").touch()
    subprocess.run(["touch", build.path / "childs"], check=True)
    build.finish(Output)
"""


@pytest.mark.parametrize("how", ["command", pytest.param("worker", marks=pytest.mark.proof)])
def test_all_below_a_new_home_is_private(tmp_path, how):
    environment = os.environ | {"RETUNE_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    environment["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "false"  # a refused run shows no page here
    code = f"import os; os.umask(0o022)\n{CODE[how]}\n{WRITE}"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=tmp_path)
    places = [tmp_path / "home", *(tmp_path / "home").rglob("*")]
    assert {"mine", "childs", "output.json"} <= {path.name for path in places}
    assert {path.stat().st_mode & 0o077 for path in places} == {0}
