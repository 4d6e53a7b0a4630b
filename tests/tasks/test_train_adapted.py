"""A layer with its adapter in one function computes what PEFT does, and leaves to PEFT what it cannot."""

import copy

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, get_peft_model

from tasks.train.adapted import Adapted, ExactWeight, Fixed, exact_weights, fuse_adapters

INPUTS, OUTPUTS, TOKENS = 64, 96, 40


class Small(torch.nn.Module):
    """A layer of one kind between two plain ones, whose gradients it has to pass on."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.before = torch.nn.Linear(INPUTS, INPUTS)
        bias = kind == "biased"
        if kind == "4 bits":
            self.layer = Linear4bit(INPUTS, OUTPUTS, bias=False, compute_dtype=torch.bfloat16)
            self.layer = self.layer.to("cpu")
        else:
            self.layer = torch.nn.Linear(INPUTS, OUTPUTS, bias=bias)

    def forward(self, x):
        return self.layer(torch.tanh(self.before(x)))


def adapted(kind="plain", **lora):
    torch.manual_seed(0)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["layer"]} | lora
    model = get_peft_model(Small(kind), LoraConfig(**settings))
    for name, weight in model.named_parameters():
        if "lora_B" in name:  # zero at first, which would hide the adapter
            torch.nn.init.normal_(weight, std=0.05)
        if "before" in name:
            weight.requires_grad_(True)
    return model.train()


def stepped(model):
    """Return output and gradients, by name, of one pass in bf16."""
    x = torch.randn(2, TOKENS, INPUTS, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        output = model(x)
    output.float().pow(2).mean().backward()
    named = model.named_parameters()
    return output, {name: weight.grad for name, weight in named if weight.requires_grad}


@pytest.mark.parametrize("kind", ["plain", "biased", "4 bits"])
@pytest.mark.parametrize("lora", [{}, {"use_rslora": True}])
def test_output_and_gradients_are_pefts(kind, lora):
    model = adapted(kind, **lora)
    expected, gradients = stepped(copy.deepcopy(model))
    assert fuse_adapters(model) == 1
    output, ours = stepped(model)
    assert output.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), expected.float(), rtol=0.02, atol=0.02)
    assert ours.keys() == gradients.keys()
    assert sum("lora" in name for name in ours) == 2
    for name, gradient in gradients.items():
        assert ours[name].dtype == gradient.dtype
        off = (ours[name] - gradient).norm() / gradient.norm()
        assert off < 0.02, f"{name}: {off}"


def test_no_tokens_give_no_output():
    model = adapted()
    fuse_adapters(model)
    with torch.autocast("cpu", torch.bfloat16):
        output = model.base_model.model.layer(torch.zeros(0, INPUTS, requires_grad=True))
    assert output.shape == (0, OUTPUTS)
    output.sum().backward()


def test_it_is_nearer_to_32_bits_than_peft_or_as_near():
    model = adapted()
    with torch.no_grad():
        x = torch.randn(TOKENS, INPUTS)
        layer = model.base_model.model.layer
        exact = layer(x)
        with torch.autocast("cpu", torch.bfloat16):
            by_peft = layer(x)
        down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        fixed = Fixed(
            ExactWeight(layer.base_layer), layer.base_layer.bias, layer.scaling["default"]
        )
        ours = Adapted.apply(x.bfloat16(), down, up, fixed)
    assert (ours - exact).norm() < 1.05 * (by_peft - exact).norm()


def test_recomputed_in_the_backward_pass_it_is_the_same():
    model, other = adapted(), adapted()
    fuse_adapters(model)
    fuse_adapters(other)
    _, expected = stepped(other)
    forward = model.base_model.model.forward

    def recomputed(x):
        return torch.utils.checkpoint.checkpoint(forward, x, use_reentrant=False)

    model.base_model.model.forward = recomputed
    _, gradients = stepped(model)
    for name, gradient in expected.items():
        assert torch.equal(gradients[name], gradient), name


def test_kept_in_16_bits_a_4_bit_weight_is_the_same():
    model, other = adapted("4 bits"), adapted("4 bits")
    fuse_adapters(model)
    fuse_adapters(other)
    [weight] = exact_weights(model)
    assert weight.dequantized_bytes == 4 * INPUTS * OUTPUTS  # it was made of 32 bits
    weight.keep_dequantized()
    output, gradients = stepped(model)
    expected, others = stepped(other)
    assert torch.equal(output, expected)
    assert all(torch.equal(gradients[name], others[name]) for name in others)


def test_a_weight_of_16_bits_needs_no_other_copy():
    model = adapted()
    fuse_adapters(model)
    [weight] = exact_weights(model)
    assert weight.dequantized_bytes == 0


@pytest.mark.parametrize(
    "lora", [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True, "bias": "none"}]
)
def test_what_it_does_not_compute_stays_pefts(lora):
    assert fuse_adapters(adapted("biased", **lora)) == 0


def test_outside_of_training_and_without_the_adapter_peft_computes():
    model = adapted()
    plain = copy.deepcopy(model)
    fuse_adapters(model)
    x = torch.randn(TOKENS, INPUTS)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), plain.eval()(x))
        model.train()
        with (
            torch.autocast("cpu", torch.bfloat16),
            model.disable_adapter(),
            plain.disable_adapter(),
        ):
            assert torch.equal(model(x), plain(x))
