"""Adapter and base become one checkpoint."""

from typing import Literal

from pydantic import Field

from retune.recipe.section import Line, Section, Share

FARTHEST_KL = 0.05  # nats per token, of a merged model from the evaluated one, by default
LEAST_SAME_TOP = 0.8


class Merging(Section):
    """Adapter and base become one 16-bit checkpoint."""

    save_method: Literal["lora", "merged_16bit", "merged_4bit"] = Field(
        "merged_16bit",
        description="lora: the adapter is all there is, no merge and no GGUF files. merged_16bit: a "
        "16-bit checkpoint, and the GGUF files made of it. merged_4bit: that, and an NF4 checkpoint.",
    )
    onto: Literal["best", "16bit", "dequantized"] = Field(
        "best",
        description="Weights that an adapter trained on 4-bit ones is evaluated and merged on: the "
        "base's true 16-bit weights, what its 4-bit weights stand for, or the best: the 16-bit ones if "
        "the held-out loss is lower there beyond the noise, and it still is what was trained.",
    )
    base_16bit: Line | None = Field(
        None,
        description="Hub id or folder of the 16-bit weights of a base that is stored in 4 bits, e.g. "
        "unsloth/Meta-Llama-3.1-8B; empty: its 4-bit weights are merged on, dequantised.",
    )
    base_16bit_revision: Line | None = Field(
        None, description="Branch, tag or commit of base_16bit; empty: its main branch."
    )
    max_kl_divergence: float = Field(
        FARTHEST_KL,
        gt=0,
        le=1e6,
        description="Gate: mean KL divergence of merged from evaluated model, at most (nats per token).",
    )
    min_same_top_token: Share = Field(
        LEAST_SAME_TOP,
        description="Gate: share of tokens for which both rank the same token first, at least.",
    )
    max_perplexity_ratio: float = Field(
        1.05,
        gt=1,
        le=1e6,
        description="Gate: perplexity of merged over that of the evaluated model, at most.",
    )
    check_rows: int = Field(
        8,
        ge=1,
        le=1_000_000_000,
        description="Held-out conversations on which the two are compared.",
    )
    max_shard_gb: float = Field(5.0, gt=0, le=1e6, description="Largest safetensors file, in GB.")
