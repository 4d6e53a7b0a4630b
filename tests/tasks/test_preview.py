"""The mask preview shows the labels of training, on all of the text, and nothing of a secret."""

import html
import re

import polars as pl
import pytest

from retune.chat import CHATML, END, chatml_tokenizer
from retune.labels import IGNORED, labels_of
from tasks.format.chats import write_chats
from tasks.format.preview import ROWS, Span, _on, fragment, page, preview
from tests.expectations.test_page import asked_for
from tests.nasty import NASTY, unseen_in
from tests.rendered import Page
from tests.tasks.conftest import make_tokenizer
from tests.tasks.test_format import chat, plain_tokenizer, write

SYSTEM = [{"role": "system", "content": "be brief"}]
KINDS = {
    3: [*SYSTEM, *chat("blue")],
    5: chat("what", "<think>\nhm\n</think>\n\nred"),
    7: [*chat("one"), *chat("two")],
    9: chat("tool", '<tool_call>\n{"name": "t"}\n</tool_call>'),
    11: chat("red " * 50, "blue " * 40),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(folder)
    return chatml_tokenizer(str(folder), None, "map_eos")


def formatted(folder, conversations, tokenizer):
    write_chats(write(folder, conversations), tokenizer, 0.3, folder)
    whole = pl.concat(
        [pl.read_parquet(folder / f"{side}.parquet") for side in ("train", "held_out")]
    )
    whole.sort("row").write_parquet(folder / "all.parquet")
    return folder / "all.parquet"


@pytest.fixture(scope="module")
def train(tokenizer, tmp_path_factory):
    rows = [KINDS.get(n, chat(f"red {n}")) for n in range(40)]
    return formatted(tmp_path_factory.mktemp("rows"), rows, tokenizer)


@pytest.mark.parametrize("train_on", ["responses", "all"])
@pytest.mark.parametrize("max_length", [60, 512])
def test_it_shows_the_labels_of_training(train, tokenizer, train_on, max_length):
    table = pl.read_parquet(train)
    for shown in preview(train, tokenizer, train_on, max_length):
        line = table.row(by_predicate=pl.col("row") == shown.row, named=True)
        spans = [span for turn in shown.turns for span in turn.spans]
        assert "".join(span.text for span in spans) == line["text"]
        labels = labels_of(line["input_ids"][:max_length], tokenizer, train_on)
        assert shown.tokens == {
            "learned": sum(label != IGNORED for label in labels),
            "masked": labels.count(IGNORED),
            "cut": max(0, len(line["input_ids"]) - max_length),
        }
        learned = "".join(span.text for span in spans if span.state == "learned")
        kept = [label for label in labels if label != IGNORED]
        assert learned == tokenizer.decode(kept, skip_special_tokens=False)
        assert [turn.role for turn in shown.turns] == [m["role"] for m in line["messages"]]


def test_the_rows_are_of_every_kind(train, tokenizer):
    shown = preview(train, tokenizer, "responses", 60)
    assert len(shown) == ROWS
    reasons = {row.row: row.reasons for row in shown}
    assert reasons[11] == ("longest",)
    assert reasons[3] == ("with a system message",)
    assert reasons[5] == ("with reasoning",)
    assert reasons[7] == ("of several turns",)
    assert reasons[9] == ("with tools",)
    assert sum(why == ("among the first",) for why in reasons.values()) == 4
    assert next(row for row in shown if row.row == 11).tokens["cut"] > 0


def test_few_rows_are_shown_as_they_are(tokenizer, tmp_path):
    two = formatted(tmp_path, [chat("red"), chat("blue")], tokenizer)
    assert {row.row for row in preview(two, tokenizer, "all", 512)} == {0, 1}


def test_the_page_colours_each_state_and_frames_the_end(train, tokenizer):
    shown = preview(train, tokenizer, "responses", 60)
    text = page(shown, "responses")
    assert asked_for(text) == []
    tags = Page(text).tags
    classes = {a.get("class") for tag, a in tags if tag == "span"}
    assert {"learned", "masked", "cut"} <= classes
    assert text.count(f'<b class="stop">{html.escape(END)}</b>') == sum(len(r.turns) for r in shown)
    assert "training.train_on=responses" in text


@pytest.mark.parametrize("max_length", [12, 30, 45, 60, 512])
def test_a_secret_is_masked_whole_wherever_the_cut_is(tokenizer, tmp_path, max_length):
    key = "sk-proj-" + "a1B2" * 12
    rows = [chat(f"red {n}", f"the key is {key} and more") for n in range(40)]
    text = fragment(
        preview(formatted(tmp_path, rows, tokenizer), tokenizer, "responses", max_length), "x"
    )
    plain = Page(text).text
    assert "[secret]" in plain
    assert "a1B2" not in re.sub(r"\s", "", plain)
    assert "and more" in plain


@pytest.mark.parametrize("place", range(20))
def test_a_border_within_what_is_masked_moves(place):
    text, safe = "my password is abcd ok", "my password is [secret] ok"
    spans = [Span("learned", text[:place]), Span("cut", text[place:])]
    moved = _on(safe, spans)
    assert "".join(span.text for span in moved) == safe
    if place <= text.index("abcd"):
        assert moved[-1].text == safe[place:]


@pytest.mark.parametrize("text", NASTY.values(), ids=list(NASTY))
def test_words_of_strangers_are_words(train, tokenizer, text):
    (first, *_) = preview(train, tokenizer, "all", 512)
    made, plain = (
        fragment([first._replace(turns=[turn._replace(role=words, spans=[Span("learned", words)])
                                        for turn in first.turns])], "all")
        for words in (text, "canary")
    )  # fmt: skip
    assert Page(made).tags == Page(plain).tags
    assert unseen_in(made.replace("\n", "")) == []


def test_a_tokenizer_that_puts_spaces_in_shows_the_text_all_the_same(tmp_path):
    """And one that begins with a token that is not in the text."""
    plain_tokenizer(tmp_path, add_bos=True)
    tokenizer = chatml_tokenizer(str(tmp_path), None, "map_eos")
    tokenizer.chat_template = CHATML
    train = formatted(tmp_path, [chat(f"red {n}") for n in range(20)], tokenizer)
    table = pl.read_parquet(train)
    for shown in preview(train, tokenizer, "responses", 512):
        line = table.row(by_predicate=pl.col("row") == shown.row, named=True)
        assert "".join(s.text for turn in shown.turns for s in turn.spans) == line["text"]
        learned = [s.text for turn in shown.turns for s in turn.spans if s.state == "learned"]
        assert learned == [f"a{END}"]


def test_a_long_message_is_shown_by_its_ends(train, tokenizer):
    (first, *_) = preview(train, tokenizer, "all", 512)
    long = first._replace(turns=[first.turns[0]._replace(spans=[Span("learned", "x" * 50_000)])])
    text = fragment([long], "all")
    assert len(text) < 4000
    assert "48,800 characters" in text
