"""The LLM judge: a model that grades what no rule can."""

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from retune.recipe.address import is_address, require_address
from retune.recipe.section import Line, Phrase, Section, shown

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class LLMJudge(Section):
    """A model that grades answers by rubrics and prefers one of two; off unless url or gguf is set."""

    url: Line | None = Field(
        None,
        description="Base address of an OpenAI-compatible endpoint, e.g. https://api.openai.com/v1; "
        "questions and answers are sent there. Empty: none.",
    )
    model: Line | None = Field(
        None, description="Name of the model that the endpoint is asked for; needed with url."
    )
    gguf: Line | None = Field(
        None,
        description="Path of a GGUF that llama.cpp serves as the judge on this machine, instead of url.",
    )
    key_variable: Line | None = Field(
        None,
        description="Name of the environment variable that holds the endpoint's key, e.g. "
        "OPENAI_API_KEY; empty: no key, or key_secret.",
    )
    key_secret: Line | None = Field(
        None, description="Name of the Prefect Secret block that holds the endpoint's key."
    )
    compare: tuple[Line, ...] = Field(
        ("held_out",),
        max_length=100,
        description="Suites whose answers by candidate and champion (if there is none: base) are "
        "compared in pairs: held_out, battery, or names of suites.",
    )
    criteria: Phrase = Field(
        "The better answer does what was asked, is correct and complete, and is clear. Length alone "
        "counts for nothing.",
        min_length=1,
        description="By what the judge prefers one of two answers.",
    )
    votes: int = Field(
        1,
        ge=1,
        le=99,
        description="Votes per example, each with a seed of its own; a comparison asks twice per vote, "
        "in both orders.",
    )
    temperature: float | None = Field(
        0.0,
        ge=0,
        le=2,
        description="Sampling temperature of the judge; empty: not sent, for models that refuse it.",
    )
    seed: int | None = Field(
        0,
        ge=0,
        le=2_000_000_000,
        description="Seed of the first vote, the next ones follow; empty: not sent.",
    )
    max_tokens: int = Field(
        1024, ge=16, le=100_000, description="Longest reply of the judge, in tokens."
    )
    limit_parameter: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens",
        description="What the endpoint calls the longest reply; OpenAI's reasoning models want "
        "max_completion_tokens.",
    )
    max_characters: int = Field(
        20_000,
        ge=100,
        le=1_000_000,
        description="Characters of a conversation, and of an answer, that the judge is shown; of a "
        "longer one its beginning and its end.",
    )
    parallel: int = Field(4, ge=1, le=256, description="Requests to the endpoint at a time.")
    timeout: float = Field(
        120, gt=0, le=3600, description="Seconds after which a request counts as failed."
    )
    attempts: int = Field(
        5,
        ge=1,
        le=20,
        description="Attempts per request: what passes by itself (429, 5xx, a dropped connection) is "
        "tried again.",
    )
    labels: Line | None = Field(
        None,
        description="File of JSON lines with people's verdicts, by which the judge is judged; empty: "
        "none.",
    )
    min_kappa: float = Field(
        0.4,
        ge=-1,
        le=1,
        description="Gate: agreement of the judge with labels (Cohen's kappa), at least; below, its "
        "grades do not count.",
    )
    max_no_vote_share: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Gate: share of votes that say nothing (no reply, or one that cannot be read), at "
        "most; above, its grades do not count.",
    )
    price_input: float | None = Field(
        None,
        ge=0,
        le=1e6,
        description="Price of a million tokens sent, in your currency; for the estimate of "
        "`retune plan`.",
    )
    price_output: float | None = Field(
        None, ge=0, le=1e6, description="Price of a million tokens received, in your currency."
    )

    @property
    def enabled(self) -> bool:
        return bool(self.url or self.gguf)

    @field_validator("url")
    @classmethod
    def _is_of_the_web(cls, url: str | None) -> str | None:
        if url and not (is_address(url) and url.startswith(("https://", "http://"))):
            raise ValueError(f"{shown(url)} is no https:// or http:// address; correct it")
        # In a private network an endpoint may well be without encryption; see `retune.webhooks`.
        if url:
            require_address(url.replace("http://", "https://", 1))
        return url

    @field_validator("key_variable")
    @classmethod
    def _is_a_name(cls, name: str | None) -> str | None:
        if name and not _VARIABLE.fullmatch(name):
            # Whoever puts the key itself here must not see it in a log.
            raise ValueError("is no name of an environment variable; never put the key itself here")
        return name

    @model_validator(mode="after")
    def _is_one_judge(self) -> Self:
        if self.url and self.gguf:
            raise ValueError("both url and gguf are set; leave one empty")
        if self.url and not self.model:
            raise ValueError("model is empty; name the model that the endpoint is asked for")
        if self.key_variable and self.key_secret:
            raise ValueError("both key_variable and key_secret are set; leave one empty")
        if self.votes > 1 and (self.temperature == 0):
            raise ValueError(
                f"votes={self.votes} with temperature=0 would all be the same; set a temperature such "
                f"as 0.7, or votes=1"
            )
        return self
