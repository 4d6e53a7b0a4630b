"""The child that looks at a part of a dataset's rows, each by itself, on a machine of a cluster."""

from pathlib import Path

from pydantic import BaseModel

from expectations.data.looking import look_here
from expectations.data.messages import Rules
from expectations.data.tables import writing
from retune.child import Event, main
from retune.recipe import Validation
from retune.suites.cases import SuiteCase


class LookJob(BaseModel):
    """Write what `look` says of the rows in the Parquet file `rows` into the file `lines`; the rest are
    the fields of `Rules`."""

    rows: Path
    lines: Path
    config: Validation
    special_tokens: tuple[str, ...]
    prompts: tuple[str, ...]
    cases: tuple[SuiteCase, ...]


def look_at(job: LookJob) -> Event:
    """Return how many `rows` were looked at."""
    rules, count = Rules(job.config, job.special_tokens, job.prompts, job.cases), 0
    with writing(job.lines) as write:
        for lines in look_here(job.rows, rules):
            write(lines)
            count += len(lines)
    return {"rows": count}


if __name__ == "__main__":
    main(LookJob, look_at)
