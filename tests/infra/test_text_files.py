"""What the hook on text files finds, and that ours are as it wants them."""

import subprocess
from pathlib import Path

import pytest

from infra.text_files import faults_of, main

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"a", "does not end"),
        (b"a\n\n", "does not end"),
        (b"a\r\n", "Windows"),
        (b"a\nb \nc\n", "line 2 ends with blanks"),
        (b"a\n<<<<<<< ours\n", "line 2 is a conflict marker"),
        (b"a\n=======\n", "line 2 is a conflict marker"),
    ],
)
def test_each_fault_is_named(content, fault):
    (found,) = faults_of(content)
    assert fault in found


def test_a_plain_text_has_none():
    assert list(faults_of(b"")) == []
    assert list(faults_of(b"a\n\n  b\n======\n")) == []


def test_ours_have_none(capsys):
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a checkout")
    names = [str(ROOT / name) for name in listed.stdout.splitlines()]
    assert main([name for name in names if not name.endswith(".png") and Path(name).is_file()]) == 0
    assert capsys.readouterr().out == ""
