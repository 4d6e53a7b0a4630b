"""The model that is asked is the one that ships: adapter merged, weights in 16 bits where they fit."""

import pytest

torch = pytest.importorskip("torch")

from peft import LoraConfig, get_peft_model  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

from retune import merged  # noqa: E402
from retune.merged import load_merged, load_unpacked, merge  # noqa: E402
from retune.models import load_tuned  # noqa: E402
from retune.recipe import Model  # noqa: E402

IDS = torch.arange(3, 35).reshape(2, 16)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=96,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=[{}, {"use_dora": True}, {"use_rslora": True}])
def adapter(base, tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(1)
    settings = LoraConfig(r=4, target_modules="all-linear", **request.param)
    tuned = get_peft_model(LlamaForCausalLM.from_pretrained(base), settings)
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    tuned.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def no_tokens_are_added(monkeypatch):
    monkeypatch.setattr("retune.models.fit_embeddings", lambda *_: None)


def logits(model):
    with torch.inference_mode():
        return model(IDS).logits


@pytest.mark.parametrize("in_4bit", [False, True])
def test_it_says_what_base_and_adapter_say(base, adapter, in_4bit):
    model = Model(base=str(base), load_in_4bit=in_4bit)
    beside = load_tuned(model, None, adapter)
    expected = logits(beside)
    with beside.disable_adapter():
        untrained = logits(beside)
    plain = load_unpacked(model, None, adapter)
    torch.testing.assert_close(logits(plain), untrained, rtol=1e-4, atol=1e-4)
    asked = merge(plain, adapter)
    assert type(asked) is LlamaForCausalLM
    assert not any("lora" in name for name, _ in asked.named_parameters())
    torch.testing.assert_close(logits(asked), expected, rtol=1e-3, atol=1e-3)
    assert (expected - untrained).abs().max() > 0.05  # the adapter matters
    torch.testing.assert_close(logits(load_merged(model, None, adapter)), logits(asked))


def test_weights_that_would_fill_the_memory_stay_in_4_bits(base, adapter, monkeypatch):
    parameters = sum(p.numel() for p in LlamaForCausalLM.from_pretrained(base).parameters())
    monkeypatch.setattr("retune.room.free_device_memory", lambda: 4 * 2 * parameters)  # no headroom
    model = Model(base=str(base), load_in_4bit=True)
    asked = load_merged(model, None, adapter)
    assert asked.base_model.model.is_loaded_in_4bit
    torch.testing.assert_close(logits(asked), logits(load_tuned(model, None, adapter)))
    monkeypatch.setattr("retune.room.free_device_memory", lambda: 5 * 2 * parameters)
    assert type(load_merged(model, None, adapter)) is LlamaForCausalLM


def test_what_was_trained_whole_is_read_as_it_is(base):
    model = Model(base="a base that nobody looks for", load_in_4bit=False)
    asked = merged.load_merged(model, None, base)
    torch.testing.assert_close(logits(asked), logits(LlamaForCausalLM.from_pretrained(base)))
