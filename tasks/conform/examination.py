"""The examination of a base model: all that can be known before anything is trained."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pydantic import BaseModel

from retune import llamacpp
from retune.architecture import Architecture
from retune.chat import chatml_tokenizer
from retune.loaders import admit
from retune.outline import outline
from retune.recipe import Model
from retune.records import Check
from tasks.conform.checks import mergeable, reads_as_its_file, tokenizer_checks
from tasks.conform.parity import Parity, gguf_checks, save_tiny

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ExaminationReport(BaseModel):
    """Everything that was checked; `parity` is None if there was no GGUF to compare with.

    Which of the layers are trained is the recipe's matter, and judged with it.
    """

    base: str
    chat_tokens: str
    tokenizer: str
    checks: list[Check]
    parity: Parity | None
    architecture: Architecture


def examine(
    model: Model, revision: str | None, gguf: Path | None, train_on: str = "all"
) -> ExaminationReport:
    """Check tokenizer and template of `model`, and with a path `gguf`, a tiny one made there of them.

    `train_on` is the recipe's (see `retune.labels.labels_of`).

    Raises ChatFormatError for a base that cannot be brought into ChatML at all.
    """
    admit(model, revision)
    tokenizer = chatml_tokenizer(model.base, revision, model.chat_tokens)
    checks = [
        reads_as_its_file(model.base, revision),
        *tokenizer_checks(tokenizer, model.chat_tokens, train_on),
    ]
    parity = None
    if gguf:
        gguf_results, parity = _in_llamacpp(model, revision, tokenizer, gguf)
        checks += [mergeable(model.base, revision), *gguf_results]
    return ExaminationReport(
        base=model.base,
        chat_tokens=model.chat_tokens,
        tokenizer=type(tokenizer).__name__,
        checks=checks,
        parity=parity,
        architecture=outline(model.base, revision),
    )


def _in_llamacpp(
    model: Model, revision: str | None, tokenizer: "PreTrainedTokenizerBase", gguf: Path
) -> tuple[list[Check], Parity | None]:
    try:
        _convert_tiny(model, revision, tokenizer, gguf)
        checks, parity = gguf_checks(gguf, tokenizer)
        return [_converted(passed=True, seen="converts"), *checks], parity
    except llamacpp.ConversionFailed as error:
        reason = str(error).splitlines()[-1]  # before it the converter says more than helps
        return [_converted(passed=False, seen=f"the tokenizer of {model.base}: {reason}")], None


def _convert_tiny(
    model: Model, revision: str | None, tokenizer: "PreTrainedTokenizerBase", gguf: Path
) -> None:
    with TemporaryDirectory(prefix="retune-conform-") as scratch:
        folder = Path(scratch, "tiny")
        save_tiny(model, revision, tokenizer, folder)
        llamacpp.convert(folder, gguf)


def _converted(passed: bool, seen: str) -> Check:
    return Check(
        name="llama.cpp's converter knows model and tokenizer",
        passed=passed,
        seen=seen,
        fix="choose a model.base that llama.cpp supports, or set merging.save_method=lora: then there "
        "are no GGUF files",
    )
