"""The wrong clock of the chaos is what it says, or nothing that it shows would count."""

import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest

from tests.flows.clock import COMPILER, Clock

ASKS = """
import sqlite3, sys, time
from datetime import UTC, datetime
for line in sys.stdin:
    before = time.monotonic()
    time.sleep(0.1)
    (sqlites,) = sqlite3.connect(":memory:").execute("select strftime('%s')").fetchone()
    print(time.time(), datetime.now(UTC).timestamp(), sqlites, time.monotonic() - before, flush=True)
"""


@pytest.mark.skipif(not COMPILER, reason="no C compiler is installed")
def test_it_jumps_for_a_process_at_work_and_what_only_goes_forward_does_not(tmp_path):
    clock = Clock(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", ASKS],
        env=clock.variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        for wrong in (0, 7200, -7200):
            clock.set(wrong)
            process.stdin.write("\n")
            *times, slept = map(float, process.stdout.readline().split())
            assert times == pytest.approx([time.time() + wrong] * 3, abs=5)
            assert 0.1 <= slept < 5
        process.stdin.close()
    assert abs(datetime.now(UTC).timestamp() - time.time()) < 5
