"""The probe files of a recipe: where they are, what they are pinned to, and what is in them."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from retune.data_files import copied
from retune.downloads import downloaded
from retune.errors import RetuneError
from retune.outcomes import BATTERY
from retune.recipe import Dataset, ProbeFile, Recipe
from retune.recipe.address import is_address
from retune.records import Pins
from retune.sources import SourceError, pin_file, unchanged, version_of
from retune.suites.battery import battery
from retune.suites.probes import MOST_BYTES, SuiteProbe, read_probes


def pin_suites(recipe: Recipe) -> tuple[str, ...]:
    """Return the version of each suite's file, which is read here once.

    What is at an address is copied. Raises SourceError for a file that is not there, not what its
    revision says, or holds anything but probes; HubUnreachable when an address does not answer.
    """
    pins = []
    for number, suite in enumerate(recipe.evaluation.probe_files):
        setting = _setting(recipe, number)
        with _named(setting):
            path = _file(suite)
            version = pin_file(str(path), setting)
        if suite.revision and suite.revision != version:
            raise SourceError(
                f"{setting}: {suite.path} is not {suite.revision[:19]}… any more, but {version[:19]}…; "
                f"leave the revision empty to take it as it is"
            )
        _require_judge(read_probes(path, setting), setting, recipe)
        pins.append(version)
    return tuple(pins)


def suites(recipe: Recipe, pins: Pins) -> dict[str, tuple[SuiteProbe, ...]]:
    """Return the probes of each suite by its name: the recipe's own, then the battery if it is asked.

    Raises SourceError for a file that is not what was pinned.
    """
    probes = own_suites(recipe, pins.suites)
    if recipe.evaluation.battery:
        probes[BATTERY] = battery(recipe.evaluation.battery_rows)
    return probes


def own_suites(recipe: Recipe, pins: tuple[str, ...]) -> dict[str, tuple[SuiteProbe, ...]]:
    """Return the probes of each of the recipe's own suites, the incidents last; `pins` are the versions
    of their files. Raises as `suites` does."""
    probes = {}
    for number, (suite, version) in enumerate(
        zip(recipe.evaluation.probe_files, pins, strict=True)
    ):
        setting = _setting(recipe, number)
        with _named(setting):
            path = _file(suite, version)
        with unchanged(path, version, setting):
            probes[suite.name] = read_probes(path, setting)
    return probes


def _require_judge(probes: Sequence[SuiteProbe], setting: str, recipe: Recipe) -> None:
    judged = sum(probe.is_judged for probe in probes)
    if judged and not recipe.evaluation.judge.enabled:
        raise SourceError(
            f"{setting}: {judged:,} probes are graded by a judge, and there is none; set "
            f"evaluation.judge.url and model, or evaluation.judge.gguf"
        )


def _setting(recipe: Recipe, number: int) -> str:
    is_suite = number < len(recipe.evaluation.suites)
    return f"evaluation.suites.{number}.path" if is_suite else "evaluation.incidents"


def _file(suite: ProbeFile, pinned: str | None = None) -> Path:
    """Return the file of a suite on this disk: for one at an address, the copy."""
    if not is_address(suite.path):
        return Path(suite.path).expanduser().absolute()
    dataset = Dataset(source=suite.path, max_unpacked_bytes=MOST_BYTES)

    def version(folder: Path) -> str:
        return version_of(folder, copied(folder, dataset).names)

    found = copied(downloaded(dataset, version, pinned), dataset)
    if len(found.names) != 1:
        raise SourceError(f"dataset.source: {suite.path} is {len(found.names)} files; name one")
    return found.paths[0]


@contextmanager
def _named(setting: str) -> Iterator[None]:
    """Name the setting in what is said of an address within the block."""
    try:
        yield
    except RetuneError as error:
        message = re.sub(r"\bdataset\.source\b", setting, str(error))
        raise type(error)(message) from error
