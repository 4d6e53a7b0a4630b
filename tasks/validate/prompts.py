"""The evaluation prompts that a recipe's rows must not contain, read from benchmark files."""

import json
import tempfile
from pathlib import Path

from retune.config import Recipe
from retune.confined import limits, run_confined
from retune.sources import SourceError, pin_file, unchanged
from tasks.validate.prompts_child import SETTING, PromptsJob, texts

CHILD = Path(__file__).with_name("prompts_child.py")


def evaluation_prompts(recipe: Recipe, pinned: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """Return the recipe's own evaluation prompts and every text in its benchmark files.

    The files are read in confined children. `pinned` are their versions, by default today's. Raises
    SourceError as `benchmark_texts`, and for a file that costs too much or is not what was pinned.
    """
    files = recipe.validation.decontamination.files
    pinned = tuple(pin_file(name, SETTING) for name in files) if pinned is None else pinned
    prompts = [*recipe.evaluation.prompts]
    with tempfile.TemporaryDirectory() as folder:
        out, log = Path(folder) / "texts.json", Path(folder) / "prompts.log"
        for name, version in zip(files, pinned, strict=True):
            file = Path(name).expanduser().absolute()
            job = PromptsJob(file=file, texts=out, **limits(recipe.dataset))
            with unchanged(file, version, SETTING):
                run_confined(CHILD, job, log, f"{SETTING}: {name}")
            prompts += _some(json.loads(out.read_text(encoding="utf-8")), name)
    return tuple(prompts)


def benchmark_texts(files: tuple[str, ...]) -> list[str]:
    """Return every text in the files: the lines of a .txt, all text columns of any other format.

    Raises SourceError when a file is missing, of another format or without texts.
    """
    return [text for name in files for text in _some(texts(Path(name).expanduser()), name)]


def _some(found: list[str], name: str) -> list[str]:
    if not found:
        raise SourceError(f"{SETTING}: {name} has no texts; name a file with evaluation prompts")
    return found
