"""The evaluation prompts that a recipe's rows must not contain, read from benchmark files."""

from pathlib import Path
from typing import TYPE_CHECKING

from retune.config import Recipe
from retune.sources import SourceError

if TYPE_CHECKING:
    import polars as pl

SETTING = "validation.decontamination.files"


def evaluation_prompts(recipe: Recipe) -> tuple[str, ...]:
    """Return the recipe's own evaluation prompts and every text in its benchmark files."""
    files = recipe.validation.decontamination.files
    return (*recipe.evaluation.prompts, *benchmark_texts(files))


def benchmark_texts(files: tuple[str, ...]) -> list[str]:
    """Return every text in the files: the lines of a .txt, all text columns of any other format.

    Raises SourceError when a file is missing, of another format or without texts.
    """
    texts: list[str] = []
    for name in files:
        found = _texts(Path(name).expanduser())
        if not found:
            raise SourceError(
                f"{SETTING}: {name} has no texts; name a file with evaluation prompts"
            )
        texts += found
    return texts


def _texts(path: Path) -> list[str]:
    import polars as pl

    readers = {
        ".jsonl": pl.read_ndjson,
        ".json": pl.read_json,
        ".parquet": pl.read_parquet,
        ".csv": pl.read_csv,
        ".arrow": pl.read_ipc_stream,
    }
    kind = path.suffix.lower()
    if kind not in (*readers, ".txt"):
        raise SourceError(
            f"{SETTING}: cannot read {path.name!r}; use one of {', '.join([*readers, '.txt'])}"
        )
    try:
        if kind == ".txt":
            lines = path.read_text(encoding="utf-8").splitlines()
            return [line for line in lines if line.strip()]
        return _strings(readers[kind](path))
    except FileNotFoundError:
        raise SourceError(
            f"{SETTING}: nothing is at {str(path)!r} (looked in {Path.cwd()}); correct the path"
        ) from None
    except (pl.exceptions.PolarsError, UnicodeDecodeError, OSError) as error:
        raise SourceError(f"{SETTING}: cannot read {path}: {error}") from None


def _strings(frame: "pl.DataFrame") -> list[str]:
    """Return the texts of all columns, those inside lists (choices, turns) and records included."""
    import polars as pl

    texts: list[str] = []
    for column in frame:
        if isinstance(column.dtype, pl.List):
            texts += _strings(column.explode().to_frame())
        elif isinstance(column.dtype, pl.Struct):
            texts += _strings(column.struct.unnest())
        elif column.dtype == pl.String:
            texts += column.drop_nulls().to_list()
    return texts
