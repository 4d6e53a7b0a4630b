"""Runs of a recipe one after the other in one process: `python -m tests.flows.many_runs RECIPE CHANGES…`.

Each of CHANGES is a JSON list of `section.key=value`. Of each run a line of JSON is printed: how it ended
and why. It is `retune run` without the half minute in which its libraries and Prefect's server start.
"""

import json
import sys
import time

from expectations.verdicts import Rejected
from flows.recipes import load
from flows.starting import start_prefect


def main(name: str, changes: list[str]) -> None:
    recipes = [load(name, json.loads(change)) for change in changes]
    start_prefect()
    from flows.retrain import retrain

    for change, recipe in zip(changes, recipes, strict=True):
        started = time.monotonic()
        try:
            summary = retrain(**dict(recipe))
            said = {"ending": summary.ending, "reason": summary.reason, "run": summary.run_id}
        except Rejected as rejected:
            said = {"ending": "Rejected", "reason": str(rejected), "run": ""}
        seconds = round(time.monotonic() - started, 1)
        print(json.dumps({"changes": json.loads(change), **said, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
