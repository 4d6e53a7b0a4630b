"""The base model."""

from typing import Literal

from pydantic import Field

from retune.recipe.section import Line, Section, Source


class Model(Section):
    """The base model that is fine-tuned."""

    base: Source = Field(
        description="Hub id or folder of the base model, e.g. unsloth/Meta-Llama-3.1-8B-bnb-4bit.",
        min_length=1,
    )
    revision: Line | None = Field(
        None,
        description="Branch, tag or commit of the base model on the Hub; empty: its main branch.",
    )
    max_length: int = Field(
        2048,
        ge=16,
        le=16_777_216,
        description="Longest sequence that is trained on, in tokens; longer ones are cut.",
    )
    load_in_4bit: bool = Field(
        True, description="QLoRA: hold the frozen weights in 4-bit NF4. Off: 16-bit LoRA."
    )
    chat_tokens: Literal["map_eos", "reserved", "add"] = Field(
        "map_eos",
        description="Where ChatML's tokens come from if the base has none: its EOS becomes <|im_end|> "
        "(map_eos, as in the article), two reserved tokens of its tokenizer (reserved), or two new "
        "tokens whose embedding rows are trained and saved with the adapter (add).",
    )
    trust_remote_code: str | None = Field(
        None,
        max_length=71,
        pattern=r"^([0-9a-f]{40}|sha256:[0-9a-f]{64})$",
        description="The version of the base whose own Python code may run here, once you have read it: "
        "a commit of the Hub, or sha256:… of a folder; empty: none runs.",
    )

    def trusts(self, revision: str | None) -> bool:
        """Tell whether the base's own code may run at this commit (None: a folder, pinned as such)."""
        allowed = self.trust_remote_code
        if allowed is None:
            return False
        return allowed.startswith("sha256:") if revision is None else allowed == revision
