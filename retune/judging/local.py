"""A judge on this machine: a GGUF that llama.cpp serves."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from retune.judging.cases import JudgeRequest
from retune.judging.errors import NoReply
from retune.llamacpp.acceleration import computes_on_gpu, with_program
from retune.llamacpp.answering import (
    AT_A_TIME,
    AT_A_TIME_ON_GPU,
    OPTIONS,
    AnsweringFailed,
    longest_prompt,
    reply,
    require_chat_template,
)
from retune.llamacpp.process import existing
from retune.llamacpp.server import PROGRAM, Server, serving
from retune.machine import cores
from retune.recipe import LLMJudge

TOO_LONG = "exceed_context_size_error"  # what llama.cpp calls a request beyond the model's context
Refusals = Mapping[str, str]


def at_a_time(on_gpu: bool) -> int:
    """Return how many requests llama.cpp answers together."""
    return AT_A_TIME_ON_GPU if on_gpu else AT_A_TIME


def local(
    config: LLMJudge, requests: Sequence[JudgeRequest]
) -> Callable[[Callable[[Callable[[JudgeRequest], str], bool], Refusals]], Refusals]:
    """Return what gives a judge to some work: how to ask it, and whether it computes on a GPU.

    Raises FileNotFoundError or AnsweringFailed.
    """
    gguf = Path(config.gguf or "").expanduser().absolute()
    existing(gguf, "the judge (evaluation.judge.gguf)")
    require_chat_template(gguf)
    room = longest_prompt(gguf, [list(one.messages) for one in requests]) + config.max_tokens

    def with_judge(
        work: Callable[[Callable[[JudgeRequest], str], bool], Refusals],
    ) -> Refusals:
        def served(program: list[str | Path]) -> Refusals:
            on_gpu = computes_on_gpu(program)
            options: list[str | Path] = [*OPTIONS, "--model", gguf, *_room(at_a_time(on_gpu), room)]
            with serving(options, AnsweringFailed, program=program) as server:
                return work(lambda request: _ask(server, config, request), on_gpu)

        return with_program(PROGRAM, gguf, served)

    return with_judge


def _room(slots: int, tokens: int) -> list[str]:
    threads = str(cores())
    return [
        *("--threads", threads, "--threads-batch", threads),
        *("--parallel", str(slots), "--threads-http", str(slots)),
        *("--ctx-size", str(slots * tokens)),
    ]


def _ask(server: Server, config: LLMJudge, request: JudgeRequest) -> str:
    sampling: dict[str, Any] = {"temperature": config.temperature, "seed": request.seed}
    given = {name: value for name, value in sampling.items() if value is not None}
    try:
        response = reply(server, list(request.messages), config.max_tokens, **given)
    except AnsweringFailed as refusal:
        if TOO_LONG in str(refusal):
            raise NoReply(
                "the request is longer than the context of evaluation.judge.gguf"
            ) from None
        raise
    choice = response["choices"][0]
    if choice["finish_reason"] == "length":
        raise NoReply("the reply is longer than evaluation.judge.max_tokens")
    return str(choice["message"]["content"] or "")
