"""`retune upgrade`: what a new lock changes is found, named, and lets the lock rise or not."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.upgrading import upgrade as upgrades
from flows.upgrading.bisection import culprits
from flows.upgrading.comparison import compared
from flows.upgrading.environments import (
    DAY,
    KEPT,
    environment,
    remove_old,
    site_packages,
    together,
)
from flows.upgrading.locks import LockError, Pin, Replacement, changes, installed, pins, wanted
from flows.upgrading.probes import Probed
from flows.upgrading.upgrade import RECORD, Trials, Upgrade, hashes
from retune.home import mark
from tests.test_house import ROOT

LOCK = """# A comment.
numpy==2.3.0 \\
    --hash=sha256:aa
Typing_Extensions==4.1 ; python_full_version < '3.15' \\
    --hash=sha256:bb
colorama==0.4 ; sys_platform == 'win32' \\
    --hash=sha256:cc
torch==2.13.0
"""
MADE = Probed(
    tokens="a", mask="b", losses=[6.0, 5.0], measures={"loss/tuned": 5.0},
    merge={"kl_divergence": 1e-7}, answers=["x", "y"], speed={"train": 10.0},
)  # fmt: skip


class TestLocks:
    def test_it_holds_what_this_machine_installs(self, tmp_path):
        (tmp_path / "new.lock").write_text(LOCK)
        found = pins(tmp_path / "new.lock")
        assert {name: pin.version for name, pin in found.items()} == {
            "numpy": "2.3.0", "typing-extensions": "4.1", "torch": "2.13.0",
        }  # fmt: skip
        assert found["numpy"].is_hashed
        assert not found["torch"].is_hashed

    @pytest.mark.parametrize(
        ("text", "said"),
        [("", "no line"), ("numpy>=2\n", "no exact version"), ("what is this\n", "is no lock")],
    )
    def test_what_is_no_lock_is_refused(self, tmp_path, text, said):
        (tmp_path / "new.lock").write_text(text)
        with pytest.raises(LockError, match=said):
            pins(tmp_path / "new.lock")

    def test_this_environment_is_what_its_own_lock_says(self):
        """Nothing is missing, and a machine's own build of torch is torch."""
        found = changes(installed([site_packages()]), wanted(ROOT / "requirements.lock"))
        assert [one for one in found if one.new] == []

    def test_what_is_new_other_or_gone_is_a_change(self):
        new = {"a": Pin("a", "2", ""), "torch": Pin("torch", "2.13.0", ""), "c": Pin("c", "1", "")}
        old = {"a": "1", "torch": "2.13.0+cpu", "b": "1", "pip": "23"}
        assert changes(old, new) == [
            Replacement("a", "1", "2"), Replacement("b", "1", None), Replacement("c", None, "1"),
        ]  # fmt: skip


class TestComparison:
    def test_the_same_is_the_same_whatever_the_time(self):
        slow = MADE.model_copy(update={"speed": {"train": 100.0}})
        assert all(one.same for one in compared(MADE, slow))
        assert "much slower" in compared(MADE, slow)[-1].new

    @pytest.mark.parametrize(
        ("subject", "other"),
        [
            ("tokens", {"tokens": "c"}),
            ("mask", {"mask": "c"}),
            ("losses", {"losses": [6.0, 5.001]}),
            ("losses", {"losses": [6.0]}),
            ("losses", {"losses": [6.0, float("nan")]}),
            ("measures", {"measures": {"loss/tuned": 5.1}}),
            ("measures", {"measures": {}}),
            ("merge", {"merge": {"kl_divergence": 1e-3}}),
            ("answers", {"answers": ["x", "z"]}),
            ("answers", {"answers": ["x"]}),
            ("run", {"failure": "ImportError"}),
        ],
    )
    def test_each_kind_of_difference_is_seen(self, subject, other):
        things = compared(MADE, MADE.model_copy(update=other))
        assert [one.subject for one in things if not one.same] == [subject]


class TestBisection:
    @pytest.mark.parametrize("number", [1, 2, 7, 40])
    def test_the_one_that_matters_is_found(self, number):
        for guilty in range(number):
            trials = []

            def differs(some, guilty=guilty, trials=trials):
                trials.append(some)
                return guilty in some

            assert culprits(range(number), differs) == [guilty]
            assert len(trials) <= 1 + number.bit_length()

    def test_two_that_matter_are_both_found(self):
        assert sorted(culprits(range(9), lambda some: bool({2, 6} & set(some)))) == [2, 6]

    def test_what_matters_only_together_is_found_by_its_last(self):
        assert culprits(range(9), lambda some: {2, 6} <= set(some)) == [6]


class TestGroups:
    def package(self, folder: Path, name: str, version: str, *needs: str) -> None:
        info = folder / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {need}" for need in needs]
        (info / "METADATA").write_text("\n".join(lines) + "\n")

    def test_what_cannot_stand_alone_changes_together(self, tmp_path, monkeypatch):
        self.package(tmp_path / "new", "transformers", "6", "tokenizers>=2", "numpy")
        self.package(tmp_path / "new", "tokenizers", "2")
        self.package(tmp_path / "new", "numpy", "3")
        self.package(tmp_path / "old", "transformers", "5", "tokenizers<2", "numpy")
        monkeypatch.setattr("flows.upgrading.environments.site_packages", lambda: tmp_path / "old")
        changed = [
            Replacement("numpy", "2", "3"), Replacement("tokenizers", "1", "2"),
            Replacement("transformers", "5", "6"),
        ]  # fmt: skip
        groups = together(changed, tmp_path / "new")
        assert [[one.name for one in group] for group in groups] == [
            ["numpy"], ["tokenizers", "transformers"],
        ]  # fmt: skip


class TestCheck:
    @pytest.fixture
    def answers(self, monkeypatch, tmp_path):
        """What environments make of the probe, by the packages that are other ones in them."""
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        packages = tmp_path / "new" / "lib" / "python3" / "site-packages"
        packages.mkdir(parents=True)
        monkeypatch.setattr(
            upgrades, "changes",
            lambda *_: [Replacement("coolname", "5", "4"), Replacement("peft", "1", "2")],
        )  # fmt: skip
        monkeypatch.setattr(
            upgrades, "environment", lambda *_: packages.parents[2] / "bin" / "python"
        )
        made: dict[frozenset[str], Probed] = {}
        monkeypatch.setattr(
            Trials, "probe",
            lambda self, some: made.get(frozenset(one.name for one in some), MADE),
        )  # fmt: skip
        return made

    def test_a_lock_that_changes_nothing_may_rise(self, answers):
        result = upgrades.check(ROOT / "requirements.lock")
        assert (result.outcome, result.culprits, result.may_rise) == ("same", [], True)
        assert result.changes == ["coolname 5 → 4", "peft 1 → 2"]

    def test_the_package_that_matters_is_named_and_a_reason_accepts_it(self, answers):
        other = MADE.model_copy(update={"losses": [6.0, 4.0]})
        for names in ({"peft"}, {"coolname", "peft"}):
            answers[frozenset(names)] = other
        result = upgrades.check(ROOT / "requirements.lock")
        assert (result.outcome, result.culprits) == ("different", ["peft 1 → 2"])
        assert not result.may_rise
        assert upgrades.check(ROOT / "requirements.lock", "its sums are rounded otherwise").may_rise


def test_environments_that_nobody_asks_for_any_more_are_removed(tmp_path, monkeypatch):
    """Each is some gigabytes on another disk than the one that it is made from."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folders = {name: tmp_path / "retune" / "upgrades" / name for name in ("old", "new", "a man's")}
    for name, folder in folders.items():
        folder.mkdir(parents=True)
        if name != "a man's":
            mark(folder)
        (folder / "bin").mkdir()
    for name in ("old", "a man's"):
        os.utime(folders[name], (time.time() - (KEPT + 1) * DAY,) * 2)
    assert remove_old() == [folders["old"]]
    assert [name for name, folder in folders.items() if folder.exists()] == ["new", "a man's"]


def test_an_environment_that_is_asked_for_again_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = [Replacement("coolname", "5", "4")], {"coolname": Pin("coolname", "4", "coolname==4\n")}
    monkeypatch.setattr(
        "flows.upgrading.environments._make", lambda target, *_: mark(target / "bin")
    )
    made = environment(*asked).parents[1]
    (made / "bin" / "python").touch()
    os.utime(made, (0, 0))
    assert environment(*asked).parents[1] == made
    assert remove_old() == []


def test_the_projects_lock_is_one_that_was_checked():
    """Else: `retune upgrade --check requirements.lock --out infra/upgrade.json`."""
    record = Upgrade.model_validate_json((ROOT / RECORD).read_text())
    assert record.locks == hashes(ROOT / "requirements.lock")
    assert record.may_rise


def test_the_command_says_what_is_wrong_with_a_file(tmp_path):
    (tmp_path / "new.lock").write_text("numpy>=2\n")
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "upgrade", "--check", tmp_path / "new.lock"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "no exact version" in done.stderr


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_an_environment_has_the_new_package_and_leaves_this_one_as_it_is(tmp_path, monkeypatch):
    """With what a registry has: coolname 4.2.0, which no model needs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = installed([site_packages()])
    whole = Pin("coolname", "4.2.0", "coolname==4.2.0\n")
    python = environment(
        [Replacement("coolname", before["coolname"], "4.2.0")], {"coolname": whole}
    )
    code = "from importlib.metadata import version; print(version('coolname'), version('torch'))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["4.2.0", before["torch"]]
    assert installed([site_packages()]) == before
