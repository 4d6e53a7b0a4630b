"""A child process of conform: how llama.cpp reads a GGUF with the tokenizer that is trained with."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from retune.child import main
from retune.loaders import load_tokenizer
from tasks.conform.parity import gguf_checks


class GgufJob(BaseModel):
    """A GGUF, and the folder of the checkpoint that it was converted from."""

    gguf: Path
    checkpoint: Path


def compare(job: GgufJob) -> dict[str, Any]:
    """Return the checks, and how the texts were read."""
    checks, parity = gguf_checks(job.gguf, load_tokenizer(job.checkpoint))
    return {
        "checks": [check.model_dump() for check in checks],
        "parity": parity.model_dump(),
    }


if __name__ == "__main__":
    main(GgufJob, compare)
