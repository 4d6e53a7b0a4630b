"""Programs of others that end with this process, however that ends: Linux's parent-death signal."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1
# Before a fork: between it and the program nothing may be loaded.
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def ending_with_us() -> Callable[[], None] | None:
    """Return what `subprocess` is to do between fork and exec (`preexec_fn`); None elsewhere.

    The system watches the thread that starts the program: it has to wait for it.
    """
    if _libc is None:
        return None
    prctl, parent = _libc.prctl, os.getpid()

    def obey() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it was gone before that
            os._exit(1)

    return obey
