"""The GGUF files, and what each must reach."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from retune.recipe.methods import DEFAULT, METHODS
from retune.recipe.section import Line, Section, Share, all_known


class QuantGate(Section):
    """What a GGUF file must reach against the 16-bit one; empty: the default for its bits."""

    max_perplexity_ratio: float | None = Field(
        None, gt=1, le=1e6, description="Perplexity over that of the 16-bit GGUF, at most."
    )
    max_kl_divergence: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="Mean KL divergence from the 16-bit GGUF, at most (nats per token).",
    )
    min_same_top_token: Share | None = Field(
        None, description="Share of tokens for which both rank the same token first, at least."
    )
    max_exact_match_drop: Share | None = Field(
        None, description="How much lower its exact match may be, 0 to 1; chance comes on top."
    )
    max_stopped_drop: Share | None = Field(
        None,
        description="How much lower its share of answers that end by themselves may be, 0 to 1; "
        "chance comes on top.",
    )


# By bits, the first entry that is not below the method's. Twice what Llama 3 8B loses by llama.cpp's
# published figures, or more: a gate is to catch what is broken, not what is small.
DEFAULT_GATES = {
    bits: QuantGate(
        max_perplexity_ratio=perplexity_ratio,
        max_kl_divergence=kl_divergence,
        min_same_top_token=same_top_token,
        max_exact_match_drop=exact_match_drop,
        max_stopped_drop=stopped_drop,
    )
    for bits, perplexity_ratio, kl_divergence, same_top_token, exact_match_drop, stopped_drop in (
        (2, 2.5, 1.5, 0.5, 0.5, 0.2),
        (3, 1.3, 0.3, 0.75, 0.2, 0.1),
        (4, 1.15, 0.15, 0.85, 0.15, 0.05),
        (5, 1.06, 0.06, 0.9, 0.1, 0.05),
        (6, 1.03, 0.03, 0.93, 0.1, 0.05),
        (32, 1.02, 0.02, 0.95, 0.1, 0.05),
    )
}


class Quantization(Section):
    """GGUF files for llama.cpp, one per method."""

    methods: tuple[Line, ...] = Field(
        DEFAULT,
        min_length=1,
        max_length=100,
        description="Quantization methods, by llama.cpp's names.",
    )
    imatrix: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Importance matrix from held-out conversations: for methods of up to 4 bits "
        "(auto), for all, or for none.",
    )
    imatrix_rows: int = Field(
        100,
        ge=1,
        le=1_000_000_000,
        description="Held-out conversations that the importance matrix is made of, at most.",
    )
    parallel: int | None = Field(
        None,
        ge=1,
        le=1_024,
        description="Quantizations that run at the same time; empty: as cores, memory and disk allow.",
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=1_024,
        description="Threads that measure one file; empty: the cores, shared out. Quantizing itself "
        "takes the cores that are free.",
    )
    context: int = Field(
        512, ge=32, le=1_000_000, description="Window over which perplexity is measured, in tokens."
    )
    perplexity_rows: int = Field(
        50,
        ge=1,
        le=1_000_000_000,
        description="Held-out conversations for perplexity, at most; at most half of them if an "
        "importance matrix is made of the others.",
    )
    answer_rows: int = Field(
        100,
        ge=1,
        le=1_000_000_000,
        description="Held-out conversations answered through llama.cpp, at most.",
    )
    max_differing_rows: Share = Field(
        0.001,
        description="Largest share of the dataset's rows that llama.cpp may read as other tokens "
        "than training does, 0 to 1.",
    )
    gates: dict[Line, QuantGate] = Field(
        default_factory=dict,
        max_length=100,
        description='Gates by method, e.g. {"q2_k": {"max_perplexity_ratio": 3}}; a file that fails is '
        "kept but not published. What is not named has a default by the method's bits.",
    )

    def gate(self, method: str) -> QuantGate:
        """Return the gate of one method, every limit filled in."""
        width = METHODS[method].bits
        default = next(gate for bits, gate in DEFAULT_GATES.items() if width <= bits)
        overrides = self.gates.get(method, QuantGate()).model_dump(exclude_none=True)
        return default.model_copy(update=overrides)

    def uses_imatrix(self, method: str) -> bool:
        """Tell whether `method` is given an importance matrix."""
        return self.imatrix == "always" or (self.imatrix == "auto" and METHODS[method].bits <= 4)

    @property
    def calibrates(self) -> bool:
        """Whether an importance matrix is made at all."""
        return any(map(self.uses_imatrix, self.methods))

    @field_validator("methods")
    @classmethod
    def _methods_are_known(cls, methods: tuple[str, ...]) -> tuple[str, ...]:
        all_known(methods, METHODS, "a quantization method")
        if len(set(methods)) < len(methods):
            raise ValueError(f"a method is named twice in {list(methods)}; name each once")
        return methods

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        all_known(self.gates, (*self.methods, "bf16"), "one of quantization.methods")
        needy = {method for method in self.methods if METHODS[method].needs_imatrix}
        if self.imatrix == "never" and needy:
            raise ValueError(
                f"{', '.join(sorted(needy))} cannot do without an importance matrix; set "
                f"imatrix=auto, or take another method"
            )
        return self
