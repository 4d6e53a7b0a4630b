"""What differs between two runs in recipe, versions and machine."""

from collections.abc import Mapping

from flows.compared.evidence import RunEvidence
from flows.compared.records import Differing
from retune.notes import changes


def recipe(older: RunEvidence, newer: RunEvidence) -> list[Differing]:
    """Return the settings and the versions of inputs that differ, the telling ones first.

    If one of the recipes cannot be read, or was not kept, the given settings of both are compared.
    """
    before, after = older.settings, newer.settings
    if not (older.recipe and newer.recipe):
        names = set(before) & set(after)
        before, after = ({name: of[name] for name in of if name in names} for of in (before, after))
    return [
        Differing(name=change.setting, older=change.before, newer=change.after)
        for change in changes(before, after)
    ]


def environment(older: RunEvidence, newer: RunEvidence) -> list[Differing]:
    """Return the packages and facts of the machine that differ, in the order of their names."""
    return _differing(older.environment, newer.environment)


def _differing(before: Mapping[str, str], after: Mapping[str, str]) -> list[Differing]:
    return [
        Differing(name=name, older=before.get(name), newer=after.get(name))
        for name in sorted({**before, **after})
        if before.get(name) != after.get(name)
    ]
