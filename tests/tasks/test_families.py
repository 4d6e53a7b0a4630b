"""Every family of models goes down the whole line, or conform refuses it and says what would help.

The small ones here; those with the tokenizers that people use by `make zoo`, which writes docs/models.md.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from expectations import conform as conforming
from expectations import formatting, gguf_files, merging, regression, training
from expectations import parity as reading
from expectations.verdicts import Judgement, Rejected, require
from retune import llamacpp, tracking
from retune.chat import encode
from retune.folders import ModelRefused
from retune.held_out import Question, questions
from retune.llamacpp.answering import AnsweringFailed
from retune.llamacpp.server import serving
from retune.loaders import load_model, load_tokenizer
from retune.outputs import Output, Step
from retune.recipe import Recipe
from retune.records import Chats, Conformance, Gguf, Merged, Pins, Rows
from retune.sources import pin
from retune.tracking import start_run
from tasks.conform.task import conform, parity
from tasks.evaluate.task import evaluate
from tasks.format.task import format_chats
from tasks.merge.task import merge
from tasks.quantize.task import convert, quantize
from tasks.train.task import train
from tests.families import FAMILIES, INSPECTION, LIGHT, Family, StageResult, record, save_family
from tests.models_page import PAGE
from tests.tasks.conftest import conversation

try:
    llamacpp.locate()
except llamacpp.LlamaCppNotFound as missing:
    pytestmark = pytest.mark.skip(reason=str(missing))

ROWS, METHOD, TOKENS, ASKED = 96, "q8_0", 8, 4
# Nearer ones of a step's logits are a tie, in their standard deviations: llama.cpp rounds what it
# multiplies with the weights to bf16, too. In a mixture that may decide on another expert, and so for
# a token in thirty on anything; with an architecture misunderstood one in six was wrong, or more.
TIE, ODD = 0.1, 0.1
SETTINGS = {
    "name": "zoo",
    "dataset": {"source": "s"},
    "formatting": {"held_out_share": 0.3},
    "training": {
        "backend": "trl",
        "max_steps": 2,
        "batch_size": 4,
        "gradient_accumulation": 1,
        "warmup_steps": 0,
        "optimizer": "adamw_torch",
        "packing": False,
        "gradient_checkpointing": "off",
    },
    "evaluation": {
        "loss_rows": 4,
        "generation_rows": ASKED,
        "max_new_tokens": TOKENS,
        "batch_size": 4,
        "prompts": [],
        "battery": False,  # a hundred questions more, of which nothing hangs here
        "max_loss_ratio": 1.1,  # two steps
    },
    "merging": {"check_rows": 4},
    "quantization": {
        "methods": [METHOD],
        "context": 32,
        "perplexity_rows": 30,
        "answer_rows": ASKED,
        "threads": 1,
        # What has learned nothing has no favourite among its tokens, and some hundred tokens in pieces
        # of 32 say no perplexity to the percent.
        "gates": {METHOD: {"min_same_top_token": 0.5, "max_perplexity_ratio": 1.1}},
    },
}


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    """Everything is below `tmp_path`, and Prefect's part of a task is silent."""
    from prefect.logging import disable_run_logger

    monkeypatch.setenv("RETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for stage, kind in (("train", "progress"), ("evaluate", "table"), ("format", "markdown")):
        name = f"tasks.{stage}.task.create_{kind}_artifact"
        monkeypatch.setattr(name, lambda *_, **__: None)
    monkeypatch.setattr("tasks.train.task.update_progress_artifact", lambda *_, **__: None)
    tracking.client.cache_clear()
    with disable_run_logger():
        yield tmp_path
    tracking.client.cache_clear()


class FamilyLine:
    """The stages from conform to a quantized file for one family; `results` has those that ended."""

    def __init__(self, family: Family, folder: Path) -> None:
        base = str(save_family(family, folder / "base"))
        self.recipe = Recipe.parse(
            SETTINGS | {"model": {"base": base, "load_in_4bit": False, "max_length": 128}}
        )
        self.pins = Pins(dataset="sha256:0", model=pin(base, None, "model", "model.base"))
        self.results: list[StageResult] = []

    def passed(self, stage: Callable, judge: Callable[..., Judgement], *inputs):
        """Run a stage on its inputs and have it judged. Raises Rejected."""
        name = stage.fn.__name__
        step = Step(stage=name.replace("_", "-"), key={})
        output: Output = stage.fn(*inputs, self.recipe, self.pins, step)
        self.results.append(StageResult(name.partition("_")[0], output.seconds))
        require(judge(output))
        return output

    def conform(self) -> Conformance:
        return self.passed(conform, lambda made: conforming.judgement(made, self.recipe))

    def rest(self, conformance: Conformance) -> tuple[Chats, Merged, Gguf, Gguf]:
        """Run what follows conform, in the order of the line."""
        recipe = self.recipe
        chats = self.passed(
            format_chats, lambda made: formatting.judgement(made, recipe), sound_rows()
        )
        self.passed(parity, lambda made: reading.judgement(made, recipe), conformance, chats)
        with start_run(recipe, "zoo", {}) as run:
            adapter = self.passed(train, training.judgement, chats, run)
        scores = self.passed(
            evaluate, lambda made: regression.judgement(made, recipe), adapter, None, chats
        )
        merged = self.passed(
            merge, lambda made: merging.judgement(made, recipe), adapter, None, chats
        )
        source = self.passed(
            convert, lambda made: gguf_files.source(made, scores, recipe), merged, chats
        )
        quant = self.passed(
            quantize,
            lambda made: gguf_files.quant(made, source, recipe),
            *(source, None, chats, METHOD),
        )
        return chats, merged, source, quant


def sound_rows() -> Rows:
    """Write rows as the data gate leaves them."""
    rows = Rows(step=Step(stage="validate", key={}), started=datetime.now(UTC), seconds=0)
    rows.folder.mkdir(parents=True)
    messages = [
        [
            message | {"content": f"{message['content']} {number}"}
            for message in conversation(number)[1]
        ]
        for number in range(ROWS)
    ]
    pl.DataFrame(
        {
            "row": range(ROWS),
            "messages": messages,
            "source": ["s"] * ROWS,
            "score": [3.0] * ROWS,
            "duplicate_of": [None] * ROWS,
        },
        schema_overrides={"duplicate_of": pl.Int64},
    ).write_parquet(rows.path)
    return rows


def departures(merged: Merged, gguf: Path, asked: Sequence[Question]) -> list[float]:
    """Return by how much each token that the GGUF chooses falls short of the merged model's choice.

    In standard deviations of the merged model's logits, after the same tokens: 0 for the same choice.
    A token at random falls short by three or four.
    """
    import torch

    tokenizer = load_tokenizer(merged.path)
    model = load_model(str(merged.path), dtype=torch.float32)
    texts = tokenizer.apply_chat_template(
        [question.prompt for question in asked], add_generation_prompt=True, tokenize=False
    )
    short = []
    with torch.inference_mode():
        for prompt, answer in greedy(gguf, encode(tokenizer, texts)):
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
            chosen = logits.gather(-1, torch.tensor(answer)[:, None])[:, 0]
            short += ((logits.max(-1).values - chosen) / logits.std(-1)).tolist()
    return short


def greedy(gguf: Path, prompts: list[list[int]]) -> Iterator[tuple[list[int], list[int]]]:
    """Yield each prompt with llama.cpp's answer to it, as token ids: text would hide parts of it."""
    options = ["--model", gguf, "--no-warmup", "--fit", "off", "--threads", "1"]
    with serving(options, AnsweringFailed) as server:
        for ids in prompts:
            request = {"prompt": ids, "n_predict": TOKENS, "temperature": 0, "return_tokens": True}
            yield ids, server.post("/completion", request)["tokens"]


@pytest.mark.parametrize(
    "family",
    [
        *(
            pytest.param(family, id=family.file, marks=() if family.refused else pytest.mark.slow)
            for family in LIGHT
        ),
        *(
            pytest.param(
                family, id=family.file, marks=[pytest.mark.proof, pytest.mark.timeout(1200)]
            )
            for family in FAMILIES
        ),
    ],
)
def test_a_family_goes_down_the_whole_line_or_is_refused_at_its_beginning(family, in_folder):
    line = FamilyLine(family, in_folder)
    try:
        conformance = line.conform()
    except ModelRefused as refusal:
        assert family.refused == INSPECTION
        record(family, line.results, str(refusal).replace(line.recipe.model.base, "the base"))
        return
    except Rejected as refusal:
        failed = refusal.judgement.failed
        assert [verdict.name for verdict in failed] == [family.refused]
        assert failed[0].fix
        sentence = f"{failed[0]} {failed[0].fix}"
        record(family, line.results, sentence.replace(line.recipe.model.base, "the base"))
        return
    assert not family.refused
    chats, merged, source, quant = line.rest(conformance)
    short = departures(merged, source.path, questions(chats.held_out, ASKED, 128))
    assert len(short) >= ASKED
    assert sum(one > TIE for one in short) <= ODD * len(short), short
    assert not quant.failure
    record(family, line.results)


def test_the_page_has_every_family_and_no_other():
    page = PAGE.read_text(encoding="utf-8")
    table = page.partition("| family |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| ([^|`]+) \| `", table, re.MULTILINE) == [f.name for f in FAMILIES]
    assert len({family.file for family in (*FAMILIES, *LIGHT)}) == len(FAMILIES) + len(LIGHT)
