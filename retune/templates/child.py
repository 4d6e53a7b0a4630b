"""The child process of `retune.templates`: it renders, under limits that the system keeps.

Run as a script. A request is a line of JSON on stdin, the reply one on stdout. Processor time is
limited by a signal that ends the process: Python's own handlers wait for the end of `9**9**9`.
"""

import json
import logging
import mmap
import os
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

PROGRESS = struct.Struct("=qq")
READING = -1  # the number of the conversation while there is none yet
WORDS = 300  # of an exception that are told


class Clock:
    """Ends the process when one piece of work, or all of a request, takes too long.

    Where it stands is in memory that the parent shares.
    """

    def __init__(self, file: int) -> None:
        self._shared = mmap.mmap(file, PROGRESS.size)
        self._one, self._end = 0.0, 0.0

    def begin(self, seconds: float, seconds_together: float) -> None:
        self._one, self._end = seconds, time.process_time() + seconds_together

    def start(self, number: int) -> None:
        """Begin the work on one conversation."""
        remaining = self._end - time.process_time()
        PROGRESS.pack_into(self._shared, 0, number, remaining < self._one)
        signal.setitimer(signal.ITIMER_PROF, max(min(remaining, self._one), 1e-6))

    @staticmethod
    def stop() -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)


def main() -> None:
    """Answer requests until there are no more: the parent is gone then."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process as it ends itself
    clock = Clock(int(sys.argv[1]))
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no reply
    compiled = transformers_compiler()
    limit(int(sys.argv[2]))
    for line in sys.stdin.buffer:
        request = json.loads(line)
        clock.begin(request["seconds"], request["seconds_together"])
        clock.start(READING)
        if request.get("examine"):
            reply = examine(request)
        else:
            reply = {"texts": list(texts(request, compiled, clock))}
        clock.stop()
        replies.write(json.dumps(reply).encode() + b"\n")
        replies.flush()


def transformers_compiler() -> Callable[[str], Any]:
    """Return the function by which transformers compiles a template, without the rest of it.

    Its file is loaded with stand-ins for its two neighbours: they bring 800 modules and take a
    second or more, for nothing that a template sees.
    """
    package = find_spec("transformers")
    assert package is not None
    assert package.submodule_search_locations
    file = Path(package.submodule_search_locations[0], "utils", "chat_template_utils.py")
    available = {"is_jinja_available": True, "is_torch_available": False}
    available["is_vision_available"] = False
    stand_ins: dict[str, dict[str, Any]] = {
        "transformers": {},
        "transformers.utils": {"logging": SimpleNamespace(get_logger=logging.getLogger)},
        "transformers.utils.import_utils": {
            name: lambda value=value: value for name, value in available.items()
        },
    }
    for name, members in stand_ins.items():
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(members)
    spec = spec_from_file_location("transformers.utils.chat_template_utils", file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module._compile_jinja_template


def limit(memory: int) -> None:
    """Allow `memory` bytes more than are in use, no files and no core dumps."""
    statm = Path("/proc/self/statm")  # absent on macOS, which does not keep this limit anyway
    if statm.exists():
        used = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def texts(
    request: dict[str, Any], compiled: Callable[[str], Any], clock: Clock
) -> Iterator[tuple[str | None, str | None]]:
    """Yield text and None, or None and the words of a refusal, for each conversation."""
    chats = request["chats"]
    try:
        template = compiled(request["template"])
    except Exception as error:
        yield from [(None, words_of(error))] * len(chats)
        return
    # To read a long template takes longer than to render: not the conversations' time.
    clock.begin(request["seconds"], request["seconds_together"])
    for number, chat in enumerate(chats):
        clock.start(number)
        try:
            text = template.render(
                messages=chat,
                tools=request["tools"],
                documents=None,
                add_generation_prompt=request["add_generation_prompt"],
                **request["names"],
            )
            require_text(text, chat, request)
            yield text, None
        except Exception as error:
            yield None, words_of(error)


def require_text(text: str, chat: Any, request: dict[str, Any]) -> None:
    """Raise ValueError for a rendering that is no text, or far longer than its conversation."""
    if len(text) > request["output_free"]:
        longest = request["output_free"] + request["output_times"] * len(json.dumps(chat))
        if len(text) > longest:
            raise ValueError(f"it makes {len(text):,} characters of it; {longest:,} are the most")
    text.encode()  # a lone surrogate is no character


def examine(request: dict[str, Any]) -> dict[str, Any]:
    """Return the places that depend on content, or why the template cannot be read."""
    from retune.templates.content import sites

    try:
        return {"sites": sites(request["template"])}
    except Exception as error:
        return {"refused": words_of(error)}


def words_of(error: Exception) -> str:
    """Return an exception's type and message, cut and printable."""
    if isinstance(error, MemoryError):
        return "MemoryError: it needs more memory than a template may have"
    if isinstance(error, RecursionError):
        return "RecursionError: it nests too deeply"
    line = getattr(error, "lineno", None)
    message = repr(str(error)[:WORDS])[1:-1]
    return f"{type(error).__name__}: {message}" + (f" (line {line})" if line else "")


if __name__ == "__main__":
    main()
