"""The child process of convert: what the tokenizer that was trained with says of the GGUF."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from retune import held_out
from retune.child import main
from retune.loaders import load_tokenizer
from retune.modelfile import modelfile
from tasks.quantize.fidelity import ends_of_turn, same_prompts


class FidelityJob(BaseModel):
    """A GGUF that was asked `answer_rows` questions of the file `held_out`, of `max_length` tokens at
    most, and how many tokens each prompt had there (`prompt_tokens`)."""

    gguf: Path
    tokenizer: Path
    held_out: Path
    answer_rows: int
    max_length: int
    prompt_tokens: list[int]


def compare(job: FidelityJob) -> dict[str, Any]:
    """Return the `share` of prompts that are as trained, the `fault` of the others, the `ends` of
    turns, and Ollama's `modelfile`, None where there can be no right one."""
    tokenizer = load_tokenizer(job.tokenizer)
    questions = held_out.questions(job.held_out, job.answer_rows, job.max_length)
    share, fault = same_prompts(tokenizer, questions, job.prompt_tokens)
    return {
        "share": share,
        "fault": fault,
        "ends": ends_of_turn(job.gguf, tokenizer),
        "modelfile": modelfile(job.gguf.name, tokenizer),
    }


if __name__ == "__main__":
    main(FidelityJob, compare)
