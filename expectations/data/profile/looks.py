"""What a profile says to the judge: its record and its alarms, as screen writes them."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from expectations.data.profile.alarms import LEAST_ROWS, Alarm
from expectations.data.profile.drift import drift
from expectations.data.profile.record import Profile
from expectations.data.profile.signs import Trait, grown
from expectations.data.profile.speech import speech
from expectations.data.profile.survey import survey
from retune.recipe.flaws import DATASET_EXPECTATIONS
from retune.sources import SourceError, unchanged

if TYPE_CHECKING:
    import polars as pl

    from retune.recipe import Validation

PROFILE = "profile.json"  # the record, the next run's reference: no text, goes to MLflow
ALARMS = "profile_alarms.json"  # sentences with masked excerpts
NUMBERS = "profile.parquet"  # the numbers of each row
SIGNS = "profile_signs.json"  # what groups of answers do, with masked excerpts
WORDS = "profile_words.parquet"  # what texts are made of, masked, by a share and an example
_EXPECTATIONS = [
    name for name, declared in DATASET_EXPECTATIONS.items() if declared.needs == "profile.enabled"
]
_LARGEST = 4 << 20  # bytes of a record; they take some 200 kB
_SENTENCES = 5  # of one expectation that are said
_ALARMS = TypeAdapter(list[Alarm])
_SIGNS = TypeAdapter(tuple[Trait, ...])


class Looks(NamedTuple):
    """The record of a dataset's profile, and what was seen in it; `reference` is the record of the
    last accepted run."""

    profile: Profile
    alarms: list[Alarm]
    reference: Profile | None = None
    words: "Mapping[str, pl.DataFrame]" = MappingProxyType({})
    signs: tuple[Trait, ...] = ()

    def against(self, reference: Profile | None) -> "Looks":
        """Return the same with what moved since `reference`."""
        if reference is None:
            return self
        moved = [
            *drift(reference, self.profile),
            *grown(reference, self.profile, self.signs, self.alarms),
            *speech(reference, self.profile, self.words),
        ]
        return self._replace(alarms=[*self.alarms, *moved], reference=reference)

    def measures(self) -> dict[str, float]:
        """Return the largest value of each expectation's alarms; what cannot be judged is missing."""
        if self.profile.rows < LEAST_ROWS:
            return {}
        numbers = {
            DATASET_EXPECTATIONS[name].measure: max(
                (alarm.value for alarm in self.alarms if alarm.expectation == name), default=0.0
            )
            for name in _EXPECTATIONS
        }
        if self.reference is None or self.reference.rows < LEAST_ROWS:
            del numbers["profile_drift"]
        return numbers

    def seen(self, name: str, limit: float) -> str:
        """Return the sentences that speak against expectation `name`, "none" if there is none above
        its limit."""
        ranked = sorted(self.alarms, key=lambda alarm: -alarm.value)
        above = [a.sentence for a in ranked if a.expectation == name and a.value > limit]
        if not above:
            return "none"
        more = [f"and {len(above) - _SENTENCES} more"] if len(above) > _SENTENCES else []
        return "; ".join(above[:_SENTENCES] + more)


def write_looks(rows: Path, table: "pl.LazyFrame", config: "Validation", folder: Path) -> None:
    """Look at the rows that `table` does not send to quarantine, and write PROFILE, ALARMS and
    NUMBERS into `folder`; where the recipe wants no profile, the first is null."""
    if not config.profile.enabled:
        (folder / PROFILE).write_text("null")
        return
    found = survey(rows, table, folder / NUMBERS)
    (folder / PROFILE).write_text(found.profile.model_dump_json())
    (folder / ALARMS).write_bytes(_ALARMS.dump_json(found.alarms))
    (folder / SIGNS).write_bytes(_SIGNS.dump_json(tuple(found.signs)))
    _write_words(found.words, folder / WORDS)


def _write_words(words: "Mapping[str, pl.DataFrame]", file: Path) -> None:
    import polars as pl

    named = [frame.with_columns(part=pl.lit(part)) for part, frame in words.items()]
    pl.concat(named).write_parquet(file)


def _words(file: Path) -> "Mapping[str, pl.DataFrame]":
    """Return what `_write_words` wrote; nothing where an older version did not."""
    import polars as pl

    if not file.is_file():
        return {}
    parts = pl.read_parquet(file, glob=False).partition_by("part", as_dict=True)
    return {str(part): frame for (part,), frame in parts.items()}


def hand_on(source: Path, folder: Path) -> None:
    """Copy what the judge asks for from the output of screen into that of validate."""
    for name in (PROFILE, ALARMS, SIGNS, WORDS):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def looks(folder: Path) -> Looks | None:
    """Return what `write_looks` left in `folder`, None where the recipe wants no profile."""
    profile = stored(json.loads((folder / PROFILE).read_text()))
    if profile is None:
        return None
    alarms = _ALARMS.validate_json((folder / ALARMS).read_bytes())
    signs = folder / SIGNS  # which older versions did not write
    found = _SIGNS.validate_json(signs.read_bytes()) if signs.is_file() else ()
    return Looks(profile, alarms, words=_words(folder / WORDS), signs=found)


def named_profile(name: str, pinned: str) -> Profile:
    """Return the profile in a file that a recipe names, at its pinned version. Raises SourceError."""
    setting = "validation.reference"
    with unchanged(name, pinned, setting), Path(name).expanduser().open("rb") as file:
        content = file.read(_LARGEST)
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        record = None
    if profile := stored(record):
        return profile
    raise SourceError(
        f"{setting}: {name} is no profile of this version; write it again with "
        f"`retune scaffold-suite DATASET --profile {name}`"
    )


def stored(record: Any) -> Profile | None:
    """Return the profile of a record as JSON gives it, None of null and of another version's."""
    try:
        return Profile.model_validate(record) if record else None
    except ValidationError:
        return None
