"""Convert a Hugging Face checkpoint to a GGUF, and prove that llama.cpp reads text as it did."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypedDict

from pydantic import BaseModel

from retune.child import ChildFailed, ChildRefused, Event, run_child
from retune.llamacpp.installation import locate
from retune.llamacpp.process import (
    Finished,
    LlamaCppFailed,
    appearing_whole,
    environment,
    existing,
    failed,
    require_space_left,
)
from retune.llamacpp.tokens import tokenize

DTYPES = ("f32", "bf16", "f16", "q8_0")
CONVERTER = Path(__file__).with_name("converter.py")


class ConversionFailed(LlamaCppFailed):
    """The checkpoint can't be a GGUF that behaves like it; the message says why."""


class TokenProbe(TypedDict):
    """A text and its token ids, by the tokenizer; whether it has one of the added tokens."""

    text: str
    ids: list[int]
    control: bool


class ConversionJob(BaseModel):
    """What the converter is told; `llamacpp` is the folder of its scripts."""

    llamacpp: Path
    checkpoint: Path
    scratch: Path
    out: Path
    dtype: str
    add_bos: bool | None
    name: str | None


def convert(
    model_dir: Path,
    out: Path,
    dtype: str = "bf16",
    add_bos: bool | None = None,
    name: str | None = None,
    prove: Callable[[Path, Event], None] | None = None,
    converter: Path = CONVERTER,
) -> None:
    """Convert the checkpoint in `model_dir` (as transformers saves it) to the GGUF `out`.

    `dtype` is one of DTYPES. `add_bos` says whether programs that use the GGUF put BOS before a
    prompt; None means: if the checkpoint's tokenizer does. `name` is what programs show as the
    model's name (else the folder's). The folder is not changed. Before `out` appears, llama.cpp
    and the tokenizer are compared on varied texts and on every added token: by `check_same_tokens`, or
    by `prove`, which gets the file and the result of the child process, its `probes` among it. That child
    is the script `converter`, which may have more to say of the checkpoint than `converter.py` has.

    Raises ValueError, FileNotFoundError, NoSpaceLeft, or ConversionFailed.
    """
    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}: choose from {', '.join(DTYPES)}")
    existing(model_dir / "config.json", "the checkpoint's configuration")
    with TemporaryDirectory(prefix="retune-convert-") as scratch, appearing_whole(out) as partial:
        job = ConversionJob(
            llamacpp=locate().root,
            checkpoint=model_dir.absolute(),
            scratch=Path(scratch),
            out=partial.absolute(),
            dtype=dtype,
            add_bos=add_bos,
            name=name,
        )
        result = _converted(job, converter, out.parent)
        if prove:
            prove(partial, result)
        else:
            check_same_tokens(partial, result["probes"])


def _converted(job: ConversionJob, converter: Path, folder: Path) -> Event:
    """Have the GGUF written, below `folder`; return what the converter says of it."""
    log = job.scratch / "converter.log"
    try:
        return run_child(converter, job, log, environment=environment(), forked=True)
    except ChildRefused as refused:
        raise ConversionFailed(str(refused)) from None
    except ChildFailed as failure:
        printed = Finished("", log.read_text(encoding="utf-8", errors="replace"))
        require_space_left(printed, folder)
        status = -failure.signal if failure.signal else 1
        raise failed(CONVERTER.name, status, printed, ConversionFailed) from None


def check_same_tokens(gguf: Path, probes: Sequence[TokenProbe]) -> None:
    """Raise ConversionFailed unless llama.cpp, with the vocabulary in `gguf`, reads `probes` as they
    say (see `require_same_tokens`)."""
    # The converter ends with status 0 on tokenizers that it misunderstands: ids are the only proof.
    texts = [probe["text"] for probe in probes]
    require_same_tokens(probes, tokenize(gguf, texts, add_special=False))


def require_same_tokens(probes: Sequence[TokenProbe], theirs: Sequence[list[int]]) -> None:
    """Raise ConversionFailed unless the ids that llama.cpp gives each probe's `text` are its `ids`.

    Control tokens must be read exactly. Of the other texts, which are odd on purpose, most must be:
    how many rows of a dataset are read otherwise is measured on the rows (`retune.llamacpp.parity`).
    """
    differing = [
        (probe, ids) for probe, ids in zip(probes, theirs, strict=True) if ids != probe["ids"]
    ]
    plain = sum(not probe["control"] for probe in probes)
    wrong = [found for found in differing if found[0]["control"]]
    if not wrong and len(differing) > plain / 2:
        wrong = differing
    for probe, ids in wrong:
        raise ConversionFailed(
            f"llama.cpp would read {probe['text']!r} as the tokens {ids}, but the checkpoint's"
            f" tokenizer as {probe['ids']}: this kind of tokenizer can't be converted"
        )


def embeddings(checkpoint: Path) -> int | None:
    """Return for how many tokens a checkpoint has embeddings, None if its configuration does not say."""
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    count: int | None = config.get("text_config", config).get("vocab_size")
    return count
