"""`retune --version`: the number, and which commit a checkout is at."""

import subprocess
import sys
from importlib import metadata

import pytest

from retune import version as module
from retune.version import version
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
    return tmp_path


def test_a_checkout_tells_its_commit(checkout):
    commit = git(checkout, "rev-parse", "HEAD")[:12]
    assert version() == f"{metadata.version('retune')} (commit {commit})"
    (checkout / "file").write_text("2")
    assert version().endswith(f"(commit {commit}, changed)")


def test_a_folder_inside_the_repository_of_somebody_else_tells_none(checkout, monkeypatch):
    inside = checkout / "site-packages"
    inside.mkdir()
    monkeypatch.setattr(module, "ROOT", inside)
    assert version() == metadata.version("retune")


def test_without_git_the_number_is_enough(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert version() == metadata.version("retune")


def test_the_command_line_says_it():
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "--version"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == f"retune {version()}\n"
