"""Runs of the small line that are killed again and again end as one that nobody touched.

`RETUNE_CHAOS_KILLS` (3) and `RETUNE_CHAOS_SEED` (1) say how much and which; `make chaos` does 40.
"""

import os
import shutil
import time
from functools import partial
from pathlib import Path

import pytest
import yaml

from tests.flows.chaos import GOOD, PATIENCE, Chaos, begin, curves, left_open, outputs, state
from tests.flows.servers import retune_ui, wait_for
from tests.flows.test_line import Project

KILLS = int(os.environ.get("RETUNE_CHAOS_KILLS", "3"))
SEED = int(os.environ.get("RETUNE_CHAOS_SEED", "1"))
STEPS = 12
PAUSE = 45  # seconds between two strikes, at most
IN_A_RUN = 4  # strikes, at most: then it is to end


def recipe(project: Project) -> dict:
    settings = yaml.safe_load((project.folder / "recipe.yaml").read_text())
    settings["model"]["base"] = str(project.folder / "base")
    settings["dataset"]["source"] = str(project.folder / "good.jsonl")
    settings["training"] |= {"backend": "trl", "max_steps": STEPS, "checkpoint_steps": 2}
    settings["merging"] = {"save_method": "merged_16bit"}
    settings["quantization"] |= {"methods": ["q8_0", "q4_k_m"], "gates": {}}
    settings["validation"] = {}  # not the deployment's, which wants more rows
    # What a random model answers, and forgets, is not the same with every version of torch.
    gates = ("quantize.same_top_token", "promote.budget", "promote.no_worse")
    settings["gates"] = {"severities": dict.fromkeys(gates, "warning")}
    return settings


@pytest.mark.proof
@pytest.mark.timeout(4 * 3600)
def test_runs_that_are_killed_at_random_end_as_one_that_nobody_touched(tmp_path, monkeypatch):
    monkeypatch.setenv("RETUNE_ATTEMPTS", "99")
    project = Project(tmp_path)
    settings = recipe(project)
    (tmp_path / "chaos.yaml").write_text(yaml.safe_dump(settings))
    done = project.retune("run", "chaos.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    untouched = outputs(tmp_path / ".retune")
    assert len(untouched) >= 4

    home, chaos = tmp_path / "home", Chaos(tmp_path / "home", SEED)
    number = 0
    while len(chaos.done) < KILLS:
        number += 1
        name = f"chaos{number}"
        disturbed(home, chaos, settings | {"name": name}, min(IN_A_RUN, KILLS - len(chaos.done)))
        for run, steps in curves(home, name).items():
            assert steps == list(range(1, STEPS + 1)), (run, chaos.done)
            assert run.endswith("FINISHED"), chaos.done
        made = {file.replace(name, "sums"): sha for file, sha in outputs(home).items()}
        assert made == untouched, chaos.done
        shutil.rmtree(home / "work")
    print(f"seed {SEED}: {', '.join(chaos.done)}; {number} runs")


NOTHING: dict[str, list] = {
    name: [] for name in ("flow runs", "slots", "processes", "partial outputs")
}


def disturbed(home: Path, chaos: Chaos, settings: dict, strikes: int) -> None:
    """Take a recipe to its end through `strikes`, and see that nothing of it is left."""
    run = ""
    while strikes is not None:
        with retune_ui(home) as servers:
            run = run or begin(servers, settings)
            strikes = struck(home, chaos, run, strikes)
            if strikes is None:
                wait_for(partial(has_ended, home, run), PATIENCE)
                assert state(home, run)[0] in GOOD, (state(home, run), chaos.done)
                wait_for(lambda: left_open(home) == NOTHING, 120)
            else:
                servers.process.wait(30)  # killed with everything else


def struck(home: Path, chaos: Chaos, run: str, strikes: int) -> int | None:
    """Strike up to so many times; return how many are left if `retune ui` is gone, else None."""
    while strikes:
        time.sleep(chaos.random.uniform(1, PAUSE))
        if has_ended(home, run):
            return None
        strikes -= 1
        if chaos.strike(run) == "everything":
            return strikes
    return None


def has_ended(home: Path, run: str) -> bool:
    return state(home, run)[0] in (*GOOD, "Failed", "Rejected", "Cancelled")
