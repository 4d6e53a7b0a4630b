"""Base and tuned model compared; the numbers agree with ones computed by hand."""

import json
import math

import pyarrow.parquet as pq
import pytest

from retune.config import Evaluation
from retune.held_out import Question, questions
from retune.workspace import Step
from tasks.evaluate.task import (
    RegressionFound,
    evaluate,
    exact_match,
    metric_name,
    require_no_regression,
    sample_table,
    stopped,
)

CONFIG = Evaluation(max_new_tokens=8, batch_size=3, samples=4, prompts=("say grey",))


@pytest.fixture(scope="module")
def scores(project, trained):
    with project.at_home():
        step = Step(stage="evaluate", key={"test": 1})
        return evaluate.fn(
            trained.adapter, project.chats, project.model, CONFIG, step, trained.run, project.pins
        )


def loss_by_hand(model, rows) -> float:
    """Mean NLL of each next token, one row at a time, no batch, no mask, no padding."""
    import torch

    scores = []
    for ids in rows:
        with torch.inference_mode():
            probabilities = model(torch.tensor([ids])).logits[0].double().softmax(-1)
        scores += [-math.log(probabilities[n, token]) for n, token in enumerate(ids[1:])]
    return sum(scores) / len(scores)


def test_losses_are_those_computed_by_hand(at_home, trained, scores):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    rows = pq.read_table(at_home.chats.held_out)["input_ids"].to_pylist()
    base = AutoModelForCausalLM.from_pretrained(at_home.model.base, dtype=torch.float32)
    assert scores.metrics["loss/base"] == pytest.approx(loss_by_hand(base, rows), rel=1e-4)
    tuned = loss_by_hand(PeftModel.from_pretrained(base, trained.adapter.path).eval(), rows)
    assert scores.metrics["loss/tuned"] == pytest.approx(tuned, rel=1e-4)
    assert scores.metrics["perplexity/tuned"] == pytest.approx(math.exp(tuned), rel=1e-4)


def test_a_model_that_learned_its_rows_by_heart_answers_them(at_home, scores):
    """Each answer must also end: pad is EOS here, and training must not have masked it."""
    assert scores.metrics["exact_match/tuned"] == 1
    assert scores.metrics["exact_match/next_word/tuned"] == 1
    assert scores.metrics["exact_match/base"] == 0
    assert scores.metrics["stopped/tuned"] == 1
    assert scores.metrics["stopped/base"] < 0.5
    samples = json.loads((scores.folder / "samples.json").read_text())
    assert len(samples) == 4 + 1
    assert {row["family"] for row in samples} == {"copy", "next/word", "prompt"}
    assert samples[0]["match"] is True
    assert samples[-1]["prompt"] == "say grey"


def test_every_question_is_there_with_the_tuned_model_s_answer(at_home, scores):
    asked = questions(at_home.chats.held_out, CONFIG.generation_rows)
    answers = json.loads(scores.answers.read_text())
    assert [one["row"] for one in answers] == [question.row for question in asked]
    assert all(q.matches(one["text"]) for q, one in zip(asked, answers, strict=True))
    assert all(one["stopped"] is True for one in answers)


def test_an_answer_that_is_cut_off_has_not_stopped():
    answers = {
        "base": [{"text": "a", "stopped": False}] * 3,
        "tuned": [{"text": "b", "stopped": True}, {"text": "c", "stopped": False}] * 2,
    }
    assert stopped(answers, 3) == {"stopped/base": 0, "stopped/tuned": pytest.approx(2 / 3)}
    assert stopped(answers, 0) == {}


def test_a_regression_is_refused_with_its_numbers():
    metrics = {"loss/base": 2.0, "loss/tuned": 2.2}
    require_no_regression(metrics, Evaluation(max_loss_ratio=1.2))
    with pytest.raises(
        RegressionFound, match=r"2\.2000 against 2\.0000.*ratio of 1\.100.*allows 1\."
    ):
        require_no_regression(metrics, Evaluation())
    with pytest.raises(RegressionFound):
        require_no_regression({"loss/base": 2.0, "loss/tuned": math.nan}, Evaluation())


def test_exact_match_per_family():
    asked = [Question(n, "a b" if n < 2 else "c", [], "yes") for n in range(3)]
    answers = {"base": ["no", "no", "no"], "tuned": [" yes\n", "no", "yes"]}
    assert exact_match(asked, answers) == {
        "exact_match/base": 0,
        "exact_match/tuned": pytest.approx(2 / 3),
        "exact_match/a_b/base": 0,
        "exact_match/a_b/tuned": 0.5,
        "exact_match/c/base": 0,
        "exact_match/c/tuned": 1,
    }
    assert exact_match([], {"base": [], "tuned": []}) == {}
    assert metric_name("größe/x y:z") == "gr__e_x_y_z"


def test_the_sample_table_without_questions_holds_the_prompts():
    answers = {"base": ["b"], "tuned": ["t"]}
    (row,) = sample_table([], answers, Evaluation(prompts=("p",)))
    assert row == {
        "prompt": "p", "expected": "", "base": "b", "tuned": "t", "family": "prompt", "match": None,
    }  # fmt: skip
