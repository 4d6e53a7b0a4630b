"""Convert a Hugging Face checkpoint to a GGUF, and prove that llama.cpp reads text as it did."""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from retune.llamacpp.installation import locate
from retune.llamacpp.process import LlamaCppFailed, appearing_whole, existing, run
from retune.llamacpp.tokens import tokenize

DTYPES = ("f32", "bf16", "f16", "q8_0")
CONVERTER = Path(__file__).with_name("converter.py")


class ConversionFailed(LlamaCppFailed):
    """The checkpoint can't be a GGUF that behaves like it; the message says why."""


def convert(
    model_dir: Path,
    out: Path,
    dtype: str = "bf16",
    add_bos: bool | None = None,
    name: str | None = None,
) -> None:
    """Convert the checkpoint in `model_dir` (as transformers saves it) to the GGUF `out`.

    `dtype` is one of DTYPES. `add_bos` says whether programs that use the GGUF put BOS before a
    prompt; None means: if the checkpoint's tokenizer does. `name` is what programs show as the
    model's name (else the folder's). The folder is not changed. Before `out` appears, llama.cpp
    and the tokenizer are compared on varied texts and on every added token (`check_same_tokens`).

    Raises ValueError, FileNotFoundError, NoSpaceLeft, or ConversionFailed.
    """
    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}: choose from {', '.join(DTYPES)}")
    existing(model_dir / "config.json", "the checkpoint's configuration")
    llamacpp = locate()
    with TemporaryDirectory(prefix="retune-convert-") as scratch, appearing_whole(out) as partial:
        # -P: else this folder would come first on the import path, where the converter's
        # own package `conversion` has to be found.
        command: list[str | Path] = [sys.executable, "-P", CONVERTER]
        command += [llamacpp.root, model_dir.absolute(), scratch]
        command.append({None: "auto", True: "yes", False: "no"}[add_bos])
        command += ["--outfile", partial, "--outtype", dtype]
        if name:
            command += ["--model-name", name]
        run(command, writes_to=out.parent, failure=ConversionFailed)
        probes = json.loads(Path(scratch, "probes.json").read_text())
        check_same_tokens(partial, probes)


def check_same_tokens(gguf: Path, probes: list[dict[str, Any]]) -> None:
    """Raise ConversionFailed unless `gguf` gives each probe's `text` the probe's token `ids`.

    Control tokens must be read exactly. Of the other texts, which are odd on purpose, most must be:
    how many rows of a dataset are read otherwise is measured on the rows (`retune.llamacpp.parity`).
    """
    # The converter ends with status 0 on tokenizers that it misunderstands: ids are the only proof.
    theirs = tokenize(gguf, [probe["text"] for probe in probes], add_special=False)
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
