"""Tiny models of the architectures of today, with random weights."""

from pathlib import Path
from typing import Any

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
# By the names of transformers' configurations.
SETTINGS: dict[str, dict[str, Any]] = {
    "LlamaConfig": SIZES,
    "Phi3Config": SIZES,
    "GPT2Config": {"vocab_size": 64, "n_embd": 64, "n_layer": 2, "n_head": 2, "bos_token_id": 2},
    "Gemma3Config": {
        "text_config": SIZES | {"head_dim": 32},
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
    },
    "GptOssConfig": MIXTURE | {"head_dim": 32, "num_local_experts": 4},
    "MixtralConfig": MIXTURE | {"num_local_experts": 4},
    "Qwen2MoeConfig": MIXTURE | {"num_experts": 4, "moe_intermediate_size": 64},
    "Qwen3MoeConfig": MIXTURE | {"head_dim": 32, "num_experts": 4, "moe_intermediate_size": 64},
    "GraniteMoeConfig": MIXTURE | {"num_local_experts": 4},
    "DeepseekV3Config": MIXTURE
    | {
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
    },
}
# As ibm-granite published its hybrids: one with a mixture of experts, one without.
GRANITE_4 = {
    "num_hidden_layers": 40,
    "layer_types": [*["mamba"] * 5, "attention", *["mamba"] * 4] * 4,
    "position_embedding_type": "nope",
    "embedding_multiplier": 12.0,
    "logits_scaling": 6.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.0078125,
    "mamba_d_head": 64,
    "mamba_d_state": 128,
}
GRANITE_4_TINY = GRANITE_4 | {
    **{"hidden_size": 1536, "num_attention_heads": 12, "num_key_value_heads": 4},
    **{"mamba_n_heads": 48, "num_local_experts": 64, "num_experts_per_tok": 6},
    **{"intermediate_size": 512, "shared_intermediate_size": 1024},
}
GRANITE_4_MICRO = GRANITE_4 | {
    **{"hidden_size": 2048, "num_attention_heads": 32, "num_key_value_heads": 8},
    **{"mamba_n_heads": 64, "num_local_experts": 0, "num_experts_per_tok": 0},
    **{"intermediate_size": 8192, "shared_intermediate_size": 8192},
}


def model_of(config: str, **changes: Any) -> Any:
    """Return a model of a configuration's name."""
    import transformers

    settings = SETTINGS[config]
    if text := settings.get("text_config"):
        changes = {"text_config": text | changes}
    return transformers.AutoModelForCausalLM.from_config(
        getattr(transformers, config)(**settings | changes)
    )


def save_base(config: str, folder: Path) -> None:
    """Save such a model as transformers does, in bf16, with the tokenizer of the other tests."""
    import torch

    from tests.tasks.conftest import make_tokenizer

    tokenizer = make_tokenizer(folder)
    torch.manual_seed(0)
    model = model_of(config, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    model.to(torch.bfloat16).save_pretrained(folder)
