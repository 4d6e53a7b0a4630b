"""A process is known again for as long as it lives, whatever becomes of the clock."""

import os
import socket
from pathlib import Path

import psutil
import pytest

from retune.processes import is_gone, running, this_process

HOURS = 2


def procfs(folder: Path, seconds: int) -> Path:
    """Make a `/proc` as the kernel shows it once the clock has been set by so many seconds."""
    folder.mkdir()
    for entry in Path("/proc").iterdir():
        if entry.name != "stat":
            (folder / entry.name).symlink_to(entry)
    lines = Path("/proc/stat").read_text().splitlines()
    moved = [
        f"btime {int(line.split()[1]) + seconds}" if line.startswith("btime") else line
        for line in lines
    ]
    (folder / "stat").write_text("\n".join(moved) + "\n")
    return folder


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="this system has no /proc")
@pytest.mark.parametrize("hours", [HOURS, -HOURS])
def test_a_process_lives_on_when_the_clock_is_set(tmp_path, monkeypatch, hours):
    """Else the watchdog closes a run at work, and a second `retune ui` of its home begins."""
    process, before = this_process(), psutil.boot_time()
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(procfs(tmp_path / "proc", 3600 * hours)))
    assert psutil.boot_time() - before == pytest.approx(3600 * hours, abs=2)
    assert not is_gone(process)
    found = running(process)
    assert found
    assert found.pid == os.getpid()


def test_another_start_is_another_process():
    host, pid, start = this_process().rsplit(" ", 2)
    assert is_gone(f"{host} {pid} {start}1")
    assert not is_gone(f"another-{host} {pid} {start}1")


def test_a_name_of_before_there_were_ticks_is_still_known():
    began = psutil.Process().create_time()
    name = f"{socket.gethostname()} {os.getpid()}"
    assert not is_gone(f"{name} {began:.0f}")
    assert is_gone(f"{name} {began - 60:.0f}")
