"""Products with a frozen base in FP8: how far they are off, and what stays exact."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

from retune.recipe import Recipe, RecipeError
from tasks.train.fp8 import LARGEST, Product, multiply_in_fp8, rounded, weights_of
from tasks.train.job import TrainingRefused

SHAPE = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "vocab_size": 96}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
OFF = 0.06  # of an output's size: two operands with 3 bits of mantissa each


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    one, other = one.detach().float(), other.detach().float()
    return float((one - other).norm() / other.norm())


def test_each_row_has_a_scale_of_its_own():
    matrix = torch.tensor([[1e-5, -2e-5], [3e4, 1.0], [0.0, 0.0]])
    values, scales = rounded(matrix)
    assert scales.shape == (3, 1)
    assert values.float().abs().amax(-1).tolist() == [LARGEST, LARGEST, 0.0]
    assert torch.allclose(values.float() * scales, matrix, rtol=0.07, atol=30)


def test_product_and_gradient_are_near_the_exact_ones():
    torch.manual_seed(0)
    weight = torch.randn(32, 128, dtype=torch.bfloat16)
    x = torch.randn(3, 7, 128, dtype=torch.bfloat16, requires_grad=True)
    product = Product.apply(x, weights_of(weight))
    assert product.shape == (3, 7, 32)
    assert 0.001 < relative(product, x @ weight.t()) < OFF
    gradient = torch.randn_like(product)
    product.backward(gradient)
    assert x.grad.shape == x.shape
    assert 0.001 < relative(x.grad, gradient @ weight) < OFF


@pytest.fixture
def adapted():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        LlamaConfig(**SHAPE, **HEADS, attention_bias=True), dtype=torch.bfloat16
    )
    return get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))


def test_only_training_is_rounded_and_all_adapters_learn(adapted):
    ids = torch.arange(24).reshape(2, 12)
    with torch.no_grad():
        before = adapted.eval()(ids).logits
    assert multiply_in_fp8(adapted) == 14  # 7 of each layer; the head has no adapter
    with torch.no_grad():
        assert torch.equal(adapted.eval()(ids).logits, before)
        rounded_logits = adapted.train()(ids).logits
    assert 0 < relative(rounded_logits, before) < 3 * OFF
    adapted(input_ids=ids, labels=ids).loss.backward()
    learning = {name: one for name, one in adapted.named_parameters() if one.requires_grad}
    assert len(learning) == 28
    assert all(one.grad is not None for one in learning.values())
    assert all(torch.isfinite(one.grad).all() for one in learning.values())
    assert any(one.grad.abs().sum() > 0 for name, one in learning.items() if "layers.0" in name)


def test_layers_of_odd_dimensions_stay_exact():
    odd = SHAPE | {"intermediate_size": 100}
    model = AutoModelForCausalLM.from_config(LlamaConfig(**odd, **HEADS), dtype=torch.bfloat16)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    assert multiply_in_fp8(adapted) == 8  # the four of attention, in two layers


def test_a_base_in_another_form_is_refused():
    class Codes(torch.nn.Linear):
        """As of 8 bits: whose scales are elsewhere."""

    model = torch.nn.Sequential(torch.nn.Linear(32, 32))
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["0"]))
    adapted.base_model.model[0].base_layer.__class__ = Codes
    with pytest.raises(TrainingRefused, match=r"finds no layer .*training\.fp8=false"):
        multiply_in_fp8(adapted)


@pytest.mark.parametrize(
    "settings",
    [
        {"backend": "unsloth"},
        {"backend": "trl", "method": "full"},
        {"backend": "trl", "use_dora": True},
        {"backend": "trl", "shard": True, "optimizer": "adamw_torch"},
    ],
)
def test_what_it_does_not_go_with_is_refused(settings):
    values = {
        "name": "a",
        "model": {"base": "b", "load_in_4bit": False},
        "dataset": {"source": "c"},
    }
    with pytest.raises(
        RecipeError, match="fp8 needs backend=trl and method=lora, without use_dora"
    ):
        Recipe.parse(values | {"training": settings | {"fp8": True}})
