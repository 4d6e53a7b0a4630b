"""The parts of training that need no model: order, labels, checkpoints, early stops, caps."""

import json
import math
import os
from types import SimpleNamespace

import numpy as np
import pytest

from retune.home import mark
from retune.labels import IGNORED, labels_of, shown
from retune.recipe import Model, RecipeError, Training
from tasks.train import checkpoints, data, distributed, fitting, meter, varlen
from tasks.train.health import Health, exhausted_cap
from tasks.train.job import Fit, NoTrainableTokens, TrainingDiverged, TrainingRefused, TrainJob
from tasks.train.objective import make_objective
from tasks.train.trainer import trainer_settings
from tests.architectures import model_of
from tests.tasks.conftest import make_tokenizer

TURNS = [
    {"role": "system", "content": "short"},
    {"role": "user", "content": "say red"},
    {"role": "assistant", "content": "red"},
    {"role": "tool", "content": "after blue"},
    {"role": "assistant", "content": "<tool_call> say\n\nwhite"},
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def ids_of(tokenizer, turns):
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    return tokenizer(text, add_special_tokens=False).input_ids


def test_responses_are_the_assistants_turns_with_their_ends(tokenizer):
    ids = ids_of(tokenizer, TURNS)
    labels = labels_of(ids, tokenizer, "responses")
    trained = [token for token, label in zip(ids, labels, strict=True) if label != IGNORED]
    answers = [turn["content"] + "<|im_end|>" for turn in TURNS if turn["role"] == "assistant"]
    assert tokenizer.decode(trained) == tokenizer.decode(
        tokenizer("".join(answers), add_special_tokens=False).input_ids
    )
    assert all(label in (token, IGNORED) for token, label in zip(ids, labels, strict=True))
    text = shown({"input_ids": ids, "labels": labels}, tokenizer)
    assert text.startswith("⟦")
    assert "red<|im_end|>⟦" in text


def test_all_is_every_token_but_the_first(tokenizer):
    ids = ids_of(tokenizer, TURNS)
    assert labels_of(ids, tokenizer, "all") == [IGNORED, *ids[1:]]


def test_the_first_pack_is_shown_masked(tokenizer, tmp_path):
    """It is in a log and in MLflow."""
    said = "say anna.lindqvist@nordhaus-werk.de"
    rows = [ids_of(tokenizer, [{"role": "user", "content": said}, TURNS[2]])] * 4
    plan = data.make_plan(job_of(rows, tokenizer, tmp_path, batch_size=4, max_steps=1), tokenizer)
    assert "say [e-mail]" in plan.preview
    assert "nordhaus" not in plan.preview
    assert "⟦" in plan.preview


def test_a_cut_row_without_an_answer_has_nothing_to_learn(tokenizer):
    ids = ids_of(tokenizer, TURNS[:2])
    assert set(labels_of(ids, tokenizer, "responses")) == {IGNORED}


def job_of(rows, tokenizer, tmp_path, **settings):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"input_ids": rows}), tmp_path / "rows.parquet")
    return TrainJob(
        rows=tmp_path / "rows.parquet",
        held_out=tmp_path / "rows.parquet",
        tokenizer=tmp_path,
        model=Model(base="b", max_length=64, load_in_4bit=False),
        revision=None,
        config=Training(**settings),
        folder=tmp_path,
    )


def test_zero_trainable_tokens_are_refused_before_training(tokenizer, tmp_path):
    job = job_of([ids_of(tokenizer, TURNS[:2])] * 3, tokenizer, tmp_path, train_on="responses")
    with pytest.raises(
        NoTrainableTokens, match=r"zero trainable tokens: none of the 3 rows.*train_on=all"
    ):
        data.make_plan(job, tokenizer)


def test_every_row_is_in_a_pack_once_and_none_is_longer_than_allowed(tokenizer, tmp_path):
    rows = [[5] * length for length in (40, 30, 20, 10, 64, 3)]
    job = job_of(rows, tokenizer, tmp_path, batch_size=1, gradient_accumulation=1)
    plan = data.make_plan(job, tokenizer)
    lengths = sorted(length for parts in plan.examples["seq_lengths"] for length in parts)
    assert lengths == [3, 10, 20, 30, 40, 64]
    assert max(sum(parts) for parts in plan.examples["seq_lengths"]) <= 64
    assert plan.tokens[-1] == 167


def test_the_order_depends_on_seed_and_effective_batch_alone():
    order = data.step_order(packs=10, per_step=4, epochs=2, max_steps=None, seed=3)
    assert len(order) == 20
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert list(order[:10]) != list(order[10:])
    assert np.array_equal(order, data.step_order(10, 4, 2, None, 3))
    assert not np.array_equal(order, data.step_order(10, 4, 2, None, 4))
    # The last step is filled up from one more pass.
    assert len(data.step_order(10, 4, 1, None, 3)) == 12
    assert len(data.step_order(10, 4, 1, 7, 3)) == 28


def test_a_flat_batch_starts_anew_at_each_conversation():
    collate = data.make_collator(pad=0, flat=True, lengths="unsloth")
    packs = [
        {"input_ids": [1, 2, 3, 4, 5], "labels": [1, 2, 3, 4, 5], "seq_lengths": [3, 2]},
        {"input_ids": [6, 7], "labels": [6, 7], "seq_lengths": [2]},
    ]
    batch = collate(packs)
    assert batch["input_ids"].shape == (1, data.ALIGNMENT)
    assert batch["position_ids"][0, :8].tolist() == [0, 1, 2, 0, 1, 0, 1, 0]
    ignored = IGNORED
    assert batch["labels"][0, :7].tolist() == [ignored, 2, 3, ignored, 5, ignored, 7]
    assert set(batch["labels"][0, 7:].tolist()) == {ignored}
    assert batch["packed_seq_lengths"].tolist() == [3, 2, 2, data.ALIGNMENT - 7]
    borders = data.make_collator(pad=0, flat=True, lengths="flash")(packs)["cu_seq_lens_q"]
    assert borders.tolist() == [0, 3, 5, 7, data.ALIGNMENT]


def make_checkpoint(folder, step, loss):
    checkpoint = mark(folder) / f"checkpoint-{step}"
    checkpoint.mkdir()
    (checkpoint / "adapter_model.safetensors").write_bytes(bytes(range(256)) * step)
    (checkpoint / "trainer_state.json").write_text("{}")
    checkpoints.seal(checkpoint, loss)
    return checkpoint


def damage(checkpoint, kind):
    weights = checkpoint / "adapter_model.safetensors"
    if kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1])
    if kind == "one bit":
        content = bytearray(weights.read_bytes())
        content[7] ^= 1
        weights.write_bytes(bytes(content))
    if kind == "a file is missing":
        (checkpoint / "trainer_state.json").unlink()
    if kind == "never sealed":
        (checkpoint / checkpoints.SEAL).unlink()
    if kind == "broken seal":
        (checkpoint / checkpoints.SEAL).write_text('{"files": {"ada')


@pytest.mark.parametrize(
    "kind", ["truncated", "one bit", "a file is missing", "never sealed", "broken seal"]
)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path, caplog, kind):
    make_checkpoint(tmp_path, 5, 1.0)
    damage(make_checkpoint(tmp_path, 10, 0.9), kind)
    assert checkpoints.newest_whole(tmp_path) == tmp_path / "checkpoint-5"
    assert "checkpoint-10 is not used" in caplog.text
    assert not (tmp_path / "checkpoint-10").exists()


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoints.newest_whole(tmp_path / "none") is None


def test_the_last_two_and_the_best_are_kept(tmp_path):
    for step, loss in ((5, 2.0), (10, 0.5), (15, 0.9), (20, 0.8), (100, 0.7)):
        make_checkpoint(tmp_path, step, loss)
    checkpoints.retain(tmp_path)
    steps = sorted(checkpoints.step_of(path) for path in tmp_path.glob("checkpoint-*"))
    assert steps == [10, 20, 100]


def check_health(losses, norms=None, rate=1e-4, fp16=False, **settings):
    health = Health(Training(**settings), steps=1000, fp16=fp16)
    for step, loss in enumerate(losses, 1):
        health.check(step, loss, norms[step - 1] if norms else 1.0, rate)


def test_a_healthy_course_goes_on():
    noise = [0.1 * math.sin(n) for n in range(300)]
    check_health([3 * math.exp(-n / 50) + 0.2 + noise[n] for n in range(300)])
    check_health([1.0] * 4 + [30.0] + [1.0] * 10)  # one odd batch
    check_health([0.01] * 20 + [0.2] * 20)  # memorised rows, then harder ones


def test_an_explosion_names_step_and_remedy():
    with pytest.raises(
        TrainingDiverged, match=r"the loss rose from 2 to 9 at step 13 .*learning_rate"
    ):
        check_health([2.0] * 10 + [9.0] * 10)
    with pytest.raises(TrainingDiverged, match=r"gradient norm stays above 1000 at step 5"):
        check_health([2.0] * 10, norms=[1e5] * 10)
    for value in (math.nan, math.inf):
        with pytest.raises(
            TrainingDiverged, match=r"the loss is (nan|inf) at step 2 .*warmup_steps"
        ):
            check_health([2.0, value])
        with pytest.raises(TrainingDiverged, match="the gradient norm is not finite at step 1"):
            check_health([2.0], norms=[value])


def test_fp16_may_skip_its_first_steps():
    check_health([2.0] * 8, norms=[math.inf] * 8, fp16=True)
    with pytest.raises(TrainingDiverged, match="not finite at step 9"):
        check_health([2.0] * 9, norms=[math.inf] * 9, fp16=True)


def test_a_learning_rate_of_zero_is_seen_after_the_first_step():
    with pytest.raises(TrainingDiverged, match=r"learning rate is zero after step 2 of 1000"):
        check_health([2.0] * 3, rate=0.0)


def test_caps():
    assert exhausted_cap(Training(), 1e9) is None
    assert exhausted_cap(Training(max_gpu_hours=2), 1.99) is None
    assert "max_gpu_hours=2" in exhausted_cap(Training(max_gpu_hours=2), 2.0)
    priced = Training(price_per_hour=3, max_cost=6)
    assert exhausted_cap(priced, 1.99) is None
    assert "6 is spent, training.max_cost=6" in exhausted_cap(priced, 2.0)


def test_usage_adds_up_over_processes(tmp_path):
    file = tmp_path / "usage.json"
    before = [{"seconds": 3600, "gpus": 2, "kwh": 1.5}, {"seconds": 1800, "gpus": 2, "kwh": 0.5}]
    file.write_text(json.dumps(before))
    usage = meter.Usage(file, gpus=2)
    usage.record()
    assert len(json.loads(file.read_text())) == 3
    totals = meter.Usage(file, gpus=2).totals(price_per_hour=2.0)
    assert totals["gpu_hours"] == pytest.approx(3.0, abs=0.01)
    assert totals["cost"] == pytest.approx(6.0, abs=0.02)
    assert "energy_kwh" not in totals  # this machine did not count it


def test_smaller_fits_keep_the_effective_batch():
    config = Training(batch_size=6, gradient_accumulation=2)
    fit = fitting.as_written(config, 1).model_copy(update={"gradient_checkpointing": "off"})
    course = []
    while fit:
        course.append((fit.batch_size, fit.gradient_accumulation, fit.gradient_checkpointing))
        fit = fitting.smaller(fit, config)
    assert course == [
        (6, 2, "off"), (6, 2, "unsloth"), (4, 3, "unsloth"), (3, 4, "unsloth"),
        (2, 6, "unsloth"), (1, 12, "unsloth"),
    ]  # fmt: skip


def test_a_base_in_16_bits_is_the_first_that_goes_when_memory_runs_out():
    fit = fitting.as_written(Training(batch_size=4), 1)
    fit = fit.model_copy(update={"gradient_checkpointing": "off", "dequantized": True})
    smaller = fitting.smaller(fit, Training(batch_size=4))
    assert smaller == fit.model_copy(update={"dequantized": False, "reason": smaller.reason})
    assert "dequantized once" in fitting.describe(fit)
    assert "dequantized" not in fitting.describe(smaller)
    assert fitting.most_frugal([fit, smaller]) == smaller


def test_processes_that_train_together_take_the_most_frugal_fit():
    fits = [
        Fit(batch_size=batch, gradient_accumulation=8 // batch, gradient_checkpointing=mode)
        for batch, mode in ((4, "off"), (8, "on"), (2, "on"))
    ]
    assert fitting.most_frugal(fits) == fits[2]
    assert fitting.most_frugal(fits[:2]) == fits[1]


class Preference:
    """The part of another objective that names its trainer's settings."""

    def trainer_settings(self):
        return SimpleNamespace, {"beta": 0.1}


def test_an_objective_adds_its_settings_to_the_recipes(tokenizer, tmp_path):
    job = job_of([[1]], tokenizer, tmp_path, optimizer="adamw_torch", learning_rate=1e-5)
    fit = fitting.as_written(job.config, 1)
    settings = trainer_settings(job, Preference(), fit, steps=7)
    assert (settings.beta, settings.max_steps, settings.learning_rate) == (0.1, 7, 1e-5)
    assert not hasattr(settings, "packing")  # only supervised fine-tuning packs
    supervised = trainer_settings(job, make_objective(job, None, tokenizer), fit, steps=7)
    assert (supervised.packing, supervised.max_length, supervised.max_steps) == (False, 64, 7)


@pytest.mark.parametrize(
    ("before", "after"), [(None, "0,1"), ("3,5,7", "3,5"), ("GPU-a", "GPU-a"), ("", "")]
)
def test_a_training_sees_no_more_gpus_than_it_has_processes(monkeypatch, before, after):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before or "")
    if before is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    distributed.claim_gpus(2)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == after


def test_processes_share_the_effective_batch():
    config = Training(batch_size=8, gradient_accumulation=2, backend="trl", processes=4)
    fit = fitting.as_written(config, 4)
    assert (fit.batch_size, fit.gradient_accumulation) == (4, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_cost": 5}, "max_cost needs price_per_hour"),
        ({"processes": 2}, "processes=2 needs backend=trl"),
        ({"processes": 3, "backend": "trl"}, "must be a multiple of processes=3"),
        ({"method": "full", "use_dora": True}, "belong to method=lora"),
    ],
)
def test_settings_that_contradict_each_other(settings, message):
    from retune.recipe import Recipe

    values = {"name": "r", "model": {"base": "b"}, "dataset": {"source": "s"}}
    with pytest.raises(RecipeError, match=message):
        Recipe.parse(values | {"training": settings})


@pytest.mark.parametrize(("name", "words"), [("s_aux", "sinks"), ("softcap", "capped scores")])
def test_attention_that_the_kernel_lacks_is_refused(name, words):
    """GPT-OSS and Gemma 2: the kernel would leave it out without a word."""
    import torch
    from transformers import AttentionInterface

    varlen.register()
    attention = AttentionInterface()[varlen.NAME]
    nothing = torch.zeros(1, 1, 1, 1)
    with pytest.raises(TrainingRefused, match=f"Linear has {words}, .* training.backend=unsloth"):
        attention(torch.nn.Linear(1, 1), nothing, nothing, nothing, None, **{name: torch.ones(1)})


def test_a_mixtures_token_costs_what_its_own_experts_do():
    """And a configuration may hold the size of a head, or None for what follows from the others."""
    import torch

    with torch.device("meta"):
        mixture = model_of("MixtralConfig", num_experts_per_tok=2, head_dim=None)
        more = model_of("MixtralConfig", num_experts_per_tok=3)
    per_expert = 2 * 3 * 64 * 128  # layers, matrices
    difference = meter.flops_per_token(more, 10) - meter.flops_per_token(mixture, 10)
    assert difference == 6 * per_expert
