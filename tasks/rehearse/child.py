"""The child process of rehearse that asks a model and its GGUF for the same numbers."""

from pathlib import Path
from statistics import median
from typing import Any

from pydantic import BaseModel

from retune.child import main
from retune.llamacpp import LlamaCppFailed, LlamaCppStopped, first_choices
from retune.models import load_plain, token_ids

ROWS, TOKENS = 4, 16
PREFIXES = 8  # of a row, its longest ones
FEWEST = 4  # of numbers to compare
MEMORY = 8 << 30  # bytes, for some prompts to a tiny model


class ComputingJob(BaseModel):
    """A checkpoint, the GGUF that was made of it, and a Parquet file with `input_ids`."""

    checkpoint: Path
    gguf: Path
    rows: Path


def compare(job: ComputingJob) -> dict[str, Any]:
    """Return the `deviation`: by how much llama.cpp's log-probability of its first choice differs
    from the model's of the same token, in standard deviations of the model's logits; the median, 0 if
    there is too little to compare. Or the `failure` of llama.cpp with this model."""
    import torch

    rows = token_ids(job.rows, ROWS, TOKENS)
    prefixes = [
        (number, ids[:length])
        for number, ids in enumerate(rows)
        for length in range(max(1, len(ids) - PREFIXES + 1), len(ids) + 1)
    ]
    try:
        choices = first_choices(job.gguf, [ids for _, ids in prefixes], memory=MEMORY)
    except LlamaCppStopped:
        raise
    except LlamaCppFailed as error:
        return {"failure": str(error).splitlines()[-1]}
    model = load_plain(job.checkpoint).float()
    with torch.inference_mode():
        logits = [model(torch.tensor([ids])).logits[0] for ids in rows]
    deviations = []
    for (number, ids), choice in zip(prefixes, choices, strict=True):
        if choice:
            told = logits[number][len(ids) - 1]
            expected = told.log_softmax(-1)[choice.token].item()
            deviations.append(abs(expected - choice.log_probability) / told.std().item())
    return {"deviation": median(deviations) if len(deviations) >= FEWEST else 0.0}


if __name__ == "__main__":
    main(ComputingJob, compare)
