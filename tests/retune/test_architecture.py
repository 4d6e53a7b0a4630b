"""Which layers get an adapter, in the architectures of today: PEFT puts one on each of them, and
nowhere else."""

import re
from typing import Any

import pytest

from retune.architecture import kinds
from retune.outline import architecture, outline

LLAMA = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SIZES = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 2,
}
MIXTURE = SIZES | {"num_experts_per_tok": 2}
GPT2 = {"vocab_size": 64, "n_embd": 64, "n_layer": 2, "n_head": 2, "bos_token_id": 2}
DEEPSEEK = MIXTURE | {
    "moe_intermediate_size": 64,
    "n_routed_experts": 4,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 16,
    "v_head_dim": 32,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
ATTENTION = {f"self_attn.{name}_proj" for name in "qkvo"}
MLP = {f"mlp.{name}_proj" for name in ("gate", "up", "down")}
# The settings of a tiny model, what `auto` trains in it, and what else there is of matrices.
MODELS: dict[str, tuple[dict[str, Any], set[str], set[str]]] = {
    "LlamaConfig": (SIZES, ATTENTION | MLP, set()),
    "Phi3Config": (
        SIZES,
        {"self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"},
        set(),
    ),
    "GPT2Config": (GPT2, {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}, set()),
    "Gemma3Config": (
        {"text_config": SIZES | {"head_dim": 32}, "vision_config": VISION},
        ATTENTION | MLP,
        set(),
    ),
    "GptOssConfig": (
        MIXTURE | {"head_dim": 32, "num_local_experts": 4},
        ATTENTION,
        {"mlp.experts.gate_up_proj", "mlp.experts.down_proj"},
    ),
    "Qwen2MoeConfig": (
        MIXTURE | {"num_experts": 4, "moe_intermediate_size": 64},
        ATTENTION
        | {f"mlp.shared_expert.{name}_proj" for name in ("gate", "up", "down")}
        | {"mlp.shared_expert_gate"},
        {"mlp.experts.gate_up_proj", "mlp.experts.down_proj"},
    ),
    "Qwen3MoeConfig": (
        MIXTURE | {"head_dim": 32, "num_experts": 4, "moe_intermediate_size": 64},
        ATTENTION,
        {"mlp.experts.gate_up_proj", "mlp.experts.down_proj"},
    ),
    "GraniteMoeConfig": (
        MIXTURE | {"num_local_experts": 4},
        ATTENTION,
        {"block_sparse_moe.experts.gate_up_proj", "block_sparse_moe.experts.down_proj"},
    ),
    # PEFT takes the names of the dense layers for those of the experts.
    "DeepseekV3Config": (
        DEEPSEEK,
        {f"self_attn.{name}" for name in ("q_a_proj", "q_b_proj", "kv_b_proj", "o_proj")}
        | {"self_attn.kv_a_proj_with_mqa"},
        {"mlp.experts.gate_up_proj", "mlp.experts.down_proj"}
        | MLP
        | {f"mlp.shared_experts.{name}_proj" for name in ("gate", "up", "down")},
    ),
}


def model_of(config: str) -> Any:
    import torch
    import transformers

    settings = getattr(transformers, config)(**MODELS[config][0])
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(settings)


def adapted(model: Any, modules: list[str]) -> set[str]:
    """Return the paths of what PEFT trains in a model."""
    from peft import LoraConfig, get_peft_model

    tuned = get_peft_model(model, LoraConfig(r=2, target_modules=modules, task_type="CAUSAL_LM"))
    trained = [name for name, weight in tuned.named_parameters() if weight.requires_grad]
    assert all(re.search(r"\.lora_(embedding_)?[AB]\b", name) for name in trained)
    return {name.removeprefix("base_model.model.").partition(".lora_")[0] for name in trained}


@pytest.mark.parametrize("config", MODELS)
@pytest.mark.parametrize("names", ["auto", LLAMA])
def test_peft_trains_exactly_what_is_said(config, names):
    model = model_of(config)
    found = architecture(model)
    _, linear, other = MODELS[config]
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
    phi3 = architecture(model_of("Phi3Config"))
    assert phi3.unknown(LLAMA) == ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
    assert phi3.share(LLAMA) == pytest.approx(0.3)
    assert kinds(phi3.untrained(LLAMA)) == ["self_attn.qkv_proj", "mlp.gate_up_proj"]
    assert architecture(model_of("LlamaConfig")).share(LLAMA) == 1
    assert architecture(model_of("GPT2Config")).share(LLAMA) == 0


def test_bare_names_stay_where_they_mean_one_kind_of_layer():
    """As they are written to an adapter's settings, by which others load it."""
    found = architecture(model_of("LlamaConfig"))
    assert found.modules("auto") == sorted(LLAMA)
    assert found.modules(("q_proj", "v_proj")) == ["q_proj", "v_proj"]
    assert found.modules(("layers.1.mlp.up_proj",)) == ["model.layers.1.mlp.up_proj"]


def test_a_vision_towers_layers_of_the_same_name_are_left():
    model = model_of("Gemma3Config")
    found = architecture(model)
    assert any(path.startswith("model.vision_tower") for path in found.elsewhere)
    trained = adapted(model, found.modules(("q_proj",)))
    assert trained == {f"model.language_model.layers.{n}.self_attn.q_proj" for n in range(2)}


def test_embeddings_and_head_may_be_named():
    model = model_of("LlamaConfig")
    found = architecture(model)
    names = ("q_proj", "embed_tokens", "lm_head")
    assert found.unknown(names) == ()
    assert {"model.embed_tokens", "lm_head"} < adapted(model, found.modules(names))


def test_a_layer_in_4_bits_has_as_many_weights(tmp_path):
    import torch
    import transformers
    from bitsandbytes.nn import Linear4bit

    transformers.LlamaConfig(**SIZES).save_pretrained(tmp_path)
    model = model_of("LlamaConfig")
    attention = model.model.layers[0].self_attn
    attention.q_proj = Linear4bit(64, 64, quant_type="nf4")
    attention.q_proj.weight.data = torch.zeros(2048, 1, dtype=torch.uint8)
    assert architecture(model) == outline(str(tmp_path), None)
