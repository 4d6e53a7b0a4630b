"""What a judge is pinned to: its GGUF, and the labels that it is judged by."""

from pathlib import Path

from retune.judging.labels import read_labels
from retune.recipe import Recipe
from retune.sources import pin_file


def pin_judge(recipe: Recipe) -> str | None:
    """Return the version of the judge's GGUF, None if it is at an endpoint or there is none. Raises
    SourceError if it is not there."""
    gguf = recipe.evaluation.judge.gguf
    return pin_file(gguf, "evaluation.judge.gguf") if gguf else None


def pin_labels(recipe: Recipe) -> str | None:
    """Return the version of the file with people's verdicts, which is read here once, None if there is
    none. Raises SourceError for one that is not there, or holds anything but labels."""
    config, setting = recipe.evaluation.judge, "evaluation.judge.labels"
    if not (config.enabled and config.labels):
        return None
    version = pin_file(config.labels, setting)
    read_labels(Path(config.labels).expanduser(), setting, config.criteria)
    return version
