"""A flow whose every artifact, log line and message quotes nasty text, by the stages' own words."""

import json
import sys
from typing import Any

from flows import local

local.configure()

from prefect import flow, get_run_logger, task  # noqa: E402
from prefect.artifacts import create_markdown_artifact  # noqa: E402

from expectations import conform  # noqa: E402
from expectations.data.report import Report  # noqa: E402
from expectations.verdicts import Judgement  # noqa: E402
from flows import stage_pages  # noqa: E402
from flows.judging import judging  # noqa: E402
from flows.summary import Grid  # noqa: E402
from retune.held_out import Question  # noqa: E402
from retune.recipe import Recipe  # noqa: E402
from retune.records import Check  # noqa: E402
from tasks.evaluate import task as evaluating  # noqa: E402
from tasks.evaluate.asking import Questionnaire  # noqa: E402
from tasks.format import task as formatting  # noqa: E402
from tasks.format.effects import RefusedRow, TemplateEffects  # noqa: E402
from tests.nasty import MARK, NASTY  # noqa: E402

TEXTS = [text for text in NASTY.values() if "\ud800" not in text]  # of which a dataset has none


class Unlogged:
    """Stands for the MLflow run, which is not what is looked at here."""

    def __getattr__(self, _name: str) -> Any:
        return lambda *_arguments: None


@task
def shown() -> None:
    """What format and evaluate show of a dataset like this."""
    numbers = {"rows/train": 1, "rows/held_out": 1, "tokens/total": 1, "truncated_share": 0.0}
    refused = [RefusedRow(n, text, text) for n, text in enumerate(TEXTS)]
    effects = TemplateEffects(refused=refused)
    formatting._show(
        {
            "metrics": numbers,
            "examples": ["\n".join(TEXTS)[:1990]],
            "reasons": effects.reasons(),
            "reasoning": effects.reasoning,
        }
    )
    questions = [
        Question(row=n, prompt=[{"role": "user", "content": t}], expected=t, family=t)
        for n, t in enumerate(TEXTS)
    ]
    answers = [{"text": text} for text in TEXTS]
    asked = Questionnaire(questions, (), {})
    samples = evaluating.sample_table(asked, {"base": answers, "tuned": answers})
    evaluating.show_samples(samples, 20)


def conformance() -> Judgement:
    recipe = Recipe(name="nasty", model={"base": "b"}, dataset={"source": "d"})
    # Of all in the log the page would show the first lines only.
    checks = [
        Check(
            name=f"check of {text}",
            passed=False,
            seen=text,
            severity="warning" if number < 3 else "info",
        )
        for number, text in enumerate(TEXTS)
    ]
    verdicts = [conform.verdict(check, recipe) for check in checks]
    return Judgement("conform", TEXTS[3], verdicts)


@flow(name="nasty")
def nasty(report: Report, folder: str) -> None:
    shown()
    stage_pages.show_format({"truncated_share": 0.0}, "\n".join(TEXTS)[:1990])
    rows = [
        dict.fromkeys(("prompt", "expected", "base", "tuned", "family"), text) for text in TEXTS
    ]
    stage_pages.show_samples(rows, 20)
    grid = Grid(title=TEXTS[0], columns=["", TEXTS[4]], rows=[[text, text] for text in TEXTS])
    create_markdown_artifact(key="summary", markdown=grid.markdown(), description="The run")
    get_run_logger().info(MARK)
    with judging(Unlogged()) as judge:
        judge(None, conformance())
        judge(None, report.judgement())


if __name__ == "__main__":
    found = json.load(open(f"{sys.argv[1]}/report.json"))  # noqa: PTH123, SIM115
    print(nasty(Report.model_validate(found), sys.argv[1], return_state=True).type)
