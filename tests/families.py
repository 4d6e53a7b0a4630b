"""The families of models that go down the whole line, most as a tiny model with random weights."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from retune.home import cache_dir
from tests.architectures import SETTINGS, SIZES

SMALL = "small"  # the tokenizer of the other tests
INSPECTION = "inspection"  # of its files, before conform: what `refused` may be besides
# Wide enough that what the layers compute decides on a token, and not its predecessor alone.
SPREAD = {"initializer_range": 0.1}
LLAMA_3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
# As all that were published; llama.cpp does it whatever the configuration says.
NORMALIZED = {"norm_topk_prob": True}


# As Granite's models are published, so that what is added up keeps its size.
GRANITE = {
    "embedding_multiplier": 12.0,
    "logits_scaling": 6.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.03,
}
HYBRID = GRANITE | {
    "num_hidden_layers": 3,
    "layer_types": ["mamba", "mamba", "attention"],
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "intermediate_size": 64,
    "shared_intermediate_size": 64,
    "position_embedding_type": "nope",
    "mamba_n_heads": 4,
    "mamba_d_head": 32,
    "mamba_d_state": 32,
    "mamba_chunk_size": 32,
}


@dataclass(frozen=True)
class Family:
    """A family by the name of its configuration in transformers, with the tokenizer it has here.

    `tokenizer` is one of `tests.zoo.TOKENIZERS` or `PUBLISHED`, or SMALL, `nearest` whose it is where it
    is not the family's own. One that `is_real` has weights that were trained, by `tests.real_gemma`.
    `refused` names the verdict of conform by which the family is refused, if it
    is, or is INSPECTION.
    """

    name: str
    config: str
    tokenizer: str
    settings: dict[str, Any] = field(default_factory=dict)
    nearest: str = ""
    refused: str = ""
    is_real: bool = False

    @property
    def file(self) -> str:
        """The name as a file's."""
        return self.name.lower().replace(" ", "-")

    def all_settings(self) -> dict[str, Any]:
        return SETTINGS.get(self.config, SIZES) | SPREAD | self.settings


FAMILIES = (
    Family("Llama 2", "LlamaConfig", "llama2"),
    Family("Llama 3.1", "LlamaConfig", "llama3_1", {"rope_parameters": LLAMA_3_ROPE}),
    Family("Mistral", "MistralConfig", "llama2", {"num_key_value_heads": 1}, nearest="Llama 2"),
    # SentencePiece's own file alone, as the older repositories had it.
    Family("Mistral 0.3", "MistralConfig", "mistral_v3", {"num_key_value_heads": 1}),
    Family("Mistral tekken", "MistralConfig", "tekken", refused=INSPECTION),
    Family("Llama 3 tiktoken", "LlamaConfig", "llama3_tiktoken", refused=INSPECTION),
    Family("Llama 4 tiktoken", "LlamaConfig", "llama4_tiktoken", refused=INSPECTION),
    Family("Qwen3", "Qwen3Config", "qwen3", {"head_dim": 64, "tie_word_embeddings": True}),
    Family(
        "Gemma 3",
        "Gemma3TextConfig",
        "gemma3",
        {
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 16,
            "num_hidden_layers": 6,  # the last of which has full attention
        },
    ),
    Family("Gemma 3 270M with its weights", "Gemma3TextConfig", "gemma3", is_real=True),
    Family("Phi-3", "Phi3Config", "llama2", nearest="Llama 2"),
    # Every fourth layer has no rotary embedding.
    Family(
        "SmolLM3",
        "SmolLM3Config",
        "llama3_1",
        {"num_hidden_layers": 4, "tie_word_embeddings": True},
        nearest="Llama 3.1",
    ),
    Family("GPT-OSS", "GptOssConfig", "gptoss"),
    Family("Qwen3-MoE", "Qwen3MoeConfig", "qwen3", NORMALIZED, nearest="Qwen3"),
    Family(
        "Granite-MoE",
        "GraniteMoeConfig",
        "llama3_1",
        GRANITE,
        nearest="Llama 3.1",
    ),
    # Mamba's layers, one of attention, and a mixture after each; without rotary embeddings.
    Family("Granite 4 hybrid", "GraniteMoeHybridConfig", "llama3_1", HYBRID, nearest="Llama 3.1"),
    Family(
        "LFM2",
        "Lfm2Config",
        "llama3_1",
        {"num_hidden_layers": 3, "layer_types": ["conv", "conv", "full_attention"]},
        nearest="Llama 3.1",
    ),
    # Parts of a head that are whole blocks of 8-bit numbers, as the published ones are.
    Family(
        "DeepSeek-V3",
        "DeepseekV3Config",
        "deepseek_v3",
        # By `scoring_func` llama.cpp knows how experts are weighted; transformers takes it for granted.
        {"qk_nope_head_dim": 32, "qk_rope_head_dim": 32, "scoring_func": "sigmoid"},
    ),
)
# What is cheap enough for `make test`.
LIGHT = (
    # A mixture of experts down the whole line.
    Family("small Qwen3-MoE", "Qwen3MoeConfig", SMALL, NORMALIZED),
    # llama.cpp's converter wants SentencePiece for these, which the small tokenizer is not.
    Family(
        "small Phi-3",
        "Phi3Config",
        SMALL,
        refused="llama_cpp_s_converter_knows_model_and_tokenizer",
    ),
)


def save_family(family: Family, folder: Path) -> Path:
    """Save a family's model, in bf16, with its tokenizer in `folder`."""
    import torch
    import transformers

    from retune.loaders import load_tokenizer
    from tests import real_gemma
    from tests.tasks.conftest import make_tokenizer
    from tests.zoo import FOREIGN, tokenizer_files, tokens_of

    if family.tokenizer == SMALL:
        tokens = len(make_tokenizer(folder))
    else:
        shutil.copytree(tokenizer_files(family.tokenizer), folder)
        tokens = tokens_of(family.tokenizer)
    if family.is_real:
        return Path(shutil.copytree(real_gemma.weights(), folder, dirs_exist_ok=True))
    named = {}
    if family.tokenizer not in FOREIGN:
        tokenizer = load_tokenizer(folder)
        named = {kind: getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    settings = {f"{kind}_token_id": id_ for kind, id_ in named.items()} | {"vocab_size": tokens}
    torch.manual_seed(0)
    config = getattr(transformers, family.config)(**family.all_settings() | settings)
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class StageResult:
    """A stage that ended, after this many seconds."""

    stage: str
    seconds: float


def record(family: Family, results: Sequence[StageResult], refusal: str = "") -> None:
    """Keep for docs/models.md how a family fared, unless it is one of LIGHT."""
    if family in FAMILIES:
        kept = {"stages": [asdict(one) for one in results], "refusal": refusal}
        results_file(family).parent.mkdir(parents=True, exist_ok=True)
        results_file(family).write_text(json.dumps(kept, indent=1), encoding="utf-8")


def results_file(family: Family) -> Path:
    return cache_dir() / "zoo" / "families" / f"{family.file}.json"
