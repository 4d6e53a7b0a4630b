"""A child process of validate: which texts the model's tokenizer takes for control tokens."""

from typing import Any

from pydantic import BaseModel

from retune.chat import chatml_tokenizer
from retune.child import main
from retune.control_texts import control_tokens
from retune.loaders import admit
from retune.recipe import Model


class TokensJob(BaseModel):
    """A base model at a commit of the Hub; None for a folder."""

    model: Model
    revision: str | None


def find(job: TokensJob) -> dict[str, Any]:
    """Return the `control_tokens`."""
    admit(job.model, job.revision)
    tokenizer = chatml_tokenizer(job.model.base, job.revision, job.model.chat_tokens)
    return {"control_tokens": control_tokens(tokenizer)}


if __name__ == "__main__":
    main(TokensJob, find)
