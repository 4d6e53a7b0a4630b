"""Tokenizers that people use through conform and parity; by `make zoo` and `make proofs`."""

import pytest

from retune.chat import END, chatml_tokenizer, encode, special_tokens
from retune.control_texts import control_tokens
from retune.loaders import read_tokenizer
from retune.outputs import Step
from retune.recipe import Model
from retune.records import Chats
from tasks.conform.examination import examine
from tasks.conform.rows import compare
from tests.zoo import TOKENIZERS, base_of

ROWS = (
    "Is 9.11 larger than 9.9? ½ cup, ٣٤٥ and 1,000,000.",
    "  def f(x):\n\treturn {'a': x}  # café\n\n",
    "Grüß Gott 👋🏽, 你好，世界！ Привет. नमस्ते दुनिया।",
)

# A word of ROWS, as the dataset's row and as a prompt: its regular expression for this family has no
# marks that join to a letter, so that such rows count against `quantization.max_differing_rows`.
LLAMACPP_READS_OTHERWISE = {"gptoss": "नमस्ते"}


@pytest.fixture(
    scope="module",
    params=[
        # Of `make test` are the tokenizers that test_conform.py makes.
        pytest.param(name, marks=pytest.mark.proof)
        for name in TOKENIZERS
    ],
)
def base(request, tmp_path_factory):
    return base_of(request.param, tmp_path_factory.mktemp("zoo") / request.param)


@pytest.fixture(scope="module")
def examined(base, tmp_path_factory):
    gguf = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    report = examine(Model(base=str(base), load_in_4bit=False), None, gguf)
    return report, gguf


def test_what_people_use_every_day_is_accepted(examined):
    report, _ = examined
    refused = [
        check for check in report.checks if not check.passed and check.severity == "critical"
    ]
    assert refused == []
    assert report.parity
    odd = sum(report.parity.differing_texts.values())
    assert odd <= 0.03 * sum(report.parity.texts.values())


def test_llamacpp_reads_its_rows_as_they_are_trained(base, examined, monkeypatch, tmp_path):
    import polars as pl

    monkeypatch.setenv("RETUNE_HOME", str(tmp_path))
    tokenizer = chatml_tokenizer(str(base), None, "map_eos")
    chats = Chats(step=Step(stage="format", key={}), started="2026-01-01T00:00:00Z", seconds=0)
    tokenizer.save_pretrained(chats.tokenizer)
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": row}, {"role": "assistant", "content": row}],
            tokenize=False,
        )
        for row in ROWS
    ]
    table = pl.DataFrame({"row": range(3), "text": texts, "input_ids": encode(tokenizer, texts)})
    table.head(1).write_parquet(chats.held_out)
    table.tail(2).write_parquet(chats.train)
    parity = compare(examined[1], chats, ROWS)
    assert parity.rows == 6
    differing = {row["text"] for row in parity.examples()}
    assert all(LLAMACPP_READS_OTHERWISE.get(base.name, "nothing") in text for text in differing)
    assert len(parity.examples()) == (2 if base.name in LLAMACPP_READS_OTHERWISE else 0)
    other = table.with_columns(input_ids=pl.col("input_ids").list.head(5))
    other.tail(2).write_parquet(chats.train)
    parity = compare(examined[1], chats)
    assert parity.share == pytest.approx(2 / 3)
    assert [row["row"] for row in parity.examples()] == [1, 2]
    assert parity.examples()[0]["tokens_before"] == 5


def test_what_is_saved_reads_as_the_file_says(base, tmp_path):
    """Whoever loads the tokenizer that was trained with gets the same, by whichever class."""
    from transformers import AutoTokenizer

    tokenizer = chatml_tokenizer(str(base), None, "map_eos")
    tokenizer.save_pretrained(tmp_path)
    assert read_tokenizer(tmp_path)[1] is None
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert encode(loaded, list(ROWS)) == encode(tokenizer, list(ROWS))
    assert loaded.eos_token == END


def test_a_word_that_llamacpp_alone_takes_for_a_control_token_must_not_be_typed(base):
    """`</s>` is a word of Qwen's vocabulary; llama.cpp ends an answer there."""
    tokenizer = chatml_tokenizer(str(base), None, "map_eos")
    served, trained = set(control_tokens(tokenizer)), set(special_tokens(tokenizer))
    assert trained <= served
    if base.name == "qwen3":
        assert "</s>" in served - trained
