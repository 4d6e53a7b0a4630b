"""Base and tuned model compared; the numbers agree with ones computed by hand."""

import json
import math
import re

import pyarrow.parquet as pq
import pytest

from expectations.regression import judgement
from expectations.verdicts import Rejected, require
from retune.held_out import Question, questions
from retune.labels import IGNORED, labels_of
from retune.outputs import Step
from retune.recipe import Evaluation
from retune.row_losses import RowLoss, row_losses
from retune.tracking import client, start_run
from tasks.evaluate.answering import answer
from tasks.evaluate.asking import Questionnaire, asked
from tasks.evaluate.scores import (
    behaviour,
    exact_match,
    is_repetitive,
    losses,
    metric_names,
)
from tasks.evaluate.task import evaluate, sample_table, show_samples

CONFIG = Evaluation(max_new_tokens=8, batch_size=3, samples=4, prompts=("say grey",), battery=False)


@pytest.fixture(scope="module")
def scores(project, trained):
    with project.at_home():
        step = Step(stage="evaluate", key={"test": 1})
        recipe = project.recipe(evaluation=CONFIG)
        scores = evaluate.fn(trained.adapter, None, project.chats, recipe, project.pins, step)
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


def test_the_loss_is_of_what_is_learned(at_home):
    """A model that was trained on answers alone need not have learned to write the questions."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(at_home.chats.tokenizer)
    model = AutoModelForCausalLM.from_pretrained(at_home.model.base, dtype=torch.float32)
    rows = pq.read_table(at_home.chats.held_out)["input_ids"].to_pylist()[:5]
    labels = [labels_of(ids, tokenizer, "responses") for ids in rows]
    measured = row_losses(model, rows, labels, tokenizer.pad_token_id, 3)
    for ids, of_row, loss in zip(rows, labels, measured, strict=True):
        with torch.inference_mode():
            scores = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        learned = [n for n, label in enumerate(of_row) if label != IGNORED]
        by_hand = -sum(scores[n - 1, ids[n]].item() for n in learned)
        assert (loss.tokens, loss.nats) == (len(learned), pytest.approx(by_hand, rel=1e-4))
        assert 0 < loss.tokens < len(ids) - 1


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


def test_what_is_shown_of_samples_is_masked(at_home, monkeypatch):
    shown, mail = {}, "anna.lindqvist@nordhaus-werk.de"
    monkeypatch.setattr("tasks.evaluate.task.create_table_artifact", lambda **of: shown.update(of))
    texts = dict.fromkeys(("prompt", "expected", "base", "tuned"), f"Ask {mail}.")
    show_samples([{**texts, "family": "a", "match": True}, {**texts, "match": None}], 1)
    assert len(shown["table"]) == 2
    assert all("e-mail" in row["tuned"] for row in shown["table"])
    assert mail not in str(shown)


def test_what_quotes_rows_stays_in_the_folder(at_home, scores):
    """MLflow gets samples that are masked, and the outcomes, of which incidents are made."""
    assert scores.files == ("evaluate.log", "outcomes.parquet")
    assert scores.answers.exists()


def test_every_question_is_there_with_the_tuned_model_s_answer(at_home, scores):
    rows = questions(at_home.chats.held_out, CONFIG.generation_rows, 64)
    answers = json.loads(scores.answers.read_text())
    assert [one["row"] for one in answers] == [question.row for question in rows]
    assert all(q.matches(one["text"]) for q, one in zip(rows, answers, strict=True))
    assert all(one["stopped"] is True for one in answers)


@pytest.mark.parametrize("fits", [1, 5])
def test_batches_that_do_not_fit_are_made_smaller(
    at_home, trained, scores, fits, monkeypatch, tmp_path
):
    """Memory may be short in any of them; the answers stay the same."""
    import torch
    from transformers import AutoTokenizer

    from retune.models import load_tuned

    recipe = at_home.recipe(evaluation=CONFIG)
    prompts = asked(at_home.chats, recipe, at_home.pins).chats(CONFIG)
    model = load_tuned(at_home.model, None, trained.adapter.path)
    generate, sizes = model.generate, []

    def short_of_memory(input_ids, **options):
        sizes.append(len(input_ids))
        if len(input_ids) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(input_ids=input_ids, **options)

    monkeypatch.setattr(model, "generate", short_of_memory)
    tokenizer = AutoTokenizer.from_pretrained(at_home.chats.tokenizer)
    answers = answer(model, tokenizer, prompts, None, "tuned", tmp_path / "log")
    assert [one["text"] for one in json.loads(scores.answers.read_text())] == [
        one.text for one in answers[:-1]
    ]
    assert sizes[0] == 17
    assert max(sizes[-3:]) <= fits
    with pytest.raises(torch.OutOfMemoryError):
        fits = 0
        answer(model, tokenizer, prompts, None, "tuned", tmp_path / "another log")


def question(expected: str, family: str = "f", rendered: str = "") -> Question:
    return Question(0, family, [], expected, rendered)


def both(base: list[str], tuned: list[str]) -> dict[str, list[dict]]:
    sides = {"base": base, "tuned": tuned}
    return {
        side: [{"text": text, "stopped": text != "cut"} for text in texts]
        for side, texts in sides.items()
    }


def test_what_can_be_said_of_any_answers():
    loop = "and so it goes on and on " * 5
    metrics = behaviour([question("four")] * 4, both(["cut"] * 5, ["cut", loop, "b", "c", "d"]))
    assert metrics["stopped/base"] == 0
    assert metrics["stopped/tuned"] == pytest.approx(3 / 4)
    assert (metrics["repetitive/base"], metrics["repetitive/tuned"]) == (0, 1 / 4)
    assert metrics["relative_length/base"] == pytest.approx(3 / 4)
    thinking = question("yes", rendered="<think>\n\n</think>\n\nyes")
    metrics = behaviour([thinking], both(["yes"], [thinking.rendered]))
    assert metrics["relative_length/tuned"] == 1
    assert behaviour([], both([], [])) == {}


@pytest.mark.parametrize(
    ("text", "repeats"),
    [("", False), ("a b c d e f " * 2, False), ("a b c d e f " * 3, True), ("ha " * 8, True)],
)
def test_a_loop_is_told_from_a_refrain(text, repeats):
    assert is_repetitive(text) == repeats


def test_free_text_that_nobody_gets_has_no_exact_match():
    """1.5 % on both sides is a number without meaning; 20 % of long JSON is one with."""
    free = [question("word " * 40 + str(n)) for n in range(20)]
    wrong, some = ["no"] * 20, [*(q.expected for q in free[:4]), *["no"] * 16]
    assert exact_match(free, {"base": wrong, "tuned": wrong}) == {}
    assert exact_match(free, {"base": wrong, "tuned": some})["exact_match/tuned"] == 0.2
    short = [question("yes")] * 20
    assert exact_match(short, {"base": wrong, "tuned": wrong})["exact_match/tuned"] == 0


def test_an_answer_is_right_as_the_template_writes_it():
    """Qwen3's template puts an empty block of reasoning before the answer, and models learn that."""
    thinking = question("yes", rendered="<think>\n\n</think>\n\nyes")
    assert thinking.matches("<think>\n\n</think>\n\nyes")
    assert thinking.matches("yes")
    assert not thinking.matches("<think>\n\n</think>\n\nno")


def test_families_keep_their_names_in_any_alphabet():
    """Four Chinese sources were one `____`."""
    families = ["数学", "代码", "größe/x y:z", "a b", "a_b", "🙂", "🎉", "", "x" * 99, "数学"]
    names = metric_names(families)
    assert {family: names[family] for family in families[:3]} == {
        "数学": "数学", "代码": "代码", "größe/x y:z": "größe_x_y_z",
    }  # fmt: skip
    assert names["a_b"] == "a_b"
    assert re.fullmatch(r"a_b-[0-9a-f]{4}", names["a b"])
    assert names["x" * 99] == "x" * 60
    assert len(set(names.values())) == len(names) == 9
    # The same in every run, however many rows each has.
    assert metric_names(reversed(families)) == names


def test_each_family_has_a_loss_of_its_own():
    rows = {"base": [RowLoss(4, 2), RowLoss(9, 3), RowLoss(1, 1)]}
    rows["tuned"] = [RowLoss(2, 2), RowLoss(3, 3), RowLoss(0, 0)]
    metrics = losses(rows, ["代码", "b", "b"])
    assert metrics["loss/base"] == pytest.approx(14 / 6)
    assert metrics["loss/代码/base"] == 2
    assert metrics["loss/b/base"] == pytest.approx(10 / 4)
    assert metrics["loss/b/tuned"] == 1
    assert metrics["perplexity/tuned"] == pytest.approx(math.e)
    assert set(losses(rows, ["b"] * 3)) == {
        f"{name}/{side}" for name in ("loss", "perplexity") for side in rows
    }
    overflow = {side: [RowLoss(2000, 1)] for side in rows}
    assert losses(overflow, ["a"])["perplexity/base"] == math.inf
    assert math.isnan(losses({"base": [], "tuned": []}, [])["loss/base"])


def test_mlflow_takes_the_names_of_families(at_home):
    with start_run(at_home.recipe(), "families", {}) as run:
        run.log_metrics({"evaluate/loss/数学/base": 1.5, "evaluate/loss/größe-2/base": 2.5})
    metrics = client().get_run(run.id).data.metrics
    assert metrics["evaluate/loss/数学/base"] == 1.5
    assert metrics["evaluate/loss/größe-2/base"] == 2.5


def test_a_regression_is_refused_with_all_that_was_measured(at_home, scores):
    """A limit that is moved is no reason to measure again."""
    config = CONFIG.model_copy(update={"max_loss_ratio": 1e-3})
    recipe = at_home.recipe(evaluation=config)
    again = evaluate.fn(None, None, at_home.chats, recipe, at_home.pins, scores.step)
    assert again.name == "Cached"
    assert again.data == scores
    tuned, base = (scores.metrics[f"loss/{side}"] for side in ("tuned", "base"))
    with pytest.raises(Rejected, match=f"{tuned:.4f} against {base:.4f}.*max_loss_ratio"):
        require(judgement(again.data, recipe))
    assert all((scores.folder / file).exists() for file in scores.files)


def test_exact_match_per_family():
    rows = [Question(n, "a b" if n < 2 else "c", [], "yes") for n in range(3)]
    answers = {"base": ["no", "no", "no"], "tuned": [" yes\n", "no", "yes"]}
    assert exact_match(rows, answers) == {
        "exact_match/base": 0,
        "exact_match/tuned": pytest.approx(2 / 3),
        "exact_match/a_b/base": 0,
        "exact_match/a_b/tuned": 0.5,
        "exact_match/c/base": 0,
        "exact_match/c/tuned": 1,
    }
    assert exact_match([], {"base": [], "tuned": []}) == {}


def test_the_sample_table_without_questions_holds_the_prompts():
    answers = {"base": [{"text": "b"}], "tuned": [{"text": "t"}]}
    (row,) = sample_table(Questionnaire([], ("p",), {}), answers)
    assert row == {
        "prompt": "p", "expected": "", "base": "b", "tuned": "t", "family": "prompt", "match": None,
    }  # fmt: skip


def test_the_outcomes_are_what_the_measures_are_of(at_home, scores):
    """Row by row and question by question; the loss of all is the mean weighted by tokens."""
    from retune.outcomes import read_grades

    lines = read_grades(scores.outcomes).to_pandas()
    for side in ("base", "tuned"):
        of_side = lines[lines.side == side]
        loss = of_side[of_side.scorer == "loss"]
        mean = (loss.value * loss.weight).sum() / loss.weight.sum()
        assert mean == pytest.approx(scores.metrics[f"loss/{side}"])
        stopped = of_side[of_side.scorer == "stopped"].value.mean()
        assert stopped == pytest.approx(scores.metrics[f"stopped/{side}"])
    pairs = [set(lines[lines.side == side].example) for side in ("base", "tuned")]
    assert pairs[0] == pairs[1]
