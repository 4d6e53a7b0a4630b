"""What a killed process leaves is gone after the next start; what a living one uses stays."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from retune.environment import ROOT
from retune.temporary import sweep, temporary_folder

KILLED = """
import os, signal
from retune.temporary import temporary_folder
with temporary_folder() as folder:
    (folder / "answers").write_text("much")
    print(folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
QUANTIZING = """
import sys
from pathlib import Path
from retune.llamacpp.process import run
run([Path("/bin/sh"), "-c", "echo $$ > %s; exec sleep 600"])
"""


@pytest.fixture
def temporary(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def python(code: str, folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_the_folders_of_killed_processes_are_removed(temporary):
    killed = python(KILLED, temporary)
    said, _ = killed.communicate()
    left = Path(said.strip())
    assert killed.returncode == -signal.SIGKILL
    assert (left / "answers").exists()
    (temporary / "retune-somebody-1-else").mkdir()
    with temporary_folder() as mine:
        sweep()
        assert mine.is_dir()
        assert not left.exists()
    assert [path.name for path in temporary.iterdir()] == ["retune-somebody-1-else"]


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
def test_a_program_of_others_ends_with_a_process_that_is_killed(tmp_path):
    note = tmp_path / "pid"
    quantizing = python(QUANTIZING % note, tmp_path)
    while not (note.exists() and note.read_text().endswith("\n")):
        assert quantizing.poll() is None
    program = psutil.Process(int(note.read_text()))
    quantizing.kill()
    quantizing.wait()
    _, alive = psutil.wait_procs([program], timeout=20)
    assert alive == [] or alive[0].status() == psutil.STATUS_ZOMBIE
