"""What a dataset is judged by besides its feature table."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

from expectations.data import repairs as record
from expectations.data.masking import mask
from expectations.data.measures import NOTHING, Asked
from expectations.data.profile.looks import Looks, looks
from expectations.data.profile.record import Profile
from expectations.data.repairs import Repairs
from expectations.data.scores import Distribution
from retune.ignored import ALL_USED, LONGEST_NAME, Ignored


class Reference(NamedTuple):
    """What is kept of the last accepted run, to compare with: the distribution of its scores and its
    profile; None where there is none."""

    scores: Distribution | None = None
    profile: Profile | None = None


NO_REFERENCE = Reference()


class Evidence(NamedTuple):
    """What is known of a dataset besides its feature table.

    `asked` is what the classifier said, `reference` what is kept of the last accepted run, `repairs` what
    was repaired and what could be, `ignored` what the source has and no row, and `profile` what was seen
    in the numbers of all rows together, None where nobody looked.
    """

    asked: Asked = NOTHING
    reference: Reference = NO_REFERENCE
    repairs: Repairs = record.NOTHING
    ignored: Ignored = ALL_USED
    profile: Looks | None = None

    @classmethod
    def of(cls, folder: Path, acknowledged: Sequence[frozenset[str]], reference: Reference) -> Self:
        """Return what screen or validate left in `folder`; `acknowledged` names, of each part of the
        dataset, are not missed."""
        seen = looks(folder)
        # Names are masked and cut where they are counted.
        acknowledged = [
            names | {mask(name)[:LONGEST_NAME] for name in names} for names in acknowledged
        ]
        return cls(
            reference=reference,
            repairs=record.read(folder),
            ignored=Ignored.beside(folder / "features.parquet").without(acknowledged),
            profile=seen.against(reference.profile) if seen else None,
        )


NO_EVIDENCE = Evidence()
