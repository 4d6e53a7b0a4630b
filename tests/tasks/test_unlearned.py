"""What a row says must not be learnt is in no label, whichever template writes it."""

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retune.chat import ChatFormatError, chatml_tokenizer
from retune.held_out import questions
from retune.labels import IGNORED, token_rows
from tasks.fetch.columns import from_rows
from tasks.format.chats import learned, write_chats
from tests.tasks.conftest import make_tokenizer

# As Qwen writes them: a system turn of its own, results of tools within one turn of the user.
QWEN = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe good.<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{% if m['role'] == 'tool' %}"
    "{% if loop.previtem['role'] != 'tool' %}{{ '<|im_start|>user' }}{% endif %}"
    "{{ '\n<tool_response>\n' + m['content'] + '\n</tool_response>' }}"
    "{% if loop.last or loop.nextitem['role'] != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}"
    "{% else %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
JOINING = (
    "{% for m in messages %}{% if m['role'] != 'assistant' or loop.last %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(made)
    return made


def tokenizer_of(folder, template=None):
    tokenizer = chatml_tokenizer(str(folder), None, "map_eos")
    if template:
        tokenizer.chat_template = template
    return tokenizer


def row(number: int, *marks: dict) -> dict:
    said = [("user", f"q{number}"), ("assistant", "wrong"), ("user", "no"), ("assistant", "right")]
    marks = marks or ({}, {"weight": 0}, {}, {"weight": 1})
    return {
        "messages": [
            {"role": role, "content": text} | mark
            for (role, text), mark in zip(said, marks, strict=True)
        ]
    }


def written(rows, tokenizer, tmp_path):
    table = from_rows(rows, "s").add_column(0, "row", pa.array(range(len(rows)), pa.int64()))
    pq.write_table(table, tmp_path / "rows.parquet")
    write_chats(tmp_path / "rows.parquet", tokenizer, 0.5, tmp_path)
    return tmp_path


def trained_text(path, tokenizer, train_on):
    """Return of each row what is learned of it, and what is not."""
    texts = []
    for one in token_rows(path, 1000, 1000):
        labels = one.labels(tokenizer, train_on)
        pairs = list(zip(one.ids, labels, strict=True))
        assert all(label in (token, IGNORED) for token, label in pairs)
        texts.append(
            tuple(
                tokenizer.decode([token for token, label in pairs if (label == IGNORED) == masked])
                for masked in (False, True)
            )
        )
    return texts


@pytest.mark.parametrize("template", [None, QWEN], ids=["chatml", "qwen"])
def test_a_masked_answer_is_in_no_label(folder, tmp_path, template):
    tokenizer = tokenizer_of(folder, template)
    out = written([row(n) for n in range(30)], tokenizer, tmp_path)
    for side in ("train", "held_out"):
        path = out / f"{side}.parquet"
        for learnt, rest in trained_text(path, tokenizer, "responses"):
            assert learnt == "right<|im_end|>"
            assert "wrong<|im_end|>" in rest
        for learnt, rest in trained_text(path, tokenizer, "all"):
            assert "wrong" not in learnt
            assert "right<|im_end|>" in learnt
            assert "no<|im_end|>" in learnt
            assert "assistant\nwrong<|im_end|>" in rest
    share, examples = learned(out / "train.parquet", tokenizer, "all", 1000)
    assert share == 0
    assert "wrong<|im_end|>⟧" in examples[0]


def test_a_masked_question_is_not_learnt_where_all_is(folder, tmp_path):
    tokenizer = tokenizer_of(folder)
    marks = ({}, {}, {"train": False}, {})
    out = written([row(n, *marks) for n in range(30)], tokenizer, tmp_path)
    for learnt, _ in trained_text(out / "train.parquet", tokenizer, "all"):
        assert "no<|im_end|>" not in learnt
        assert "wrong<|im_end|>" in learnt
        assert "right<|im_end|>" in learnt


def test_of_results_that_a_template_joins_all_are_masked(folder, tmp_path):
    """More may be left out than was asked for, never less."""
    tokenizer = tokenizer_of(folder, QWEN)
    turns = [
        ("user", "q"),
        ("assistant", "<tool_call>"),
        ("tool", "one"),
        ("tool", "two"),
        ("assistant", "a"),
    ]
    chats = [
        {"messages": [{"role": r, "content": f"{t}{n}", "train": t != "one"} for r, t in turns]}
        for n in range(30)
    ]
    out = written(chats, tokenizer, tmp_path)
    for learnt, _ in trained_text(out / "train.parquet", tokenizer, "all"):
        assert "one" not in learnt
        assert "<tool_call>" in learnt


def test_a_row_without_anything_to_learn_counts_as_one(folder, tmp_path):
    tokenizer = tokenizer_of(folder)
    nothing = [row(n, *[{"weight": 0}] * 4) for n in range(30)]
    out = written(nothing, tokenizer, tmp_path)
    assert learned(out / "train.parquet", tokenizer, "responses", 1000)[0] == 1
    path = out / "train.parquet"
    assert all("q" not in learnt for learnt, _ in trained_text(path, tokenizer, "all"))


def test_a_row_that_is_cut_is_masked_as_far_as_it_goes(folder, tmp_path):
    tokenizer = tokenizer_of(folder)
    out = written([row(n) for n in range(30)], tokenizer, tmp_path)
    (whole, *_) = token_rows(out / "train.parquet", 1, 1000)
    start, stop = whole.unlearned
    for length in (start - 1, start + 1, stop + 1):
        (cut,) = token_rows(out / "train.parquet", 1, length)
        labels = cut.labels(tokenizer, "all")
        assert len(labels) == length
        assert set(labels[start:stop]) <= {IGNORED}
        assert IGNORED not in labels[1:start]


def test_a_template_that_joins_answers_is_refused(folder, tmp_path):
    with pytest.raises(ChatFormatError, match=r"row \d+ has a message that must not be learnt"):
        written([row(n) for n in range(30)], tokenizer_of(folder, JOINING), tmp_path)


def test_what_must_not_be_learnt_is_not_asked_for(folder, tmp_path):
    tokenizer = tokenizer_of(folder)
    masked = [row(n, {}, {}, {}, {"weight": 0}) for n in range(40)]
    out = written([*masked, *(row(40 + n) for n in range(40))], tokenizer, tmp_path)
    asked = questions(out / "held_out.parquet", 1000, 1000)
    held_out = pl.read_parquet(out / "held_out.parquet")["row"]
    assert {question.row for question in asked} == {number for number in held_out if number >= 40}
    assert all(message.keys() == {"role", "content"} for q in asked for message in q.prompt)


def test_older_row_files_have_no_mark(folder, tmp_path):
    tokenizer = tokenizer_of(folder)
    plain = [
        {
            "row": n,
            "source": "s",
            "messages": [{k: m[k] for k in ("role", "content")} for m in row(n)["messages"]],
        }
        for n in range(30)
    ]
    pl.DataFrame(plain).write_parquet(tmp_path / "rows.parquet")
    write_chats(tmp_path / "rows.parquet", tokenizer, 0.5, tmp_path)
    assert questions(tmp_path / "held_out.parquet", 1000, 1000)
    learnt = trained_text(tmp_path / "train.parquet", tokenizer, "responses")
    assert all(text == "wrong<|im_end|>right<|im_end|>" for text, _ in learnt)
