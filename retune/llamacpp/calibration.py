"""Importance matrices: which weights of a GGUF matter on a text, for quantizing it with less harm."""

import re
from pathlib import Path

from retune.disk_space import no_space_left
from retune.llamacpp.acceleration import with_program
from retune.llamacpp.measurement import check_text_length
from retune.llamacpp.process import LlamaCppFailed, appearing_whole, existing, last_lines, run

CHUNKS = re.compile(r"computing over (\d+) chunks")


def calibrate(gguf: Path, text: Path, out: Path, context: int, threads: int) -> int:
    """Write the importance matrix of `gguf` on the UTF-8 file `text` to `out`; return its chunks.

    The text is read as the model was trained, with special tokens, in chunks of `context` tokens.
    Raises TextTooShort, FileNotFoundError, NoSpaceLeft, or LlamaCppFailed.
    """
    existing(gguf, "the GGUF to calibrate")
    existing(text, "the text to calibrate on")
    options = ["-c", str(context), "-t", str(threads), "--no-ppl", "--no-escape", "--parse-special"]
    # The text's name is written into the matrix, and from there into every file made with it.
    files: list[str | Path] = ["-m", gguf.absolute(), "-f", text.name]
    with appearing_whole(out) as partial:
        files += ["-o", partial.absolute()]
        try:
            finished = with_program(
                "llama-imatrix",
                gguf,
                lambda program: run(
                    [*program, *files, *options], writes_to=out.parent, cwd=text.parent
                ),
            )
        except LlamaCppFailed as error:
            check_text_length(str(error), text, context)
            raise
        expected = CHUNKS.search(finished.stderr)
        if not expected:
            raise LlamaCppFailed(f"llama-imatrix gave no result for {gguf}: {last_lines(finished)}")
        # It does not check its writes. Of the last chunks it may count one less: three read together
        # end in fewer tokens than it looks at.
        if chunks_in(partial) < max(1, int(expected[1]) - 1):
            raise no_space_left(out, OSError())
    return int(expected[1])


def chunks_in(imatrix: Path) -> int:
    """Return the number of chunks that `imatrix` was made of, 0 if the file is not whole."""
    from gguf import GGUFReader

    try:
        return int(GGUFReader(imatrix).fields["imatrix.chunk_count"].contents())
    except (ValueError, IndexError, KeyError):
        return 0
