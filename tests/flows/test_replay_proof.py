"""A run that is made again where nothing is left of it but what MLflow keeps."""

import json
import re

import pytest

from tests.flows.colours import Colours, rows
from tests.flows.test_promotions_proof import on_sqlite

pytestmark = [pytest.mark.proof, pytest.mark.timeout(2400)]
SHORT = ("--set", "training.max_steps=20")


def test_an_empty_home_makes_the_same_adapter_and_refuses_other_inputs(tmp_path):
    (tmp_path / "project").mkdir()
    project, empty = Colours(tmp_path / "project"), tmp_path / "empty"
    with on_sqlite(tmp_path) as server:
        done = project.retune("run", "recipe.yaml", *SHORT, **server)
        assert done.returncode == 0, done.stderr[-3000:]

        elsewhere = server | {"RETUNE_HOME": str(empty)}
        again = project.retune("replay", "colours@challenger", **elsewhere)
        assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
        assert "\nidentical: " in again.stdout
        assert re.search(r"train/adapter\s+[0-9a-f]{12}\s+the same", again.stdout), again.stdout
        served = json.loads(project.retune("history", "colours", "--json", **server).stdout)
        assert [entry["serving"] for entry in served] == [1]  # a replay promotes nothing

        project.write("good.jsonl", rows()[8:])
        refused = project.retune("replay", "colours@challenger", **elsewhere)
        assert refused.returncode == 2
        assert "dataset.source: the run had sha256:" in refused.stderr
        assert "Traceback" not in refused.stderr
