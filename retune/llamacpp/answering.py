"""Let a GGUF answer conversations, as its users will: greedily, by its own chat template."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retune.llamacpp.acceleration import computes_on_gpu, with_program
from retune.llamacpp.header import facts
from retune.llamacpp.process import LlamaCppFailed, existing
from retune.llamacpp.server import PROGRAM, Server, serving
from retune.llamacpp.tokens import tokenize

AT_A_TIME = 4
AT_A_TIME_ON_GPU = 8  # where a step takes as long for all as for one
# Room for what a chat template writes around each message, and for a system prompt of its own.
TEMPLATE_TOKENS_PER_MESSAGE = 16
TEMPLATE_TOKENS = 128
# Of all conversations. No token is less than a byte, and to count them takes a core a second: for as
# many the room may be as large as if each were one.
FEW_BYTES = 1_000
TIMED_TOKENS = 32  # of one answer on its own, for the speed
OPTIONS = (
    "--jinja",
    "--skip-chat-parsing",  # the text as generated, not parsed for reasoning or tool calls
    "--no-warmup",
    *("--fit", "off"),  # to a GPU's memory
    *("--cache-ram", "0"),
)


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
    """All answers, the speed at which one conversation alone is answered (0 if none was), whether that
    was `on_gpu`, and the token ids of the prompts that were given as texts."""

    answers: list[Answer]
    tokens_per_second: float
    on_gpu: bool = False
    prompt_ids: tuple[list[int], ...] = ()


def answers(
    gguf: Path,
    conversations: Sequence[list[dict]],
    max_tokens: int,
    threads: int,
    seconds: float | None = None,
    memory: int | None = None,
    prompts: Sequence[str] = (),
) -> Answered:
    """Return the answer to each conversation (OpenAI-style messages, the last from the user), and the
    token ids of each of `prompts`, with BOS where the GGUF asks for it.

    The model is loaded once and answers several conversations at a time; the rounding of a batched
    matrix product can so differ between two calls, and with it a token that is nearly tied.
    Raises FileNotFoundError or AnsweringFailed, also for one that takes longer than `seconds` or more
    than `memory` bytes.
    """
    existing(gguf, "the GGUF to answer with")
    if not conversations:
        return Answered([], 0.0)
    room = longest_prompt(gguf, conversations) + max_tokens
    require_chat_template(gguf)
    options: list[str | Path] = [*OPTIONS, "--model", gguf.absolute()]
    options += ["--threads", str(threads), "--threads-batch", str(threads)]

    def ask(program: list[str | Path]) -> Answered:
        at_a_time = AT_A_TIME_ON_GPU if computes_on_gpu(program) else AT_A_TIME
        slots = ["--parallel", str(at_a_time), "--threads-http", str(at_a_time)]
        slots += ["--ctx-size", str(at_a_time * room)]
        # The pool outside: if the block fails, the server ends, and with it what its threads wait for.
        with (
            ThreadPoolExecutor(at_a_time) as pool,
            serving([*options, *slots], AnsweringFailed, seconds, memory, program) as server,
        ):
            replies = list(
                pool.map(lambda messages: answer(server, messages, max_tokens), conversations)
            )
            alone = speed(server, conversations[0], max_tokens)
            ids = tuple(token_ids(server, prompt) for prompt in prompts)
            return Answered(replies, alone, computes_on_gpu(program), ids)

    if seconds or memory:  # of a stranger's tiny model, which the CPU holds to its limits
        return ask([])
    return with_program(PROGRAM, gguf, ask)


def require_chat_template(gguf: Path) -> None:
    """Raise AnsweringFailed if `gguf` has no chat template: llama.cpp would silently assume ChatML."""
    if not facts(gguf).has_chat_template:
        raise AnsweringFailed(
            f"{gguf} has no chat template: save the tokenizer with one before conversion"
        )


def answer(server: Server, messages: list[dict], max_tokens: int) -> Answer:
    """Return the server's answer to `messages`."""
    response = reply(server, messages, max_tokens)
    choice, usage = response["choices"][0], response["usage"]
    return Answer(
        text=choice["message"]["content"],
        finish_reason=choice["finish_reason"],
        tokens=usage["completion_tokens"],
        prompt_tokens=usage["prompt_tokens"],
    )


def speed(server: Server, messages: list[dict], max_tokens: int) -> float:
    """Return the tokens per second of an answer to `messages` while nothing else is answered."""
    # The longest conversation's context has room for as many tokens as this.
    alone = reply(server, messages, min(TIMED_TOKENS, max_tokens), ignore_eos=True)
    return alone["timings"]["predicted_per_second"]


def reply(server: Server, messages: list[dict], max_tokens: int, **options: Any) -> dict[str, Any]:
    """Return the server's whole reply to `messages`, in the form of OpenAI's chat API."""
    # A prompt cache would make an answer depend on which ones came before.
    settings = {"max_tokens": max_tokens, "temperature": 0, "cache_prompt": False}
    return server.post("/v1/chat/completions", {"messages": messages, **settings, **options})


def token_ids(server: Server, text: str) -> list[int]:
    """Return what the server reads `text` as, which an application may send instead of messages."""
    request = {"content": text, "add_special": True, "parse_special": True}
    ids: list[int] = server.post("/tokenize", request)["tokens"]
    return ids


def longest_prompt(gguf: Path, conversations: Sequence[list[dict]]) -> int:
    """Return an upper bound, in tokens, of the longest conversation as the template renders it."""
    contents = [message["content"] for messages in conversations for message in messages]
    sizes = [len(content.encode()) for content in contents]
    if sum(sizes) > FEW_BYTES:
        sizes = [len(ids) for ids in tokenize(gguf, contents, add_special=False)]
    lengths = iter(sizes)
    return TEMPLATE_TOKENS + max(
        sum(next(lengths) + TEMPLATE_TOKENS_PER_MESSAGE for _ in messages)
        for messages in conversations
    )
