"""The gate as a stage on a cluster has it, over all of its machines, in a process that a test starts:
`python -m tests.flows.spread_gate ADDRESS ROWS CLASSIFIER FOLDER`."""

import json
import os
import sys
from pathlib import Path

import psutil

from expectations.data.messages import Rules
from flows.ray_cluster import connected
from retune.child import ChildRefused
from retune.outputs import Step
from retune.placement import Assignment
from retune.recipe import Recipe
from retune.suites.cases import SuiteCase
from tasks.validate import scoring, spread, spread_scores
from tasks.validate.screening import screen, settle

KNOWN, REFUSED = "known.json", "refused.txt"
PROMPT = "how many roads must a man walk down before you call him a man"


def recipe(classifier: str) -> Recipe:
    return Recipe.parse(
        {
            "name": "spread",
            "model": {"base": "b"},
            "dataset": {"source": "d"},
            "infra": {"spread_rows": 100},
            "validation": {
                "quarantine_rows": "whole",
                "score_quantiles_min": {0.05: -9.0},
                "classifier": {"model": classifier, "score": "all", "max_length": 24},
            },
        }
    )


def judged(rows: Path, classifier: str, folder: Path) -> None:
    """Screen and settle the rows, by the machines that a stage here has for it."""
    given = recipe(classifier)
    rules = Rules(
        given.validation, ("<s>",), (PROMPT,), (SuiteCase("mine/0", (PROMPT + " indeed",)),)
    )
    scoring.SHARD_ROWS, spread_scores.SHARDS, spread.PART_ROWS = 16, 4, 80
    table = screen(rows, rules, folder, spread.look_for(rows, given))
    settle(rows, table, rules, folder, print, folder, spread_scores.score_for(rows, given))


class Looker(spread._Looker):
    """Looks at rows, and notes in the host's home which variables its children's server knows."""

    def __call__(self, rows: bytes) -> bytes:
        found = super().__call__(rows)
        (server,) = (
            process
            for process in psutil.Process().children(recursive=True)
            if "retune.forkserver" in process.cmdline()
        )
        known = Path(os.environ["RETUNE_HOME"]) / KNOWN
        known.write_text(json.dumps([*server.environ()]))
        return found


def placed(rows: Path, classifier: str, folder: Path) -> None:
    """Be the machine that the stage was sent to."""
    step = Step(stage="screen", key={})
    given = recipe(classifier)
    with Assignment(os.environ["RETUNE_STORE"]).at_work(given, step, "tasks.validate.task", print):
        assert spread.is_spread(rows, given)
        spread._Looker = Looker
        judged(rows, classifier, folder)
        try:
            list(spread.spread(range(3), str, _refuse))
        except ChildRefused as refused:
            (Path(os.environ["RETUNE_HOME"]) / REFUSED).write_text(str(refused))


def _refuse(number: str) -> bytes:
    raise ChildRefused(f"part {number} is refused")


def main() -> None:
    import ray

    address, rows, classifier, folder = sys.argv[1:]
    with connected(address):
        stage = ray.remote(num_cpus=1, resources={"stage": 1})(placed)
        ray.get(stage.remote(Path(rows), classifier, Path(folder)))


if __name__ == "__main__":
    main()
