"""Base and tuned model compared; the numbers agree with ones computed by hand."""

import json
import math

import pyarrow.parquet as pq
import pytest

from expectations.regression import judgement
from expectations.verdicts import Rejected, require
from retune.held_out import Question, questions
from retune.recipe import Evaluation
from retune.workspace import Step
from tasks.evaluate import child
from tasks.evaluate.task import (
    evaluate,
    exact_match,
    make_job,
    metric_name,
    sample_table,
    show_samples,
    stopped,
)

CONFIG = Evaluation(max_new_tokens=8, batch_size=3, samples=4, prompts=("say grey",))


@pytest.fixture(scope="module")
def scores(project, trained):
    with project.at_home():
        step = Step(stage="evaluate", key={"test": 1})
        recipe = project.recipe(evaluation=CONFIG)
        scores = evaluate.fn(trained.adapter, project.chats, recipe, project.pins, step)
        require(judgement(scores, recipe))
        return scores


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
    assert len(samples) == 16 + 1
    assert {row["family"] for row in samples} == {"copy", "next/word", "prompt"}
    assert all(row["match"] is True for row in samples[:-1])
    assert samples[-1]["prompt"] == "say grey"


def test_the_first_samples_and_all_prompts_are_shown(at_home, scores, monkeypatch):
    shown = {}
    monkeypatch.setattr("tasks.evaluate.task.create_table_artifact", lambda **of: shown.update(of))
    samples = json.loads((scores.folder / "samples.json").read_text())
    show_samples(samples, CONFIG.samples)
    assert [row["prompt"] for row in shown["table"]] == [
        row["prompt"] for row in [*samples[:4], samples[-1]]
    ]


def test_every_question_is_there_with_the_tuned_model_s_answer(at_home, scores):
    asked = questions(at_home.chats.held_out, CONFIG.generation_rows)
    answers = json.loads(scores.answers.read_text())
    assert [one["row"] for one in answers] == [question.row for question in asked]
    assert all(q.matches(one["text"]) for q, one in zip(asked, answers, strict=True))
    assert all(one["stopped"] is True for one in answers)


@pytest.mark.parametrize("fits", [1, 5])
def test_batches_that_do_not_fit_are_made_smaller(at_home, trained, scores, fits, monkeypatch):
    """Memory may be short in any of them; the answers stay the same."""
    import torch
    from transformers import AutoTokenizer

    from retune.models import load_tuned

    asked = questions(at_home.chats.held_out, CONFIG.generation_rows)
    config = CONFIG.model_copy(update={"batch_size": None})
    job = make_job(trained.adapter, at_home.chats, at_home.model, config, None, asked)
    model = load_tuned(at_home.model, None, trained.adapter.path)
    generate, sizes = model.generate, []

    def short_of_memory(input_ids, **options):
        sizes.append(len(input_ids))
        if len(input_ids) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(input_ids=input_ids, **options)

    monkeypatch.setattr(model, "generate", short_of_memory)
    tokenizer = AutoTokenizer.from_pretrained(at_home.chats.tokenizer)
    answers = child.answer(model, tokenizer, job)
    assert [one["text"] for one in json.loads(scores.answers.read_text())] == [
        answer.text for answer in answers[:-1]
    ]
    assert sizes[0] == 17
    assert max(sizes[-3:]) <= fits
    with pytest.raises(torch.OutOfMemoryError):
        fits = 0
        child.answer(model, tokenizer, job)


def test_an_answer_that_is_cut_off_has_not_stopped():
    answers = {
        "base": [{"text": "a", "stopped": False}] * 3,
        "tuned": [{"text": "b", "stopped": True}, {"text": "c", "stopped": False}] * 2,
    }
    assert stopped(answers, 3) == {"stopped/base": 0, "stopped/tuned": pytest.approx(2 / 3)}
    assert stopped(answers, 0) == {}


def test_a_regression_is_refused_with_all_that_was_measured(at_home, scores):
    """A limit that is moved is no reason to measure again."""
    config = CONFIG.model_copy(update={"max_loss_ratio": 1e-3})
    recipe = at_home.recipe(evaluation=config)
    again = evaluate.fn(None, at_home.chats, recipe, at_home.pins, scores.step)
    assert again.name == "Cached"
    assert again.data == scores
    tuned, base = (scores.metrics[f"loss/{side}"] for side in ("tuned", "base"))
    with pytest.raises(Rejected, match=f"{tuned:.4f} against {base:.4f}.*max_loss_ratio"):
        require(judgement(again.data, recipe))
    assert all((scores.folder / file).exists() for file in scores.files)


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
    (row,) = sample_table([], answers, ("p",))
    assert row == {
        "prompt": "p", "expected": "", "base": "b", "tuned": "t", "family": "prompt", "match": None,
    }  # fmt: skip
