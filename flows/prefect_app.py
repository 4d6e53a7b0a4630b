"""The process of a temporary Prefect server: `python -m flows.prefect_app DESCRIPTOR`.

DESCRIPTOR is the socket that it is to listen on, bound by whoever started it: no other process can
take the port meanwhile. It ends with its parent, however that ends, also by `kill -9`: the parent
holds the other end of its standard input. Light imports alone: it is started to save time.
"""

import os
import signal
import socket
import sys
import threading
import time

GRACE = 10  # seconds to write down what has arrived, once the parent is gone


def main() -> int:
    """Serve until told to end; return the exit code."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import uvicorn

    config = uvicorn.Config(
        "prefect.server.api.server:create_app",
        factory=True,
        log_level="error",
        lifespan="on",  # its migrations and services, without which nothing is to be answered
        timeout_graceful_shutdown=GRACE // 2,
    )
    server = uvicorn.Server(config)
    server.run(sockets=[socket.socket(fileno=int(sys.argv[1]))])
    return 0 if server.started else 3  # as uvicorn's own command


def _end_with_parent() -> None:
    os.read(0, 1)  # returns when the parent's end of the pipe closes: it is gone
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
