"""`retune --version`: the number, and which commit a checkout is at."""

import subprocess
import sys
from importlib import metadata

import pytest

from retune import version as module
from retune.version import public, this_version
from tests.test_house import ROOT


def git(folder, *arguments):
    own = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", "-C", folder, *own, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    git(tmp_path, "init", "--quiet")
    (tmp_path / "file").write_text("1")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    git(tmp_path, "tag", "v9")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    this_version.cache_clear()
    yield tmp_path
    this_version.cache_clear()


def test_a_checkout_tells_its_commit(checkout):
    commit = git(checkout, "rev-parse", "HEAD")[:12]
    assert str(this_version()) == f"{metadata.version('retune')} (commit {commit})"
    (checkout / "file").write_text("2")
    this_version.cache_clear()
    assert str(this_version()).endswith(f"(commit {commit}, changed)")
    assert this_version().dirty


def test_a_folder_inside_the_repository_of_somebody_else_tells_none(checkout, monkeypatch):
    inside = checkout / "site-packages"
    inside.mkdir()
    monkeypatch.setattr(module, "ROOT", inside)
    assert str(this_version()) == metadata.version("retune")


def test_without_git_the_number_is_enough(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert str(this_version()) == metadata.version("retune")


def test_the_command_line_says_it():
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "--version"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == f"retune {this_version()}\n"


@pytest.mark.parametrize(
    ("version", "expected"),
    [("2.13.0+cpu", "2.13.0"), ("2.13.0+cu130.git1", "2.13.0"), ("2.13.0rc1", "2.13.0rc1")],
)
def test_a_public_version_is_the_same_for_every_build(version, expected):
    assert public(version) == expected
