"""Which layers get an adapter, in the architectures of today: PEFT puts one on each of them, and
nowhere else."""

import re
from typing import Any

import pytest

from retune.architecture import kinds
from retune.outline import architecture, outline
from tests.architectures import SETTINGS, SIZES, model_of

LLAMA = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ATTENTION = {f"self_attn.{name}_proj" for name in "qkvo"}
MLP = {f"mlp.{name}_proj" for name in ("gate", "up", "down")}
EXPERTS = {"mlp.experts.gate_up_proj", "mlp.experts.down_proj"}
# What `auto` trains in a model, and what else there is of matrices.
LAYERS: dict[str, tuple[set[str], set[str]]] = {
    "LlamaConfig": (ATTENTION | MLP, set()),
    "Phi3Config": (
        {"self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"},
        set(),
    ),
    "GPT2Config": ({"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}, set()),
    "Gemma3Config": (ATTENTION | MLP, set()),
    "GptOssConfig": (ATTENTION, EXPERTS),
    "MixtralConfig": (ATTENTION, EXPERTS),
    "Qwen2MoeConfig": (
        ATTENTION
        | {f"mlp.shared_expert.{name}_proj" for name in ("gate", "up", "down")}
        | {"mlp.shared_expert_gate"},
        EXPERTS,
    ),
    "Qwen3MoeConfig": (ATTENTION, EXPERTS),
    "GraniteMoeConfig": (
        ATTENTION,
        {"block_sparse_moe.experts.gate_up_proj", "block_sparse_moe.experts.down_proj"},
    ),
    # PEFT takes the names of the dense layers for those of the experts.
    "DeepseekV3Config": (
        {f"self_attn.{name}" for name in ("q_a_proj", "q_b_proj", "kv_b_proj", "o_proj")}
        | {"self_attn.kv_a_proj_with_mqa"},
        EXPERTS | MLP | {f"mlp.shared_experts.{name}_proj" for name in ("gate", "up", "down")},
    ),
}


def empty(config: str) -> Any:
    """Return a model without weights."""
    import torch

    with torch.device("meta"):
        return model_of(config)


def adapted(model: Any, modules: list[str]) -> set[str]:
    """Return the paths of what PEFT trains in a model."""
    from peft import LoraConfig, get_peft_model

    tuned = get_peft_model(model, LoraConfig(r=2, target_modules=modules, task_type="CAUSAL_LM"))
    trained = [name for name, weight in tuned.named_parameters() if weight.requires_grad]
    assert all(re.search(r"\.lora_(embedding_)?[AB]\b", name) for name in trained)
    return {name.removeprefix("base_model.model.").partition(".lora_")[0] for name in trained}


@pytest.mark.parametrize("config", SETTINGS)
@pytest.mark.parametrize("names", ["auto", LLAMA])
def test_peft_trains_exactly_what_is_said(config, names):
    model = empty(config)
    found = architecture(model)
    linear, other = LAYERS[config]
    assert set(kinds(found.all_linear())) == linear
    assert set(kinds(found.untrained("auto"))) == other
    chosen = {layer.path for layer in found.selected(names)}
    modules = found.modules(names)
    if chosen:
        assert adapted(model, modules) == chosen
    else:
        assert modules == []
    assert found.share("auto") == 1


def test_names_of_another_architecture_are_told():
    phi3 = architecture(empty("Phi3Config"))
    assert phi3.unknown(LLAMA) == ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
    assert phi3.share(LLAMA) == pytest.approx(0.3)
    assert kinds(phi3.untrained(LLAMA)) == ["self_attn.qkv_proj", "mlp.gate_up_proj"]
    assert architecture(empty("LlamaConfig")).share(LLAMA) == 1
    assert architecture(empty("GPT2Config")).share(LLAMA) == 0


def test_bare_names_stay_where_they_mean_one_kind_of_layer():
    """As they are written to an adapter's settings, by which others load it."""
    found = architecture(empty("LlamaConfig"))
    assert found.modules("auto") == sorted(LLAMA)
    assert found.modules(("q_proj", "v_proj")) == ["q_proj", "v_proj"]
    assert found.modules(("layers.1.mlp.up_proj",)) == ["model.layers.1.mlp.up_proj"]


def test_a_vision_towers_layers_of_the_same_name_are_left():
    model = empty("Gemma3Config")
    found = architecture(model)
    assert any(path.startswith("model.vision_tower") for path in found.elsewhere)
    trained = adapted(model, found.modules(("q_proj",)))
    assert trained == {f"model.language_model.layers.{n}.self_attn.q_proj" for n in range(2)}


def test_embeddings_and_head_may_be_named():
    model = empty("LlamaConfig")
    found = architecture(model)
    names = ("q_proj", "embed_tokens", "lm_head")
    assert found.unknown(names) == ()
    assert {"model.embed_tokens", "lm_head"} < adapted(model, found.modules(names))


def test_a_base_that_is_stored_in_4_bits_has_the_same_layers(tmp_path):
    """transformers remembers how it read such a base, and cannot revert that."""
    import transformers
    from transformers.core_model_loading import WeightConverter
    from transformers.integrations.bitsandbytes import Bnb4bitDeserialize

    transformers.LlamaConfig(**SIZES).save_pretrained(tmp_path)
    model = empty("LlamaConfig")
    read = WeightConverter(
        ["weight.absmax", "weight"], "weight", operations=[Bnb4bitDeserialize(None)]
    )
    model._weight_conversions = [read]
    assert architecture(model) == outline(str(tmp_path), None)
    assert model._weight_conversions == [read]


def test_a_layer_in_4_bits_has_as_many_weights(tmp_path):
    import torch
    import transformers
    from bitsandbytes.nn import Linear4bit

    transformers.LlamaConfig(**SIZES).save_pretrained(tmp_path)
    model = empty("LlamaConfig")
    attention = model.model.layers[0].self_attn
    attention.q_proj = Linear4bit(64, 64, quant_type="nf4")
    attention.q_proj.weight.data = torch.zeros(2048, 1, dtype=torch.uint8)
    assert architecture(model) == outline(str(tmp_path), None)
