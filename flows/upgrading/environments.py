"""Environments beside the one that runs: the same files, but for the packages that are to be others.

What does not change is linked, not copied or downloaded: an environment takes seconds, and the disk what
is new in it. pip writes no file in place, so that the links never change what they lead to.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from flows.upgrading.locks import Pin, Replacement, installed, normal
from retune.errors import RetuneError
from retune.home import cache_dir, is_marked, mark, remove

LAST_LINES = 5  # of what pip says
KEPT = 14  # days that an environment stays after it was last asked for
DAY = 86_400  # seconds


class EnvironmentFailed(RetuneError):
    """An environment could not be made; the message says what pip said."""


def site_packages() -> Path:
    """Return where the packages of the environment that runs lie."""
    return Path(sysconfig.get_paths()["purelib"]).resolve()


def folder() -> Path:
    """Return where environments are kept, in the user's cache."""
    return cache_dir() / "upgrades"


def environment(wanted: Sequence[Replacement], pins: Mapping[str, Pin]) -> Path:
    """Return the Python of an environment in which the packages of `wanted` are as they say.

    It is made at the first call and kept, by the hash of all that is in it, see `remove_old`. Raises
    EnvironmentFailed.
    """
    if not wanted:
        return Path(sys.executable)
    target = folder() / _key(wanted, pins)
    python = target / "bin" / "python"
    if not python.exists():
        partial = mark(target.with_name(f"{target.name}.partial"))
        try:
            _make(partial, wanted, pins)
            partial.rename(target)
        finally:
            remove(partial)
    os.utime(target)
    return python


def remove_old() -> list[Path]:
    """Remove, and return, the environments that nobody has asked for in `KEPT` days, and what a check
    left that was killed."""
    if not folder().is_dir():
        return []
    oldest = time.time() - KEPT * DAY
    old = [one for one in folder().iterdir() if is_marked(one) and one.stat().st_mtime < oldest]
    for one in old:
        remove(one)
    return old


def _key(wanted: Sequence[Replacement], pins: Mapping[str, Pin]) -> str:
    before = sorted(installed([site_packages()]).items())
    new = sorted((one.name, pins[one.name].entry if one.new else "") for one in wanted)
    return hashlib.sha256(repr((sys.version, before, new)).encode()).hexdigest()[:16]


def _make(target: Path, wanted: Sequence[Replacement], pins: Mapping[str, Pin]) -> None:
    _run([sys.executable, "-m", "venv", "--without-pip", str(target)])
    python = target / "bin" / "python"
    packages = next(target.glob("lib/python*/site-packages")).resolve()
    shutil.copytree(
        site_packages(), packages, copy_function=_link, symlinks=True, dirs_exist_ok=True
    )
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    leaving = [one.name for one in wanted if one.old]
    if leaving:
        _run([*pip, "uninstall", "--quiet", "--yes", *leaving])
    arriving = [pins[one.name] for one in wanted if one.new]
    for hashed in (False, True):
        entries = [pin.entry for pin in arriving if pin.is_hashed is hashed]
        if entries:
            _install([*pip, "install", "--quiet", "--no-deps"], entries, hashed)
    _require(packages, wanted)


def _install(pip: list[str], entries: list[str], hashed: bool) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as lock:
        lock.writelines(entry if entry.endswith("\n") else f"{entry}\n" for entry in entries)
        lock.flush()
        only = ["--require-hashes", "--only-binary", ":all:"] if hashed else []
        _run([*pip, *only, "--requirement", lock.name])


def _require(packages: Path, wanted: Sequence[Replacement]) -> None:
    """Raise EnvironmentFailed unless the packages are what was wanted."""
    here = installed([packages])
    wrong = [
        one for one in wanted if (here.get(one.name) or "").partition("+")[0] != (one.new or "")
    ]
    if wrong:
        raise EnvironmentFailed(f"pip left these as they were: {', '.join(map(str, wrong))}")


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # another disk
        shutil.copy2(source, target, follow_symlinks=False)


def _run(command: list[str]) -> None:
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-LAST_LINES:])
        raise EnvironmentFailed(
            f"`{' '.join(command[:6])} …` failed; correct the lock, or try again if a registry did not "
            f"answer:\n{last}"
        )


def together(wanted: Sequence[Replacement], new: Path) -> list[list[Replacement]]:
    """Return the changes in groups that cannot do without each other.

    `new` are the packages of the environment with all of them. A package that asks for another's new
    version, or whose old version does, is in one group with it.
    """
    from packaging.requirements import Requirement

    by_name = {one.name: one for one in wanted}
    group = {name: {name} for name in by_name}

    def join(first: str, second: str) -> None:
        union = group[first] | group[second]
        for name in union:
            group[name] = union

    for packages, is_new in ((new, True), (site_packages(), False)):
        for one in metadata.distributions(path=[str(packages)]):
            name = normal(one.metadata["Name"] or "")
            for text in one.requires or ():
                need = Requirement(text)
                other = by_name.get(normal(need.name))
                if (
                    name not in by_name
                    or not other
                    or (need.marker and not need.marker.evaluate({"extra": ""}))
                ):
                    continue
                # The version that stands beside it when one of the two alone has changed.
                beside = other.old if is_new else other.new
                if beside is None or not need.specifier.contains(beside, prereleases=True):
                    join(name, other.name)
    groups = {min(names): sorted(names) for names in group.values()}
    return [[by_name[name] for name in names] for _, names in sorted(groups.items())]
