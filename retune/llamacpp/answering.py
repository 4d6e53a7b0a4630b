"""Let a GGUF answer conversations, as its users will: greedily, by its own chat template."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from retune.llamacpp.process import LlamaCppFailed, existing, run
from retune.llamacpp.tokens import tokenize

ANSWERER = Path(__file__).with_name("answerer.py")
# Room for what a chat template writes around each message, and for a system prompt of its own.
TEMPLATE_TOKENS_PER_MESSAGE = 16
TEMPLATE_TOKENS = 128


class AnsweringFailed(LlamaCppFailed):
    """The GGUF could not be loaded or could not answer; the message says why."""


@dataclass(frozen=True)
class Answer:
    """One answer: `finish_reason` is `stop` if the model ended it, `length` if `max_tokens` did.

    `prompt_tokens` is what the chat template made of the conversation, BOS included.
    """

    text: str
    finish_reason: str
    tokens: int
    prompt_tokens: int

    @property
    def stopped(self) -> bool:
        return self.finish_reason == "stop"


@dataclass(frozen=True)
class Answered:
    """All answers, and the speed at which one conversation alone is answered (0 if none was)."""

    answers: list[Answer]
    tokens_per_second: float


def answers(
    gguf: Path,
    conversations: Sequence[list[dict]],
    max_tokens: int,
    threads: int,
    seconds: float | None = None,
    memory: int | None = None,
) -> Answered:
    """Return the answer to each conversation (OpenAI-style messages, the last from the user).

    The model is loaded once and answers several conversations at a time; the rounding of a batched
    matrix product can so differ between two calls, and with it a token that is nearly tied.
    Raises FileNotFoundError or AnsweringFailed, also for one that takes longer than `seconds` or more
    than `memory` bytes.
    """
    existing(gguf, "the GGUF to answer with")
    if not conversations:
        return Answered([], 0.0)
    request = {
        "gguf": str(gguf.absolute()),
        "conversations": list(conversations),
        "max_tokens": max_tokens,
        "context": longest_prompt(gguf, conversations) + max_tokens,
        "threads": threads,
        "memory": memory,
    }
    with TemporaryDirectory(prefix="retune-answers-") as scratch:
        out = Path(scratch, "answers.json")
        command = [sys.executable, "-P", ANSWERER, out]
        run(command, stdin=json.dumps(request).encode(), failure=AnsweringFailed, seconds=seconds)
        found = json.loads(out.read_text())
        answers = [Answer(**answer) for answer in found["answers"]]
        return Answered(answers, found["tokens_per_second"])


def longest_prompt(gguf: Path, conversations: Sequence[list[dict]]) -> int:
    """Return an upper bound, in tokens, of the longest conversation as the template renders it."""
    contents = [message["content"] for messages in conversations for message in messages]
    lengths = iter([len(ids) for ids in tokenize(gguf, contents, add_special=False)])
    return TEMPLATE_TOKENS + max(
        sum(next(lengths) + TEMPLATE_TOKENS_PER_MESSAGE for _ in messages)
        for messages in conversations
    )
