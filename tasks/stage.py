"""What every stage's task shares: Prefect skips it while the output it would make still exists."""

from functools import partial
from typing import Any

from prefect import task
from prefect.cache_policies import CacheKeyFnPolicy

from retune.workspace import home


def _record_in_output_folder(_context: Any, parameters: dict[str, Any]) -> str:
    return f"{parameters['step'].name}/prefect.json"


# The key says what determines the output (see flows/plan.py). Prefect keeps the task's result, by
# this key, inside the output's own folder: whoever deletes the output deletes the hit with it, and
# no other folder or database has a say.
stage = partial(
    task,
    cache_policy=CacheKeyFnPolicy(cache_key_fn=_record_in_output_folder),
    result_storage=home() / "work",
    result_serializer="json",
)
