"""Scores by a tiny random BERT: right, found again after a kill, and never taken from others."""

import json
import math
import random
import shutil
from pathlib import Path

import polars as pl
import pytest

from retune.child import ChildFailed, ChildRefused
from retune.errors import RetuneError
from retune.folders import ModelRefused
from retune.recipe import Classifier
from retune.sources import SourceError
from tasks.validate import scoring
from tasks.validate.scoring import agreement, correlation, sample, score_rows
from tasks.validate.scoring_child import ScoringJob, load, score, text_of
from tests.tasks.conftest import running_child

WORDS = ("red", "green", "blue", "white", "black", "amber", "cyan", "pink", "fox", "##es", ",", ".")
ROWS = 40
SHARD = 16  # ROWS make three shards
READS = 64  # tokens


def make_classifier(folder: Path, seed: int = 0, **options) -> Path:
    """Save a BERT of 2 layers with large random weights and a WordPiece tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    vocabulary = {word: n for n, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=READS,
    ).save_pretrained(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=READS,
        initializer_range=0.3,
        pad_token_id=0,
        **{"num_labels": 1} | options,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def write_rows(path: Path, count: int = ROWS, seed: int = 0) -> Path:
    """Write conversations of no words at all to about READS × 2; their row numbers have gaps."""
    turns = []
    for number in range(count):
        words = random.Random(seed * count + number).choices(WORDS[:9], k=number * 7 % 120)
        question, answer = " ".join(words[:5]), "".join(f"{word}es, " for word in words[5:])
        turns.append(
            [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        )
    numbers = [n * 3 for n in range(count)]
    pl.DataFrame({"row": numbers, "messages": turns, "source": "x"}).write_parquet(path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_classifier(tmp_path_factory.mktemp("classifier") / "model")


@pytest.fixture
def config(model) -> Classifier:
    return Classifier(model=str(model), max_length=READS, batch_tokens=512)


@pytest.fixture
def rows(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(scoring, "SHARD_ROWS", SHARD)
    return write_rows(tmp_path / "rows.parquet")


@pytest.fixture
def numbers() -> list[int]:
    return [n * 3 for n in range(ROWS)]


@pytest.fixture
def in_process(monkeypatch) -> None:
    """Run the child's work here: it saves the seconds that a process takes to load torch."""
    monkeypatch.setattr(scoring, "run_child", run_here)


def run_here(script: Path, job: ScoringJob, *_, **__) -> dict:
    return score(job)


def finished(folder: Path) -> dict[str, int]:
    """Return the shards in the folder with the times they were written at."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def scores_by_hand(model: Path, rows: Path, length: int = READS) -> list[float]:
    """One row at a time, in plain transformers: no batch, no padding, no order."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    classifier = AutoModelForSequenceClassification.from_pretrained(model).eval()
    scores = []
    for messages in pl.read_parquet(rows)["messages"]:
        text = "\n\n".join(message["content"] for message in messages)
        ids = tokenizer(text, truncation=True, max_length=length, return_tensors="pt")
        with torch.inference_mode():
            scores.append(classifier(**ids).logits.item())
    return scores


def test_scores_are_those_of_plain_transformers(rows, numbers, config, model, tmp_path):
    said = []
    shuffled = [*numbers[::2], *numbers[1::2][::-1], numbers[0]]
    scored = score_rows(rows, shuffled, config, tmp_path / "scores", said.append)
    assert scored.scores.schema == {"row": pl.Int64, "score": pl.Float64}
    assert scored.scores["row"].to_list() == numbers
    expected = scores_by_hand(model, rows)
    assert scored.scores["score"].to_list() == pytest.approx(expected, abs=1e-5)
    assert scored.scores["score"].n_unique() > ROWS / 2
    assert scored.version.startswith("sha256:")
    assert scored.precision == "float32"
    assert scored.rows_per_second > 0
    assert scored.tokens_per_second > scored.rows_per_second
    assert said[-1].startswith("scored 40 of 40 rows, ")
    assert said[-1].endswith(" tokens/s")


def test_only_the_wanted_rows_are_scored(rows, config, model, tmp_path, in_process):
    chosen = pl.Series([9, 3, 117])
    scored = score_rows(rows, chosen, config, tmp_path / "scores").scores
    expected = scores_by_hand(model, rows)
    assert scored.rows() == [
        (row, pytest.approx(expected[row // 3], abs=1e-5)) for row in (3, 9, 117)
    ]


def test_max_length_cuts(rows, numbers, config, model, tmp_path, in_process):
    short = config.model_copy(update={"max_length": 9})  # no multiple of the alignment
    scored = score_rows(rows, numbers, short, tmp_path / "scores").scores["score"].to_list()
    assert scored == pytest.approx(scores_by_hand(model, rows, 9), abs=1e-5)
    assert scored != pytest.approx(scores_by_hand(model, rows), abs=1e-3)


def test_batches_are_full_and_hold_every_row_once(config):
    texts = ["red " * (n * 7 % 120) for n in range(ROWS)]
    batches = load(config).batches(texts)
    assert sorted(place for batch in batches for place in batch.places) == list(range(ROWS))
    assert all(batch.ids.size <= config.batch_tokens for batch in batches)
    assert sum(batch.tokens for batch in batches) == sum(
        min(len(text.split()) + 2, READS) for text in texts
    )
    assert batches[0].mask is None  # the longest rows are all cut: nothing to pad
    assert sum(batch.ids.size for batch in batches) < 1.2 * sum(batch.tokens for batch in batches)


def test_nothing_to_score(rows, config, tmp_path):
    scored = score_rows(rows, [], config, tmp_path / "scores")
    assert scored.scores.is_empty()
    assert scored.scores.schema == {"row": pl.Int64, "score": pl.Float64}
    assert scored.rows_per_second is None
    empty = write_rows(tmp_path / "empty.parquet", 0)
    assert score_rows(empty, [], config, tmp_path / "scores").scores.is_empty()
    assert not list((tmp_path / "scores").iterdir())


def test_an_unknown_row_is_a_bug(rows, config, tmp_path):
    with pytest.raises(AssertionError, match=r"1 rows to score are not in .*e\.g\. row 4"):
        score_rows(rows, [3, 4], config, tmp_path / "scores")


@pytest.mark.proof
def test_a_killed_call_is_taken_up(config, model, tmp_path, monkeypatch):
    """The child dies after its first shards; later, one shard goes missing."""
    monkeypatch.setattr(scoring, "SHARD_ROWS", 1)  # so that the kill comes long before the end
    rows, numbers = write_rows(tmp_path / "rows.parquet", 400), range(0, 1200, 3)
    folder, said = tmp_path / "scores", []

    def kill(text: str) -> None:
        running_child().kill()

    with pytest.raises(ChildFailed, match="signal 9"):
        score_rows(rows, numbers, config, folder, kill)
    before = finished(folder)
    assert 1 <= len(before) < 400

    scored = score_rows(rows, numbers, config, folder, said.append)
    after = finished(folder)
    assert len(after) == 400
    assert before.items() <= after.items()
    assert said[0] == f"{len(before)} of 400 rows were scored before"
    assert said[-1].startswith("scored 400 of 400 rows")
    assert scored.scores["score"].to_list() == pytest.approx(scores_by_hand(model, rows), abs=1e-5)

    gone = [*after][7]
    (folder / gone).unlink()
    monkeypatch.setattr(scoring, "run_child", run_here)
    again = score_rows(rows, numbers, config, folder)
    assert {name for name, time in finished(folder).items() if after[name] != time} == {gone}
    assert again.scores["score"].to_list() == pytest.approx(scored.scores["score"].to_list())


def test_finished_work_starts_no_child(rows, numbers, config, tmp_path, monkeypatch, in_process):
    folder = tmp_path / "scores"
    first = score_rows(rows, numbers, config, folder)
    monkeypatch.setattr(scoring, "run_child", lambda *_, **__: pytest.fail("a child was started"))
    # Neither the batch size nor the folder's place decides a score.
    moved = shutil.copytree(config.model, tmp_path / "moved")
    same = config.model_copy(update={"batch_tokens": 2048, "model": str(moved)})
    second = score_rows(rows, numbers, same, folder)
    assert second.scores.equals(first.scores)
    assert second.version == first.version
    assert second.tokens_per_second is None


def test_a_shard_is_not_taken_for_another(rows, numbers, config, model, tmp_path, in_process):
    """Other weights in the same place, another cut, another text: each is scored anew."""
    folder, place = tmp_path / "scores", tmp_path / "model"
    shutil.copytree(model, place)
    here = config.model_copy(update={"model": str(place)})
    score_rows(rows, numbers, here, folder)
    shutil.rmtree(place)
    make_classifier(place, seed=1)
    retrained = score_rows(rows, numbers, here, folder).scores["score"].to_list()
    assert retrained == pytest.approx(scores_by_hand(place, rows), abs=1e-5)
    assert len(finished(folder)) == 6
    write_rows(rows, seed=1)
    edited = score_rows(rows, numbers, here, folder).scores["score"].to_list()
    assert edited == pytest.approx(scores_by_hand(place, rows), abs=1e-5)
    assert len(finished(folder)) == 9
    score_rows(rows, numbers, here.model_copy(update={"max_length": 32}), folder)
    assert len(finished(folder)) == 12


def test_a_classifier_on_the_hub_is_pinned(rows, numbers, config, model, tmp_path, hub, in_process):
    """Its main branch is looked up once a call; a new commit there makes all scores anew."""
    commit = hub.add_model("team/judge", files_in(model))
    judge = config.model_copy(update={"model": "team/judge"})
    scored = score_rows(rows, numbers, judge, tmp_path / "scores")
    assert scored.version == commit
    assert scored.scores["score"].to_list() == pytest.approx(scores_by_hand(model, rows), abs=1e-5)
    other = make_classifier(tmp_path / "other", seed=1)
    newer = hub.add_model("team/judge", files_in(other))
    scored = score_rows(rows, numbers, judge, tmp_path / "scores")
    assert scored.version == newer
    assert scored.scores["score"].to_list() == pytest.approx(scores_by_hand(other, rows), abs=1e-5)
    old = score_rows(
        rows, numbers, judge.model_copy(update={"revision": commit}), tmp_path / "scores"
    )
    assert old.version == commit
    assert len(finished(tmp_path / "scores")) == 6


def test_several_outputs_are_refused(rows, numbers, config, tmp_path):
    five = make_classifier(tmp_path / "five", num_labels=5)
    wrong = config.model_copy(update={"model": str(five)})
    with pytest.raises(ChildRefused, match=r"model: .*five has 5 outputs .*num_labels=1$"):
        score_rows(rows, numbers, wrong, tmp_path / "scores")


def test_a_model_without_a_head_is_refused(config, model, tmp_path):
    """transformers would make one up, and every score with it."""
    from transformers import AutoModel

    bare = tmp_path / "bare"
    shutil.copytree(model, bare)
    settings = json.loads((bare / "config.json").read_text())
    AutoModel.from_pretrained(model).save_pretrained(bare)
    (bare / "config.json").write_text(json.dumps(settings))
    with pytest.raises(RetuneError, match=r"bare lacks weights \(classifier\.bias, classifier"):
        load(config.model_copy(update={"model": str(bare)}))


def test_pickled_weights_are_refused_before_any_work(rows, numbers, config, model, tmp_path):
    shutil.copytree(model, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "model.bin")
    pickled = config.model_copy(update={"model": str(tmp_path / "pickled")})
    with pytest.raises(ModelRefused, match=r"^validation\.classifier\.model: .* in model\.bin"):
        score_rows(rows, numbers, pickled, tmp_path / "scores")
    assert not (tmp_path / "scores").exists()


def test_a_missing_model_is_named(rows, numbers, config, tmp_path, hub):
    for name in (str(tmp_path / "nowhere"), "team/nothing"):
        missing = config.model_copy(update={"model": name})
        with pytest.raises(SourceError, match=r"^validation\.classifier\.model: "):
            score_rows(rows, numbers, missing, tmp_path / "scores")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "readme.txt").touch()
    with pytest.raises(RetuneError, match=r"^validation\.classifier\.model: cannot load .*empty"):
        load(config.model_copy(update={"model": str(tmp_path / "empty")}))


def test_a_length_beyond_the_model_is_refused(config):
    with pytest.raises(RetuneError, match=r"max_length: 65 tokens, but .* reads 64 at most"):
        load(config.model_copy(update={"max_length": 65}))


def test_what_is_scored_of_a_conversation():
    assert text_of([{"content": "a"}, {"content": None}, {"content": "b\n"}]) == "a\n\n\n\nb\n"
    assert text_of(None) == text_of([]) == ""


def test_a_half_encoder_keeps_its_head_in_float32(config):
    """What a GPU computes with, here on the CPU: close to float32, and as finely grained."""
    import torch

    from tasks.validate.scoring_child import _with_half_encoder

    scorer = load(config)
    fast = _with_half_encoder(scorer.exact)
    assert {weight.dtype for weight in fast.bert.encoder.parameters()} == {torch.float16}
    for head in (fast.bert.pooler, fast.classifier):
        assert {weight.dtype for weight in head.parameters()} == {torch.float32}
    batches = scorer.batches([f"red {' fox' * n} {' blue' * (n % 5)}" for n in range(ROWS)])
    given = [(scorer._forward(fast, b), scorer._forward(scorer.exact, b)) for b in batches]
    assert all(half.dtype == torch.float32 for half, _ in given)
    half, exact = (torch.cat(scores) for scores in zip(*given, strict=True))
    # float16 has 11 bits; some ten operations in a row may lose five of them.
    assert (half - exact).abs().max() < 2**-6 * exact.abs().max()
    assert half.unique().numel() == ROWS


def test_float32_takes_over_where_float16_fails(config):
    import torch

    scorer = load(config)
    exact = [
        score for _, some in scorer.scores(scorer.batches(["red", "blue fox"])) for score in some
    ]
    broken = load(config)
    overflowing = lambda **inputs: type("", (), {"logits": torch.full((2, 1), math.inf)})  # noqa: E731
    # Found on the first batch, or later on one that the check has not seen.
    for checked, precision in ((False, "float32"), (True, "float16")):
        broken.fast, broken._checked = overflowing, checked
        seen = broken.scores(broken.batches(["red", "blue fox"]))
        assert [score for _, some in seen for score in some] == exact
        assert broken.precision == precision


def test_too_little_memory_names_the_setting(config, monkeypatch):
    import torch

    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    scorer = load(config)
    monkeypatch.setattr(scorer, "exact", fail)
    with pytest.raises(RetuneError, match=r"classifier\.batch_tokens: 512 tokens .* lower it"):
        list(scorer.scores(scorer.batches(["red"])))


def frame(*scores: float | None) -> pl.DataFrame:
    return pl.DataFrame(
        {"row": range(len(scores)), "score": scores}, schema_overrides={"score": pl.Float64}
    )


def test_agreement():
    stored = frame(1.0, 2.0, 3.0, math.nan, None)
    assert agreement(stored, frame(1.5, 2.5, 3.75, 1.0, 1.0), 0.5) == 2 / 5
    assert agreement(stored, frame(1.0, math.nan), 0.5) == 0.5
    assert agreement(frame(math.nan, math.inf), frame(math.nan, math.inf), 9) == 0
    assert agreement(frame(1.0), frame(1.0, 1.0), 0.1) == 0.5  # row 1 has no stored score
    assert agreement(stored, frame(1.0, 2.0).filter(pl.col("row") > 0), 0.1) == 1
    assert agreement(stored, frame(), 0.1) == 1


def test_correlation():
    rising = [float(number) for number in range(30)]
    assert correlation(frame(*rising), frame(*rising)) == pytest.approx(1)
    assert correlation(frame(*rising), frame(*[x**3 for x in rising])) == pytest.approx(1)
    assert correlation(frame(*rising), frame(*reversed(rising))) == pytest.approx(-1)
    shuffled = random.Random(0).sample(rising, 30)
    assert abs(correlation(frame(*shuffled), frame(*rising))) < 0.5
    assert correlation(frame(*[3.0] * 30), frame(*rising)) == 0  # no text decides that
    assert correlation(frame(*[3.0] * 30), frame(*[3.0] * 30)) is None
    assert correlation(frame(*rising[:29]), frame(*rising[:29])) is None
    assert correlation(frame(*rising[:29], math.nan), frame(*rising)) is None
    assert correlation(frame(*rising), frame()) is None


def test_the_sample_is_the_same_every_time_and_spread_over_all():
    numbers = range(0, 30_000, 3)
    chosen = sample(numbers, 1000)
    assert chosen == sample(pl.Series(reversed(numbers)), 1000)
    assert chosen == sorted(set(chosen))
    assert set(sample(numbers, 100)) < set(chosen) < set(numbers)
    assert sample(numbers, 1000, seed=1) != chosen
    tenths = [sum(low <= row < low + 3000 for row in chosen) for low in range(0, 30_000, 3000)]
    assert min(tenths) > 60
    assert sample([5, 2], 10) == [2, 5]
    assert sample([5, 2], 0) == []
