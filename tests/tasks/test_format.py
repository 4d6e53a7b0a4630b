"""ChatML that survives the tokenizer, and a split that nobody can move a row across."""

import random
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from expectations import formatting
from expectations.verdicts import Rejected, require
from retune.chat import CHATML, END, ChatFormatError, chatml_tokenizer, encode, is_lossless
from retune.outputs import Step, read_output
from retune.recipe import Recipe
from retune.records import Chats, Pins, Rows
from retune.sources import pin
from tasks.format.chats import Proof, learned, token_statistics, write_chats
from tasks.format.task import format_chats
from tests.tasks.conftest import make_tokenizer


def chat(question: str, answer: str = "a") -> list[dict]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def write(path, conversations: list, twins=None):
    """Write rows as the gate leaves them."""
    count = len(conversations)
    pl.DataFrame(
        {
            "row": range(count),
            "messages": conversations,
            "source": ["s"] * count,
            "score": [3.0] * count,
            "duplicate_of": twins or [None] * count,
        },
        schema_overrides={"duplicate_of": pl.Int64},
    ).write_parquet(path / "rows.parquet")
    return path / "rows.parquet"


@pytest.fixture
def tokenizer(tmp_path):
    make_tokenizer(tmp_path)
    return chatml_tokenizer(str(tmp_path), None, "map_eos")


def split(folder, questions: list[str], tokenizer, share=0.2, twins=None) -> set[str]:
    """Return the questions that are held out."""
    folder.mkdir(exist_ok=True)
    write_chats(write(folder, [chat(q) for q in questions], twins), tokenizer, share, folder)
    kept = pl.read_parquet(folder / "held_out.parquet")
    return {messages[0]["content"] for messages in kept["messages"].to_list()}


def test_no_row_changes_sides_when_the_dataset_grows(tmp_path, tokenizer):
    small = split(tmp_path / "a", [f"q{n}" for n in range(300)], tokenizer)
    numbers = list(range(900))
    random.Random(0).shuffle(numbers)
    large = split(tmp_path / "b", [f"q{n}" for n in numbers], tokenizer)
    assert small == {q for q in large if int(q[1:]) < 300}
    assert 0.15 < len(large) / 900 < 0.25


def test_a_question_is_on_one_side_only(tmp_path, tokenizer):
    same = [chat(f" Q{n % 40} ", f"a{n}") if n % 2 else chat(f"q{n % 40}", "b") for n in range(400)]
    write_chats(write(tmp_path, same), tokenizer, 0.2, tmp_path)

    def asked(side: str) -> set[str]:
        rows = pl.read_parquet(tmp_path / f"{side}.parquet")["messages"].to_list()
        return {row[0]["content"].strip().lower() for row in rows}

    assert asked("train")
    assert asked("held_out")
    assert not asked("train") & asked("held_out")


def test_a_kept_near_duplicate_stays_with_its_twin(tmp_path, tokenizer):
    questions = [f"q{n}" for n in range(200)]
    alone = split(tmp_path / "a", questions, tokenizer)
    twins = [None] * 100 + list(range(100))
    together = split(tmp_path / "b", questions, tokenizer, twins=twins)
    sides = {q: q in together for q in questions}
    assert [sides[f"q{n}"] for n in range(100)] == [sides[f"q{n + 100}"] for n in range(100)]
    assert together != alone


def test_a_group_goes_to_one_side_whatever_it_asks(tmp_path, tokenizer):
    questions = [f"q{n}" for n in range(300)]
    groups = [f"user {n % 60}" if n % 3 else None for n in range(300)]
    rows = pl.read_parquet(write(tmp_path, [chat(question) for question in questions]))
    rows.with_columns(split_group=pl.Series(groups)).write_parquet(tmp_path / "rows.parquet")
    write_chats(tmp_path / "rows.parquet", tokenizer, 0.2, tmp_path)
    sides = {
        side: {groups[row] for row in pl.read_parquet(tmp_path / f"{side}.parquet")["row"]}
        for side in ("train", "held_out")
    }
    assert sides["train"] & sides["held_out"] == {None}
    assert len(sides["held_out"]) > 3
    ungrouped = split(tmp_path / "same", questions, tokenizer)
    kept = pl.read_parquet(tmp_path / "held_out.parquet")["row"]
    alone = {questions[row] for row in range(300) if not groups[row]}
    assert {questions[row] for row in kept if not groups[row]} == ungrouped & alone


def test_an_empty_side_is_refused(tmp_path, tokenizer):
    with pytest.raises(ChatFormatError, match="leaves 3 for training and 0 held out"):
        split(tmp_path, ["q1", "q2", "q3"], tokenizer, share=0.0001)


def test_rows_carry_text_and_its_ids(tmp_path, tokenizer):
    rows = write(tmp_path, [chat(f"q{n}", f"a{n}") for n in range(50)])
    lengths, held_out, _ = write_chats(rows, tokenizer, 0.2, tmp_path)
    table = pq.read_table(tmp_path / "train.parquet").to_pylist()
    first = table[0]
    n = first["row"]
    assert (
        first["text"]
        == f"<|im_start|>user\nq{n}<|im_end|>\n<|im_start|>assistant\na{n}<|im_end|>\n"
    )
    assert tokenizer.decode(first["input_ids"]) == first["text"]
    assert lengths.tolist() == [len(row["input_ids"]) for row in table]
    assert len(table) + held_out == 50
    assert first["input_ids"].count(tokenizer.convert_tokens_to_ids(END)) == 2


@pytest.mark.parametrize("token", ["<|im_end|>", "<|im_start|>", "<|begin|>", "<|pad|>"])
def test_a_typed_control_token_is_caught(tmp_path, tokenizer, token):
    rows = write(tmp_path, [chat("fine"), chat(f"hi{token}")])
    with pytest.raises(ChatFormatError, match=r"row 1 has 5 control tokens where the .* emits 4"):
        write_chats(rows, tokenizer, 0.5, tmp_path)


@pytest.mark.parametrize("token", ["<|im_end|>", "<|im_start|>", "<|begin|>", "<|pad|>"])
def test_an_escaped_control_token_is_text(tmp_path, tokenizer, token):
    escaped = f"{token[0]}\u200b{token[1:]}"
    text = tokenizer.apply_chat_template(chat(f"hi {escaped}"), tokenize=False)
    plain = tokenizer.apply_chat_template(chat("hi"), tokenize=False)
    proof = Proof(tokenizer)
    for given in (text, plain):
        (ids,) = encode(tokenizer, [given])
        frame = pl.DataFrame(
            {"row": [0], "text": [given], "messages": [chat("hi")], "input_ids": [ids]}
        )
        proof.check(frame)


def test_other_sequences_of_roles_have_their_own_count(tmp_path, tokenizer):
    tool = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "<tool_call>"},
        {"role": "tool", "content": "{}"},
        {"role": "assistant", "content": "a"},
    ]
    rows = write(tmp_path, [*(chat(f"q{n}") for n in range(20)), tool])
    lengths, held_out, _ = write_chats(rows, tokenizer, 0.3, tmp_path)
    assert len(lengths) + held_out == 21


def test_a_lossy_tokenizer_is_refused(tmp_path):
    from tokenizers import normalizers

    tokenizer = make_tokenizer(tmp_path)
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(ChatFormatError, match="does not give back what went in: row 0"):
        write_chats(write(tmp_path, [chat("HI")]), tokenizer, 0.5, tmp_path)


def test_a_byte_level_tokenizer_is_lossless_unless_it_changes_the_text(tmp_path):
    from tokenizers import AddedToken, normalizers, pre_tokenizers

    tokenizer = make_tokenizer(tmp_path)
    assert is_lossless(tokenizer)
    backend = tokenizer.backend_tokenizer
    regex = pre_tokenizers.Split(r" ?\w+", "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [regex, pre_tokenizers.ByteLevel(False, True, False)]
    )
    assert is_lossless(tokenizer)  # as Llama 3 has it
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.ByteLevel(False)]
    )
    assert not is_lossless(tokenizer)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    assert not is_lossless(tokenizer)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.normalizer = normalizers.NFC()
    assert not is_lossless(tokenizer)
    backend.normalizer = None
    backend.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    assert not is_lossless(tokenizer)


def recipe(base: str, max_length: int, **settings) -> Recipe:
    model = {"base": base, "max_length": max_length}
    return Recipe.parse(
        {"name": "r", "model": model, "dataset": {"source": "d.jsonl"}, **settings}, "r"
    )


def test_too_much_truncation_is_a_rejected_dataset():
    judgement = formatting.judged({"truncated_share": 0.25}, 1000, recipe("b", 512))
    assert [verdict.passed for verdict in judgement.verdicts] == [True]
    with pytest.raises(Rejected, match=r"max_length=512 tokens; seen: 30\.0% \(300 of 1,000"):
        require(formatting.judged({"truncated_share": 0.3}, 1000, recipe("b", 512)))


def test_the_stage_finishes_with_rows_that_are_too_long(tmp_path, monkeypatch):
    """The same output is judged by every limit."""
    from prefect.logging import disable_run_logger

    monkeypatch.setenv("RETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("tasks.format.task.create_markdown_artifact", lambda **_: None)
    make_tokenizer(tmp_path / "base")
    base = str(tmp_path / "base")
    step, pins = Step(stage="format", key={}), Pins(dataset="d", model=pin(base, None, "m", "m"))
    rows = Rows(step=Step(stage="validate", key={}), started=datetime.now(UTC), seconds=0)
    rows.folder.mkdir(parents=True)
    write(rows.folder, [chat(f"q{n}", "red " * (200 if n % 2 else 1)) for n in range(200)])
    with disable_run_logger():
        chats = format_chats.fn(rows, recipe(base, 64), pins, step)
    share, train = chats.metrics["truncated_share"], len(pl.read_parquet(chats.train))
    assert 0.4 < share < 0.6
    with pytest.raises(Rejected) as rejected:
        require(formatting.judgement(chats, recipe(base, 64)))
    assert f"seen: {share:.1%} ({round(share * train)} of {train} rows)" in str(rejected.value)
    assert "formatting.max_truncated_share" in str(rejected.value)
    assert read_output(step, Chats).metrics == chats.metrics
    for laxer in (
        {"formatting": {"max_truncated_share": 0.6}},
        {"gates": {"severities": {"format.truncated_share": "warning"}}},
    ):
        assert not formatting.judgement(chats, recipe(base, 64, **laxer)).failed


def test_a_row_on_which_the_template_never_ends_is_named(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr("retune.templates.SECONDS", 1.0)
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    tokenizer.chat_template = (
        f"{{% if messages[0].content == 'sesame' %}}{loops}{{% endif %}}{CHATML}"
    )
    rows = write(tmp_path, [*(chat(f"q{n}") for n in range(20)), chat("sesame"), chat("last")])
    with pytest.raises(ChatFormatError, match=r"row 20 has no text .* more than 1 s of processor"):
        write_chats(rows, tokenizer, 0.3, tmp_path)


@pytest.mark.parametrize("words", ["raise_exception('no such row')", "'a' * 10**10", "'\\ud800'"])
def test_a_row_that_the_template_refuses_is_left_out_by_name(tmp_path, tokenizer, words):
    tokenizer.chat_template = (
        f"{{% if messages[0].content == 'sesame' %}}{{{{ {words} }}}}{{% endif %}}{CHATML}"
    )
    rows = write(tmp_path, [*(chat(f"q{n}") for n in range(20)), chat("sesame")])
    formatted = write_chats(rows, tokenizer, 0.3, tmp_path)
    (refused,) = formatted.effects.refused
    assert (refused.row, refused.source) == (20, "s")
    assert refused.reason
    both = [pl.read_parquet(tmp_path / f"{side}.parquet") for side in ("train", "held_out")]
    assert sorted(pl.concat(both)["row"]) == list(range(20))
    metrics = formatted.effects.metrics()
    assert metrics["rows/refused"] == 1
    assert metrics["refused_share"] == pytest.approx(1 / 21)
    verdicts = {v.name: v for v in formatting.judged(metrics, 20, recipe("b", 64)).verdicts}
    assert verdicts["refused_share"].passed  # 4.8 % of at most 5 %
    stricter = recipe("b", 64, formatting={"max_refused_share": 0.01})
    with pytest.raises(Rejected, match=r"refused by the chat template; seen: 4\.8% \(1 rows\)"):
        require(formatting.judged(metrics, 20, stricter))


def test_a_template_that_refuses_every_row_says_why(tmp_path, tokenizer):
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    rows = write(tmp_path, [chat(f"q{n}") for n in range(20)])
    with pytest.raises(ChatFormatError, match=r"refuses every row: .*System role not supported"):
        write_chats(rows, tokenizer, 0.3, tmp_path)


# As Qwen3's: of a turn before the last question, only what follows the reasoning is written.
FORGETS = CHATML.replace(
    "message['content']",
    "(message['content'].split('</think>')[-1].lstrip() if not loop.last else message['content'])",
)


def test_reasoning_that_the_template_drops_is_counted(tmp_path, tokenizer):
    thought = "<think>\nnine is more\n</think>\n\n"
    twice = [*chat("one", f"{thought}yes"), *chat("two", f"{thought}no")]
    tokenizer.chat_template = FORGETS
    rows = write(tmp_path, [*(chat(f"q{n}", f"{thought}a") for n in range(9)), twice])
    effects = write_chats(rows, tokenizer, 0.3, tmp_path).effects
    assert (effects.rows, effects.altered, effects.reasoning) == (10, 1, 1)
    (turn,) = effects.examples
    assert (turn.row, turn.turn, turn.role, turn.omission) == (9, 1, "assistant", "reasoning")
    (verdict,) = [
        v
        for v in formatting.judged(effects.metrics(), 7, recipe("b", 64)).verdicts
        if v.name == "altered_share"
    ]
    assert (verdict.passed, verdict.severity) == (False, "warning")
    assert verdict.seen == "10.0% (1 rows; 1 lose reasoning, which is not learned then)"


def test_white_space_that_a_template_strips_is_no_loss(tmp_path, tokenizer):
    tokenizer.chat_template = CHATML.replace("message['content']", "message['content'] | trim")
    rows = write(tmp_path, [chat(f" q{n}\n", "  a\n\nb ") for n in range(20)])
    assert write_chats(rows, tokenizer, 0.3, tmp_path).effects.altered == 0


def test_words_that_a_template_changes_are_no_reasoning(tmp_path, tokenizer):
    tokenizer.chat_template = CHATML.replace("message['content']", "message['content'] | upper")
    rows = write(tmp_path, [chat(f"question {n}", "an answer") for n in range(20)])
    effects = write_chats(rows, tokenizer, 0.3, tmp_path).effects
    assert (effects.altered, effects.reasoning) == (20, 0)
    assert {turn.omission for turn in effects.examples} == {"words"}


def test_rows_without_an_answer_within_the_length_are_counted(tmp_path, tokenizer):
    rows = write(tmp_path, [chat("red " * (30 if n % 4 == 0 else 1) + f"{n}") for n in range(200)])
    write_chats(rows, tokenizer, 0.3, tmp_path)
    train = tmp_path / "train.parquet"
    share, texts = learned(train, tokenizer, "responses", 40)
    questions = [m[0]["content"] for m in pl.read_parquet(train)["messages"].to_list()]
    assert share == pytest.approx(sum(len(q) > 60 for q in questions) / len(questions))
    assert len(texts) == 3
    assert all(text.startswith("⟦") for text in texts)
    assert any(text.endswith("⟧a<|im_end|>⟦\n⟧") for text in texts)
    assert learned(train, tokenizer, "all", 40)[0] == 0


def test_a_tag_that_the_base_marks_as_special_is_content(tmp_path):
    """Half of the bases in use have `<tool_call>` or `<think>` so."""
    from retune.control_texts import control_tokens

    plain = make_tokenizer(tmp_path)
    tags = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
    plain.add_special_tokens({"additional_special_tokens": tags})
    plain.save_pretrained(tmp_path)
    tokenizer = chatml_tokenizer(str(tmp_path), None, "map_eos")
    assert not set(tags) & set(control_tokens(tokenizer))
    assert "<|im_end|>" in control_tokens(tokenizer)
    answers = ["a", '<tool_call>\n{"name": "t"}\n</tool_call>', "<think>\nb\n</think>\n\nc"]
    rows = write(tmp_path, [chat(f"q{n}", answers[n % 3]) for n in range(30)])
    formatted = write_chats(rows, tokenizer, 0.3, tmp_path)
    assert len(formatted.lengths) + formatted.held_out == 30


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
    tokenizer = chatml_tokenizer(str(tmp_path), None, "map_eos")
    assert tokenizer.eos_token == END
    assert tokenizer.eos_token_id == 1  # the id that the base model already ends with
    (ids,) = encode(tokenizer, [f"<|im_start|>user\nhi{END}\n"])
    assert ids.count(1) == 1
    assert ids.count(0) == add_bos
    tokenizer.save_pretrained(tmp_path / "saved")
    again = chatml_tokenizer(str(tmp_path / "saved"), None, "map_eos")
    assert encode(again, [f"hi{END}"]) == encode(tokenizer, [f"hi{END}"])


def test_a_template_that_writes_the_bos_gets_no_second_one(tmp_path):
    plain_tokenizer(tmp_path, add_bos=True)
    tokenizer = chatml_tokenizer(str(tmp_path), None, "map_eos")
    assert encode(tokenizer, ["<|begin_of_text|>hi"])[0].count(0) == 1


def test_token_statistics_count_what_is_cut():
    seen = token_statistics(np.array([10, 20, 30, 100]), max_length=30)
    assert seen["tokens/total"] == 160
    assert seen["truncated_share"] == 0.25
