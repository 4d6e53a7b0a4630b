"""The evaluation prompts that a recipe's rows must not contain, read from benchmark files."""

import json
from pathlib import Path

from retune.confined import limits, run_confined
from retune.recipe import Recipe
from retune.sources import pin_file, unchanged
from retune.temporary import temporary_folder
from tasks.validate.prompts_child import SETTING, PromptsJob

CHILD = Path(__file__).with_name("prompts_child.py")


def evaluation_prompts(recipe: Recipe, pinned: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """Return the recipe's own evaluation prompts and every text in its benchmark files.

    The files are read in confined children. `pinned` are their versions, by default today's. Raises
    SourceError for a file that is missing, of another format, without texts, not what was pinned, or
    costs too much.
    """
    files = recipe.validation.decontamination.files
    pinned = tuple(pin_file(name, SETTING) for name in files) if pinned is None else pinned
    prompts = [*recipe.evaluation.prompts]
    with temporary_folder() as folder:
        out, log = folder / "texts.json", folder / "prompts.log"
        for name, version in zip(files, pinned, strict=True):
            file = Path(name).expanduser().absolute()
            job = PromptsJob(file=file, texts=out, **limits(recipe.dataset))
            with unchanged(file, version, SETTING):
                run_confined(CHILD, job, log, f"{SETTING}: {name}")
            prompts += json.loads(out.read_text(encoding="utf-8"))
    return tuple(prompts)
