# ruff: noqa: E501  (cases, one a line)
"""The control tokens of every family of models are known, by their own tokenizers' files."""

import json

import polars as pl
import pytest

from expectations.data.messages import MESSAGE_FLAWS, Rules, judge_messages
from retune.recipe import Validation
from tests.zoo import TOKENIZERS, tokenizer_files

# Words that people write as well.
ORDINARY = {"[multimodal]"}
MISTRAL = (
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[TOOL_CALLS]",
    "[TOOL_RESULTS]",
    "<SPECIAL_20>",
)
OTHERS = (
    *("<|START_OF_TURN_TOKEN|>", "<|observation|>", "<|im_sep|>", "<|python_tag|>", "<|fim_prefix|>"),
    *("<｜User｜>", "<｜tool▁calls▁begin｜>", "<|reserved_special_token_7|>", "<unused42>", "<extra_id_1>"),
    *("<|header_start|>", "<|start_of_role|>", "[gMASK]", "<reserved_106>", "<pad>", "<unk>", "<|Human|>"),
)  # fmt: skip


def flagged(texts: list[str]) -> list[bool]:
    schema = {"row": pl.Int64, "place": pl.Int64, "role": pl.String, "content": pl.String}
    lines = [
        {"row": n, "place": 0, "role": "user", "content": text} for n, text in enumerate(texts)
    ]
    table = judge_messages(pl.DataFrame(lines, schema=schema), Rules(Validation()))
    assert not table.select(*{*MESSAGE_FLAWS} - {"special_token"}).to_numpy().any()
    return table["special_token"].to_list()


def test_those_of_mistral_and_others_are_known():
    tokens = (*MISTRAL, *OTHERS)
    seen = flagged([f"It ends {token} here." for token in tokens])
    assert [token for token, is_so in zip(tokens, seen, strict=True) if not is_so] == []
    assert not any(flagged([f"It is `{token}`, isn't it" for token in tokens]))


def test_what_people_write_is_none():
    texts = [
        "a |> f <| b and x <|> y, |x| < |y|",
        "<b>bold</b> <table> [IMG] [MASK] [SEP] [ARGS] [multimodal] <think>hm</think>",
        "<tool_call>{}</tool_call> and <start> or <end> and <|> <||>",
        "usage: cp [OPTION] SOURCE [PREFIX]",
    ]
    assert not any(flagged(texts))


@pytest.mark.proof
@pytest.mark.parametrize("family", TOKENIZERS)
def test_those_of_a_family_are_known(family):
    """By the tokenizer's own file, which is downloaded where it is not kept."""
    described = json.loads((tokenizer_files(family) / "tokenizer.json").read_text(encoding="utf-8"))
    added = [token["content"] for token in described["added_tokens"] if token["special"]]
    tokens = sorted({*added} - ORDINARY)
    assert len(tokens) >= 3
    seen = flagged([f"It ends {token} here." for token in tokens])
    assert [token for token, is_so in zip(tokens, seen, strict=True) if not is_so] == []
