"""The demo, trained again and again with nothing changed but the seed: chance promotes nobody.

`RETUNE_ALIKE_SEEDS` (10) says how many candidates the first one's successors are.
"""

import os
from collections import Counter

import pytest
import yaml

from demo.prepare import prepare
from retune.home import cache_dir
from tests.databases import furnish
from tests.flows.servers import ROOT
from tests.flows.test_line import Project

SEEDS = int(os.environ.get("RETUNE_ALIKE_SEEDS", "10"))


class Demo(Project):
    """A folder with the demo's inputs and its recipe as it is deployed, but for five of the six files."""

    def __init__(self, folder) -> None:
        self.folder = folder
        furnish(folder / ".retune")
        prepare(folder / ".retune" / "demo", cache_dir())
        deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
        (recipe,) = (one["parameters"] for one in deployments if one["name"] == "demo")
        recipe["quantization"]["methods"] = ["q8_0"]
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))


@pytest.mark.proof
@pytest.mark.timeout(3 * 3600)
def test_no_seed_is_promoted_over_another(tmp_path):
    project, ends = Demo(tmp_path), Counter()
    for seed in range(SEEDS + 1):
        done = project.retune("run", "recipe.yaml", "--set", f"training.seed={seed}")
        state, why = project.flow_run()[:2]
        print(f"seed {seed}: {state}: {why}", flush=True)
        assert "Traceback" not in done.stderr
        if seed == 0:
            assert state == "Promoted", done.stdout + done.stderr  # over the base
        else:
            ends[state] += 1
    print(dict(ends))
    assert set(ends) <= {"Equivalent", "Undecided", "Rejected"}
    assert ends["Rejected"] < SEEDS / 2  # most are as good
