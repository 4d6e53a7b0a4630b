"""The child process of format: the model's tokenizer and chat template, a stranger's, at work."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from expectations.data.masking import mask
from retune.chat import chatml_tokenizer
from retune.child import main
from retune.loaders import admit, strip_code
from retune.plots import length_histogram
from retune.recipe import Model
from tasks.format.chats import learned, token_statistics, write_chats
from tasks.format.preview import page, preview

PREVIEW = "learned.html"  # ten rows with what is learned of them


class FormatJob(BaseModel):
    """`rows` is the Parquet file of the sound rows; `folder` gets the tokenizer, the training and the
    held-out rows, a chart of their lengths and the page PREVIEW."""

    rows: Path
    folder: Path
    model: Model
    revision: str | None
    held_out_share: float
    train_on: str


def format_rows(job: FormatJob) -> dict[str, Any]:
    """Return the `metrics` of the rows, the first `examples` with what is not learned in brackets,
    and what the template did: `effects`, the `reasons` by which it refuses rows with their counts,
    and in how many it drops reasoning."""
    model = job.model
    admit(model, job.revision)
    tokenizer = chatml_tokenizer(model.base, job.revision, model.chat_tokens)
    tokenizer.save_pretrained(job.folder / "tokenizer")
    strip_code(job.folder / "tokenizer")
    lengths, held_out, effects = write_chats(job.rows, tokenizer, job.held_out_share, job.folder)
    train = job.folder / "train.parquet"
    length_histogram(lengths, model.max_length, job.folder / "lengths.png")
    unlearned, examples = learned(train, tokenizer, job.train_on, model.max_length)
    shown = preview(train, tokenizer, job.train_on, model.max_length)
    (job.folder / PREVIEW).write_text(page(shown, job.train_on), encoding="utf-8")
    metrics: dict[str, float] = {"rows/train": len(lengths), "rows/held_out": held_out}
    metrics |= token_statistics(lengths, model.max_length) | effects.metrics()
    return {
        "metrics": metrics | {"unlearned_share": unlearned},
        "examples": [mask(example) for example in examples],
        "effects": effects.described(),
        "reasons": effects.reasons(),
        "reasoning": effects.reasoning,
    }


if __name__ == "__main__":
    main(FormatJob, format_rows)
