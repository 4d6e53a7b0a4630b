"""ChatML that survives the tokenizer, and a split that nobody can move a row across."""

import random

import polars as pl
import pyarrow.parquet as pq
import pytest

from retune.chat import END, ChatFormatError, chatml_tokenizer, encode
from tasks.format import split, token_statistics, write_chats
from tests.tasks.conftest import make_tokenizer


def rows(numbers) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "row": list(numbers),
            "messages": [
                [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}]
                for n in numbers
            ],
            "source": ["s"] * len(list(numbers)),
            "score": [3.0] * len(list(numbers)),
        }
    )


@pytest.fixture
def tokenizer(tmp_path):
    make_tokenizer(tmp_path)
    return chatml_tokenizer(str(tmp_path), None)


def held_out(frame: pl.DataFrame, path) -> set[str]:
    frame.write_parquet(path)
    _, kept = split(path, 0.2)
    return {messages[0]["content"] for messages in kept["messages"].to_list()}


def test_no_row_changes_sides_when_the_dataset_grows(tmp_path):
    small = held_out(rows(range(300)), tmp_path / "a.parquet")
    numbers = list(range(900))
    random.Random(0).shuffle(numbers)
    large = held_out(rows(numbers), tmp_path / "b.parquet")
    assert small == {q for q in large if int(q[1:]) < 300}
    assert 0.15 < len(large) / 900 < 0.25


def test_an_empty_side_is_refused(tmp_path):
    rows(range(3)).write_parquet(tmp_path / "r.parquet")
    with pytest.raises(ChatFormatError, match="leaves 3 for training and 0 held out"):
        split(tmp_path / "r.parquet", 0.0001)


def test_rows_carry_text_and_its_ids(tokenizer, tmp_path):
    lengths = write_chats(rows(range(5)), tokenizer, tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert (
        table[3]["text"] == "<|im_start|>user\nq3<|im_end|>\n<|im_start|>assistant\na3<|im_end|>\n"
    )
    assert tokenizer.decode(table[3]["input_ids"]) == table[3]["text"]
    assert lengths == [len(row["input_ids"]) for row in table]
    assert table[3]["input_ids"].count(tokenizer.convert_tokens_to_ids(END)) == 2


def test_a_typed_control_token_is_caught(tokenizer, tmp_path):
    bad = rows(range(1)).with_columns(
        messages=pl.Series(
            [[{"role": "user", "content": "hi<|im_end|>"}, {"role": "assistant", "content": "a"}]]
        )
    )
    with pytest.raises(ChatFormatError, match="2 messages has 3"):
        write_chats(bad, tokenizer, tmp_path / "out.parquet")


def test_a_lossy_tokenizer_is_refused(tmp_path):
    from tokenizers import normalizers

    tokenizer = make_tokenizer(tmp_path)
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    shouting = rows(range(1)).with_columns(
        messages=pl.Series(
            [[{"role": "user", "content": "HI"}, {"role": "assistant", "content": "a"}]]
        )
    )
    with pytest.raises(ChatFormatError, match="does not give back what went in"):
        write_chats(shouting, tokenizer, tmp_path / "out.parquet")


def plain_tokenizer(folder, add_bos: bool):
    """A base model's tokenizer as Llama 3's: no ChatML, an EOS of its own, BOS by post-processor."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|begin_of_text|>", "<|end_of_text|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["a text"], trainer)
    if add_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)]
        )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>"
    ).save_pretrained(folder)


@pytest.mark.parametrize("add_bos", [True, False])
def test_another_models_eos_becomes_the_end_of_a_turn(tmp_path, add_bos):
    plain_tokenizer(tmp_path, add_bos)
    tokenizer = chatml_tokenizer(str(tmp_path), None)
    assert tokenizer.eos_token == END
    assert tokenizer.eos_token_id == 1  # the id that the base model already ends with
    (ids,) = encode(tokenizer, [f"<|im_start|>user\nhi{END}\n"])
    assert ids.count(1) == 1
    assert ids.count(0) == add_bos
    tokenizer.save_pretrained(tmp_path / "saved")
    again = chatml_tokenizer(str(tmp_path / "saved"), None)
    assert encode(again, [f"hi{END}"]) == encode(tokenizer, [f"hi{END}"])


def test_a_template_that_writes_the_bos_gets_no_second_one(tmp_path):
    plain_tokenizer(tmp_path, add_bos=True)
    tokenizer = chatml_tokenizer(str(tmp_path), None)
    assert encode(tokenizer, ["<|begin_of_text|>hi"])[0].count(0) == 1


def test_token_statistics_count_what_is_cut():
    seen = token_statistics([10, 20, 30, 100], max_length=30)
    assert seen["tokens/total"] == 160
    assert seen["truncated_share"] == 0.25
