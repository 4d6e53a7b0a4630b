"""An LLM judge decides who serves, from run to run, unless people do not agree with it."""

from itertools import pairwise
from typing import Any

import pytest

from tests.flows.colours import IMPROVED, Colours
from tests.judge_server import JudgeServer, judge_server, parts, said
from tests.tasks.conftest import COLOURS

pytestmark = [pytest.mark.proof, pytest.mark.timeout(1800)]


def knowing(body: dict[str, Any]) -> str:
    """Prefer the answer that stands in the question, as it should."""
    sent = parts(body)
    asked = sent["Conversation"].split()
    first, second = (sent[which].strip() in asked for which in ("First answer", "Second answer"))
    return said("tie" if first == second else "first" if first else "second")


@pytest.fixture(scope="module")
def judge():
    with judge_server(knowing) as server:
        yield server


@pytest.fixture(scope="module")
def project(tmp_path_factory, judge: JudgeServer) -> Colours:
    evaluation = {"generation_rows": 40, "max_new_tokens": 4, "batch_size": 16, "battery": False}
    project = Colours(
        tmp_path_factory.mktemp("project"),
        evaluation=evaluation
        | {"judge": {"url": judge.url, "model": "m", "compare": ["held_out"], "attempts": 2}},
        promotion={"wins": ["held_out/preferred"]},
    )
    # In each pair people prefer the answer that is wrong.
    wrong_first = [
        {"prompt": f"say {colour} now", "answers": [other, colour], "verdict": "first"}
        for colour, other in pairwise(COLOURS)
    ]
    wrong_second = [
        line | {"answers": line["answers"][::-1], "verdict": "second"} for line in wrong_first
    ]
    project.write("labels.jsonl", (wrong_first + wrong_second) * 2)
    return project


def ended(project: Colours, *settings: str, code: int = 0) -> tuple[str, str]:
    """Run the line; return the state in which it ended and the sentence that says why."""
    done = project.retune("run", "recipe.yaml", *settings)
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return project.flow_run()[:2]


def test_the_judge_decides_unless_people_do_not_agree_with_it(project, judge):
    state, why = ended(project)
    assert state == "Promoted"
    assert why.startswith("colours/1 serves: expected: better than the base by answers that the")
    assert len(judge.bodies) == 2 * 40  # both orders of each pair

    labels = ("--set", "evaluation.judge.labels=labels.jsonl")
    state, why = ended(project, *IMPROVED, *labels)
    assert state == "Undecided"
    assert "the verdicts judge.agreement and judge.no_votes say why (promotion.wins)" in why
    _, run, _ = project.newest_mlflow_run()
    assert run.data.metrics["judge/kappa/comparison"] == -1

    state, why = ended(project, *IMPROVED)
    assert state == "Promoted"
    assert why.startswith("colours/2 serves instead of version 1: expected: better than the")


def test_a_judge_that_is_away_is_a_sentence_and_the_next_run_asks_again(project, judge):
    """The model before, which is worse than the one that serves by now."""
    moved = ("--set", "evaluation.judge.criteria=Be right.")
    away = ("--set", "evaluation.judge.url=http://127.0.0.1:9/v1")
    asked = len(judge.bodies)
    assert ended(project, *IMPROVED, *moved, *away)[0] == "Equivalent"  # it serves: nobody is asked
    state, why = ended(project, *moved, *away, code=2)
    assert state == "Failed"
    assert why.startswith("evaluation.judge.url: the judge did not answer after 2 attempts")
    assert len(judge.bodies) == asked
    state, why = ended(project, *moved, code=1)
    assert state == "Rejected"
    assert "answers that the judge prefers" in why
    assert len(judge.bodies) > asked
