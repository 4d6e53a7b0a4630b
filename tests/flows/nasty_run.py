"""A flow whose every artifact, log line and message quotes nasty text, by the stages' own words."""

import json
import sys

from flows import local

local.configure()

from prefect import flow, get_run_logger, task  # noqa: E402
from prefect.artifacts import create_markdown_artifact  # noqa: E402

from expectations.report import DatasetRejected, Report  # noqa: E402
from flows.summary import Grid  # noqa: E402
from retune.config import Evaluation  # noqa: E402
from retune.held_out import Question  # noqa: E402
from tasks import conform, evaluate, validate  # noqa: E402
from tasks import format as formatting  # noqa: E402
from tests.nasty import MARK, NASTY  # noqa: E402

TEXTS = [text for text in NASTY.values() if "\ud800" not in text]  # of which a dataset has none


@task
def shown(report: Report, folder: str) -> None:
    """What validate, conform, format and evaluate show of a dataset like this."""
    import polars as pl

    validate._show(report)
    checks = [
        conform.Check(name=f"check of {text}", passed=False, seen=text, fix="") for text in TEXTS
    ]
    conform._show(
        conform.Report(base=TEXTS[3], chat_tokens="add", tokenizer="T", checks=checks, parity=None)
    )
    pl.DataFrame({"text": ["\n".join(TEXTS)[:1990]]}).write_parquet(f"{folder}/train.parquet")
    numbers = {"rows/train": 1, "rows/held_out": 1, "tokens/total": 1, "truncated_share": 0.0}
    formatting._show(f"{folder}/train.parquet", numbers)
    questions = [
        Question(row=n, prompt=[{"role": "user", "content": t}], expected=t, family=t)
        for n, t in enumerate(TEXTS)
    ]
    evaluate.show_samples(
        evaluate.sample_table(
            questions, {"base": TEXTS, "tuned": TEXTS}, Evaluation(samples=20, prompts=())
        )
    )


@flow(name="nasty")
def nasty(report: Report, folder: str) -> None:
    shown(report, folder)
    grid = Grid(title=TEXTS[0], columns=["", TEXTS[4]], rows=[[text, text] for text in TEXTS])
    create_markdown_artifact(key="summary", markdown=grid.markdown(), description="The run")
    get_run_logger().info(MARK)
    raise DatasetRejected(report.message())


if __name__ == "__main__":
    found = json.load(open(f"{sys.argv[1]}/report.json"))  # noqa: PTH123, SIM115
    print(nasty(Report.model_validate(found), sys.argv[1], return_state=True).type)
