"""The programs that tests start are this checkout's."""

import subprocess
import sys

from tests.checkout import PACKAGE, ROOT


def test_the_program_is_this_checkouts():
    code = f"import {PACKAGE}, flows.cli; print({PACKAGE}.HOME); print(flows.cli.__file__)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd="/"
    )
    assert done.stdout.splitlines() == [str(ROOT), str(ROOT / "flows" / "cli.py")], done.stderr
