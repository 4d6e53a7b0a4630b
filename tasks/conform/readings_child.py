"""A child process of conform: how the tokenizer of a checkpoint reads what llama.cpp is asked to read."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from retune.child import main
from retune.loaders import load_tokenizer
from tasks.conform.readings import reading


class ReadingsJob(BaseModel):
    """The folder of a checkpoint."""

    checkpoint: Path


def read(job: ReadingsJob) -> dict[str, Any]:
    """Return the `reading`."""
    return {"reading": reading(load_tokenizer(job.checkpoint)).model_dump()}


if __name__ == "__main__":
    main(ReadingsJob, read)
