"""What goes to the Hugging Face Hub."""

from typing import Literal, Self

from pydantic import Field, model_validator

from retune.recipe.section import Line, Section


class Publishing(Section):
    """Upload to the Hugging Face Hub."""

    enabled: bool = Field(False, description="Whether to upload at all.")
    repo: Line | None = Field(
        None,
        pattern=r"^\w[\w.-]*/\w[\w.-]*$",
        description="Hub repository of the merged model, e.g. you/FineLlama-3.1-8B. The adapter goes "
        "to <repo>-lora, the NF4 model to <repo>-bnb-4bit, the GGUF files to <repo>-GGUF.",
    )
    private: bool = Field(True, description="Whether the repositories are private.")
    artifacts: tuple[Literal["adapter", "merged", "merged_4bit", "gguf"], ...] | None = Field(
        None,
        min_length=1,
        max_length=100,
        description="What to upload; empty: all that the recipe makes.",
    )
    token_secret: Line | None = Field(
        None,
        description="Name of the Prefect Secret block that holds the Hub's token; empty: HF_TOKEN, or "
        "the token of `hf auth login`.",
    )

    @model_validator(mode="after")
    def _has_a_repo(self) -> Self:
        if self.enabled and not self.repo:
            raise ValueError(
                "enabled is true but repo is empty; name one, e.g. you/FineLlama-3.1-8B"
            )
        return self
