"""Chat templates, rendered in a child process: each is a stranger's program, run on data.

Jinja's sandbox keeps a template from Python's objects, but not from loops in loops, `'a' * 10**10`
or `9**9**9`. The child has limits on processor time and memory, no token in its environment, and
transformers' own function renders in it, so that what comes out is what `apply_chat_template` makes.
"""

import json
import mmap
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retune.environment import plain, python_path
from retune.errors import RetuneError
from retune.tool_text import AS_TEXT

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHILD = Path(__file__).with_name("child.py")

MOST_CHARACTERS = 262_144  # of a template; the longest in use have about 30,000
SECONDS = (
    10.0  # of processor time for one conversation, which usually needs less than a millisecond
)
SECONDS_PER_CONVERSATION = 0.01  # that many together may take, beyond those of one
SECONDS_PER_BYTE = 1e-6
MEMORY = 1 << 30  # bytes beyond what the child needs for itself
OUTPUT_FREE = 100_000  # characters that may come of any conversation,
OUTPUT_TIMES = 8  # and so many more for each of its own
REQUEST_BYTES = 8_000_000  # of conversations that go to the child together
PROGRESS = struct.Struct("=qq")  # the conversation's number, and whether all of them were too slow

Chat = list[dict[str, Any]]


@dataclass(frozen=True)
class Refusal:
    """Why a conversation has no rendering: the template's own words, or the limit that it met.

    `met_limit` says that the template is not run again: what follows was not tried.
    """

    words: str
    met_limit: bool = False

    def __str__(self) -> str:
        return self.words


class TemplateRefused(RetuneError):
    """The template did not render a conversation, the one of this number in those given."""

    def __init__(self, number: int, words: str) -> None:
        super().__init__(f"the chat template does not render a conversation: {words}")
        self.number, self.words = number, words

    def __reduce__(self) -> tuple[Any, ...]:
        """Come from another process as what it is there."""
        return type(self), (self.number, self.words), vars(self)


@contextmanager
def rendering() -> Iterator[None]:
    """Keep one child for all that is rendered in this block; without it each call starts its own.

    A template that broke a limit is refused without another try until the block ends.
    """
    _child.enter()
    try:
        yield
    finally:
        _child.leave()


def outcomes(
    tokenizer: "PreTrainedTokenizerBase",
    chats: Sequence[Chat],
    *,
    add_generation_prompt: bool = False,
    tools: list[dict[str, Any]] | None = None,
) -> list[str | Refusal]:
    """Return each conversation as `apply_chat_template` renders it, or why it does not."""
    try:
        template = _template(tokenizer, tools)
    except ValueError as error:
        return [Refusal(str(error))] * len(chats)
    request = {
        "template": template,
        "add_generation_prompt": add_generation_prompt,
        "tools": tools,
        "names": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
    }
    results: list[str | Refusal] = []
    with rendering():
        for part in _parts(chats):
            results += _child.rendered(request, part)
    return results


def render(
    tokenizer: "PreTrainedTokenizerBase",
    chats: Sequence[Chat],
    *,
    add_generation_prompt: bool = False,
) -> list[str]:
    """Return each conversation as text; raises TemplateRefused at the first that has none."""
    results = outcomes(tokenizer, chats, add_generation_prompt=add_generation_prompt)
    for number, outcome in enumerate(results):
        if isinstance(outcome, Refusal):
            raise TemplateRefused(number, outcome.words)
    return [outcome for outcome in results if isinstance(outcome, str)]


def examined(tokenizer: "PreTrainedTokenizerBase") -> list[dict[str, Any]] | Refusal:
    """Return what `retune.templates.content.sites` says of the template, or why it says nothing.

    Not of our own beginning of it, which looks at no content where there are no tools or calls.
    """
    try:
        template = _template(tokenizer, None).replace(AS_TEXT, "\n" * AS_TEXT.count("\n"))
        request = {"template": template, "examine": True}
    except ValueError as error:
        return Refusal(str(error))
    with rendering():
        return _child.examined(request)


def _template(tokenizer: "PreTrainedTokenizerBase", tools: list[dict[str, Any]] | None) -> str:
    """Return the template in use; raises ValueError for what is none or too long."""
    template = tokenizer.get_chat_template(tools=tools)
    if not isinstance(template, str):
        raise ValueError(f"the chat template is no text but a {type(template).__name__}")
    if len(template) > MOST_CHARACTERS:
        raise ValueError(
            f"the chat template has {len(template):,} characters; {MOST_CHARACTERS:,} are the most"
        )
    return template


def _parts(chats: Sequence[Chat]) -> Iterator[list[str]]:
    """Yield the conversations as JSON, as many at a time as may go to the child together."""
    part: list[str] = []
    size = 0
    for chat in chats:
        encoded = json.dumps(chat)
        if part and size + len(encoded) > REQUEST_BYTES:
            yield part
            part, size = [], 0
        part.append(encoded)
        size += len(encoded)
    if part:
        yield part


class _Died(Exception):
    """The child ended before it answered: the limit that was met, and at which conversation."""

    def __init__(self, words: str, number: int) -> None:
        super().__init__(words)
        self.words, self.number = words, number


class _Child:
    """The process, started when it is needed and ended with the outermost `rendering` block."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._blocks = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._progress: mmap.mmap | None = None
        self._broken: dict[str, str] = {}  # templates that met a limit, with the words for it

    def enter(self) -> None:
        with self._lock:
            self._blocks += 1

    def leave(self) -> None:
        with self._lock:
            self._blocks -= 1
            if not self._blocks:
                self._end()
                self._broken.clear()

    def rendered(self, request: dict[str, Any], chats: list[str]) -> list[str | Refusal]:
        """Return the outcome for each conversation (as JSON)."""
        size = sum(map(len, chats))
        seconds = SECONDS + len(chats) * SECONDS_PER_CONVERSATION + size * SECONDS_PER_BYTE
        with self._lock:
            try:
                reply = self._reply(request, seconds, f', "chats": [{", ".join(chats)}]')
            except _Died as death:
                # Those before the one that ended the child were rendered, but went with it.
                before = self.rendered(request, chats[: death.number]) if death.number > 0 else []
                self._broken[request["template"]] = death.words
                rest = len(chats) - len(before)
                return [*before, *[Refusal(death.words, met_limit=True)] * rest]
        return [Refusal(words) if text is None else text for text, words in reply["texts"]]

    def examined(self, request: dict[str, Any]) -> list[dict[str, Any]] | Refusal:
        with self._lock:
            try:
                reply = self._reply(request, SECONDS)
            except _Died as death:
                self._broken[request["template"]] = death.words
                return Refusal(death.words)
        return Refusal(reply["refused"]) if "refused" in reply else reply["sites"]

    def _reply(self, request: dict[str, Any], seconds: float, more: str = "") -> dict[str, Any]:
        """Return the child's reply to `request` and `more` of its JSON; raises _Died."""
        if words := self._broken.get(request["template"]):
            raise _Died(words, number=0)
        limits = {"seconds": SECONDS, "seconds_together": seconds}
        limits |= {"output_free": OUTPUT_FREE, "output_times": OUTPUT_TIMES}
        line = f"{json.dumps(request | limits)[:-1]}{more}}}\n".encode()
        try:
            process = self._started()
            assert process.stdin is not None
            assert process.stdout is not None
            reply = b""
            try:
                process.stdin.write(line)
                process.stdin.flush()
                reply = process.stdout.readline()
            except BrokenPipeError:
                pass  # it died while it was written to
            if not reply.endswith(b"\n"):
                raise self._death(process, seconds)
            return json.loads(reply)
        except BaseException:
            self._end()  # whatever it says next answers a request that is gone
            raise

    def _started(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            with tempfile.TemporaryFile() as file:
                file.truncate(PROGRESS.size)
                self._progress = mmap.mmap(file.fileno(), PROGRESS.size)
                self._process = subprocess.Popen(
                    # -P: a script's own folder must not shadow installed libraries.
                    [sys.executable, "-P", CHILD, str(file.fileno()), str(MEMORY)],
                    stdin=subprocess.PIPE,  # its end tells the child that we are gone
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(file.fileno(),),
                    env=plain()
                    | {"PYTHONPATH": python_path(), "PYTHONUTF8": "1", "OPENBLAS_NUM_THREADS": "1"},
                )
        return self._process

    def _death(self, process: "subprocess.Popen[bytes]", seconds: float) -> _Died:
        assert self._progress is not None
        number, together = PROGRESS.unpack(self._progress[:])
        code = process.wait()
        if code == -signal.SIGPROF and together:
            return _Died(
                f"conversations together take more than {seconds:.3g} s of processor time", number=0
            )
        subject = "a conversation takes" if number >= 0 else "reading it takes"
        if code == -signal.SIGPROF:
            words = f"{subject} more than {SECONDS:g} s of processor time"
        elif code < 0:
            words = f"its rendering was ended by {signal.Signals(-code).name}"
        else:
            words = f"its rendering ended with status {code}"
        return _Died(words, number)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()
        assert self._progress is not None
        self._progress.close()


_child = _Child()
