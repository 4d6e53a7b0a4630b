"""The exact versions of a recipe's inputs, and a recipe in which they are written down."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retune.data_files import DataFiles, copied, selected
from retune.downloads import downloaded, known
from retune.errors import RetuneError
from retune.judging.pins import pin_judge, pin_labels
from retune.recipe import Classifier, Dataset, Part, Recipe
from retune.recipe.address import is_address
from retune.recipe.mapping import ColumnMapping
from retune.records import Pins
from retune.registry import champion
from retune.sources import (
    COMMIT,
    SourceError,
    changed,
    local_path,
    pin,
    pin_file,
    unchanged,
    version_of,
)
from retune.suites.cases import pin_cases
from retune.suites.files import pin_suites
from retune.suites.harness import pin_tasks, pinned_tasks
from retune.tracking import last_accepted

# Of a dataset at an address that is not copied to be looked at: a run alone pins it.
UNPINNED = "sha256:unpinned"
# What a part of a mix has for itself.
_SETTING = re.compile(rf"\bdataset\.({'|'.join(('source', *ColumnMapping.model_fields))})\b")


def pin_all(recipe: Recipe, copies: bool = True) -> Pins:
    """Return the exact versions of a recipe's inputs; `copies` as in `pin_dataset`. Raises as that and
    `pin` do."""
    model, dataset, merging = recipe.model, recipe.dataset, recipe.merging
    benchmarks = recipe.validation.decontamination.files
    suites = pin_suites(recipe)  # a file that is no suite is told before anything is downloaded
    tasks = pin_tasks(recipe)
    version, mix = pin_dataset(dataset, copies)
    return Pins(
        dataset=version,
        mix=mix,
        model=pin(model.base, model.revision, "model", "model.base"),
        base_16bit=merging.base_16bit
        and pin(merging.base_16bit, merging.base_16bit_revision, "model", "merging.base_16bit"),
        benchmarks=tuple(pin_file(name, "validation.decontamination.files") for name in benchmarks),
        suites=suites,
        cases=pin_cases(recipe, suites),
        tasks=tasks,
        classifier=_pin_classifier(recipe.validation.classifier),
        reference=pin_reference(recipe),
        accepted=last_accepted(recipe, version),
        champion=champion(recipe.name),
        judge=pin_judge(recipe),
        judge_labels=pin_labels(recipe),
    )


def pin_reference(recipe: Recipe) -> str | None:
    """Return the version of the profile that the recipe names, None if it names none. Raises SourceError
    if it is not there."""
    name, setting = recipe.validation.reference, "validation.reference"
    return pin_file(name, setting) if name else None


def resolved(recipe: Recipe, pins: Pins) -> Recipe:
    """Return the recipe with every revision as the Hub commit that it stood for, or as the digest of what
    was at an address.

    Run again, on any day, it asks for the same inputs, or says that one is not there any more.
    """

    def commit(pin: str | None, revision: str | None) -> str | None:
        return (pins.commit(pin) if pin else None) or revision

    model, dataset, merging = recipe.model, recipe.dataset, recipe.merging
    classifier = recipe.validation.classifier
    fixed = {
        "model": {"revision": commit(pins.model, model.revision)},
        "dataset": _resolved(dataset, pins),
        "merging": {"base_16bit_revision": commit(pins.base_16bit, merging.base_16bit_revision)},
        "evaluation": {
            "suites": tuple(
                suite.model_copy(update={"revision": version})
                for suite, version in zip(recipe.evaluation.probe_files, pins.suites, strict=True)
            ),
            "incidents": None,  # by now one of the suites
            "tasks": pinned_tasks(recipe, pins.tasks),
        },
        "validation": {
            "classifier": classifier.model_copy(
                update={"revision": commit(pins.classifier, classifier.revision)}
            )
        },
    }
    return recipe.model_copy(
        update={
            name: getattr(recipe, name).model_copy(update=settings)
            for name, settings in fixed.items()
        }
    )


def _resolved(dataset: Dataset, pins: Pins) -> dict[str, object]:
    """Return the settings of a dataset that its pins replace."""

    def revision(origin: Dataset | Part, pinned: str) -> str | None:
        if is_address(origin.source):
            return pinned
        return pins.commit(pinned) or origin.revision

    if not dataset.mix:
        return {"revision": revision(dataset, pins.dataset)}
    parts = zip(dataset.mix, pins.mix, strict=True)
    return {
        "mix": tuple(
            part.model_copy(update={"revision": revision(part, pinned)}) for part, pinned in parts
        )
    }


def pin_dataset(dataset: Dataset, copies: bool = True) -> tuple[str, tuple[str, ...]]:
    """Return the version of a dataset and, of a mix, those of its parts.

    What is at an address is copied for it, once for all parts; unless `copies`, it is UNPINNED where it
    is not here already. Raises SourceError also when files are not what `dataset.revision` says
    (`sha256:…`), else as `pin` does.
    """
    if not dataset.mix:
        return _pin_part(dataset, copies), ()
    pins: dict[str, str] = {}  # the first of each source
    parts = []
    for number, part in enumerate(dataset.parts):
        with of_part(number, dataset):
            parts.append(_pin_part(part, copies, pins.get(part.source)))
            pins.setdefault(part.source, parts[-1])
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return UNPINNED if UNPINNED in parts else f"sha256:{digest}", tuple(parts)


def _pin_part(dataset: Dataset, copies: bool, sibling: str | None = None) -> str:
    if copies or not is_address(dataset.source):
        selection = local_selection(dataset, sibling=sibling)
    elif folder := known(dataset):
        selection = copied(folder, dataset)
    else:
        return UNPINNED
    if selection is None:
        return pin(dataset.source, dataset.revision, "dataset", "dataset.source")
    version = version_of(selection.root, selection.names)
    if dataset.revision and dataset.revision.startswith("sha256:") and dataset.revision != version:
        raise SourceError(
            f"dataset.revision: {dataset.source} is not {dataset.revision[:19]}… any more, but "
            f"{version[:19]}…; leave the revision empty to take it as it is"
        )
    return version


def local_selection(
    dataset: Dataset, pinned: str | None = None, sibling: str | None = None
) -> DataFiles | None:
    """Return the files on this disk that a dataset is, None for one on the Hub.

    Of an address, of the copy that was `pinned` or, other files of it, as `sibling`; or else of what is
    there now. Raises as `pin_dataset`.
    """
    if not is_address(dataset.source):
        return selected(dataset)

    def version(folder: Path) -> str:
        selection = copied(folder, dataset)
        return version_of(folder, selection.names)

    return copied(downloaded(dataset, version, pinned, sibling), dataset)


@contextmanager
def unchanged_files(dataset: Dataset, selection: DataFiles | None, pinned: str) -> Iterator[None]:
    """Hold the files that are read within the block to what was pinned; see `retune.sources.unchanged`.

    A file that has joined a folder counts as well. None, a dataset on the Hub, stays what it is.
    """
    if selection is None:
        yield
    elif len(selection.names) == 1:
        with unchanged(selection.paths[0], pinned, "dataset.source"):
            yield
    else:
        error = changed(dataset.source, "dataset.source")
        if version_of(selection.root, selection.names) != pinned:
            raise error
        try:
            yield
        finally:
            again = _still_there(dataset, selection)
            if again != selection or version_of(selection.root, selection.names) != pinned:
                raise error


def _still_there(dataset: Dataset, selection: DataFiles) -> DataFiles | None:
    try:
        return copied(selection.root, dataset) if is_address(dataset.source) else selected(dataset)
    except (SourceError, OSError):
        return None


@contextmanager
def of_part(number: int, dataset: Dataset) -> Iterator[None]:
    """Name the part of a mix in what is said of its settings within the block."""
    try:
        yield
    except RetuneError as error:
        if not dataset.mix or not error.args or not isinstance(error.args[0], str):
            raise
        message = _SETTING.sub(rf"dataset.mix.{number}.\1", error.args[0])
        raise type(error)(message, *error.args[1:]) from error


def _pin_classifier(config: Classifier) -> str | None:
    """Return the version of the classifier, None if it is not used.

    With `score: absent` the rows decide whether it is used. The Hub is not asked then: a run on rows
    that have their scores needs no network, and must have the same pins with one and without.
    """
    setting = "validation.classifier.model"
    is_used = config.score in ("all", "missing") or config.sample
    if config.score == "never" and not config.sample:
        return None
    if is_used or local_path(config.model, setting):
        return pin(config.model, config.revision, "model", setting)
    return config.revision if COMMIT.fullmatch(config.revision or "") else None
