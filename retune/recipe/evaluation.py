"""Base and tuned model side by side."""

from pydantic import Field

from retune.recipe.section import Phrase, Section


class Evaluation(Section):
    """Base and tuned model, side by side on the held-out conversations."""

    loss_rows: int = Field(
        500,
        ge=1,
        le=1_000_000_000,
        description="Held-out conversations for loss and perplexity, at most.",
    )
    generation_rows: int = Field(
        200,
        ge=0,
        le=1_000_000_000,
        description="Held-out conversations answered for exact match, at most.",
    )
    max_new_tokens: int = Field(
        128, ge=1, le=1_000_000, description="Longest generated answer, in tokens."
    )
    batch_size: int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="Conversations per forward pass, at most; not set: as many as memory takes.",
    )
    samples: int = Field(
        24, ge=0, le=1_000_000, description="Generated answers kept in the sample table."
    )
    prompts: tuple[Phrase, ...] = Field(
        ("Is 9.11 larger than 9.9?",),
        max_length=10_000,
        description="Further questions for the sample table.",
    )
    max_loss_ratio: float = Field(
        1.0,
        gt=0,
        le=1e6,
        description="Gate: held-out loss of the tuned model over that of the base, at most.",
    )
