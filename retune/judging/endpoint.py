"""A judge at an OpenAI-compatible endpoint, asked with patience and without trust."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from retune.judging.cases import JudgeRequest
from retune.judging.errors import JudgeFailed, JudgeUnavailable, NoReply
from retune.recipe import LLMJudge
from retune.webhooks import WebhookRefused, require_allowed

if TYPE_CHECKING:
    import httpx
    from tenacity import RetryCallState

MOST_BYTES = 1_000_000  # of a response
FIRST_WAIT = 1.0  # seconds before the second attempt; then twice as long each time, and a bit
LONGEST_WAIT = 120  # seconds, whatever Retry-After says
WORDS = 200  # characters of the server's own words in an error
SETTING = "evaluation.judge"


class _Passing(Exception):
    """What may pass by itself; `wait` is how many seconds the server asked for."""

    def __init__(self, words: str, wait: float | None = None, garbage: bool = False) -> None:
        super().__init__(words)
        self.wait, self.garbage = wait, garbage


class Endpoint:
    """Asks a model at `config.url` with `key` ("": none). Several threads may ask."""

    def __init__(self, config: LLMJudge, key: str, client: "httpx.Client") -> None:
        self._config, self._key, self._client = config, key, client
        self._url = f"{(config.url or '').rstrip('/')}/chat/completions"

    def ask(self, request: JudgeRequest) -> str:
        """Return the text of the reply.

        Raises NoReply where the endpoint refuses this request or answers nonsense, JudgeUnavailable
        where it does not answer after all attempts, JudgeFailed where asking again is pointless.
        """
        from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

        retrying = Retrying(
            retry=retry_if_exception_type(_Passing),
            stop=stop_after_attempt(self._config.attempts),
            wait=_wait,
            reraise=True,
        )
        try:
            return retrying(self._once, request)
        except _Passing as failure:
            if failure.garbage:
                raise NoReply(str(failure)) from None
            raise JudgeUnavailable(
                f"{SETTING}.url: the judge did not answer after {self._config.attempts} attempts "
                f"({failure}); check it, then run again: its votes so far are kept"
            ) from None

    def _once(self, request: JudgeRequest) -> str:
        import httpx

        try:
            status, headers, body = self._posted(request)
        except httpx.TimeoutException:
            raise _Passing(f"no answer within {self._config.timeout:g} s") from None
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise _Passing(type(error).__name__) from None
        if status == 200:
            return _text(body)
        raise self._refusal(status, headers.get("Retry-After", ""), body)

    def _posted(self, request: JudgeRequest) -> "tuple[int, httpx.Headers, bytes]":
        """Return status, headers and body. A body is read in pieces: it may never end."""
        import httpx

        began = time.monotonic()
        with self._client.stream("POST", self._url, json=self._body(request)) as response:
            body = b""
            for piece in response.iter_bytes():
                body += piece
                if len(body) > MOST_BYTES:
                    raise NoReply(f"the reply has more than {MOST_BYTES:,} bytes")
                if time.monotonic() - began > self._config.timeout:
                    raise httpx.ReadTimeout("slow")
            return response.status_code, response.headers, body

    def _body(self, request: JudgeRequest) -> dict[str, Any]:
        config = self._config
        body = {
            "model": config.model,
            "messages": list(request.messages),
            config.limit_parameter: config.max_tokens,
            "temperature": config.temperature,
            "seed": request.seed,
        }
        return {name: value for name, value in body.items() if value is not None}

    def _refusal(self, status: int, retry_after: str, body: bytes) -> Exception:
        if status in (408, 429) or status >= 500:
            wait = float(retry_after) if retry_after.isdecimal() else None
            return _Passing(f"HTTP {status}", wait)
        words = self._words(body)
        if status in (400, 413, 422):
            return NoReply(f"HTTP {status}: {words}")
        if status in (401, 403):
            return JudgeFailed(
                f"{SETTING}: the endpoint does not let us in ({status}: {words}); check what "
                f"key_variable or key_secret holds"
            )
        return JudgeFailed(
            f"{SETTING}: the endpoint answered {status} ({words}); check url and model"
        )

    def _words(self, body: bytes) -> str:
        """Return what the server says, in a line; it may send back the key that it was sent."""
        text = body[: 20 * WORDS].decode("utf-8", "replace")
        text = text.replace(self._key, "…") if self._key else text
        return " ".join(text.split())[:WORDS]


@contextmanager
def endpoint(config: LLMJudge, key: str) -> Iterator[Endpoint]:
    """Give the endpoint for the length of a block. Raises JudgeFailed for an address that may not be,
    or a key that is none."""
    import httpx

    if not (key.isascii() and key.isprintable()):
        raise JudgeFailed(f"{SETTING}: the key has a character that no key has; copy it anew")
    try:
        require_allowed(config.url or "")
    except WebhookRefused as refused:
        raise JudgeFailed(f"{SETTING}.url: {refused}") from None
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    limits = httpx.Limits(max_connections=config.parallel)
    # A redirect could lead where no address may, and take the key along.
    with httpx.Client(
        headers=headers, timeout=config.timeout, limits=limits, follow_redirects=False
    ) as client:
        yield Endpoint(config, key, client)


def _text(body: bytes) -> str:
    """Return the reply in a response. Raises _Passing for what is none, such as a gateway's page, and
    NoReply for one that was cut: its verdict would stand at the end."""
    try:
        choice = json.loads(body)["choices"][0]
        text, reason = choice["message"]["content"], choice.get("finish_reason")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise _Passing("the response is not of OpenAI's protocol", garbage=True) from None
    if reason == "length":
        raise NoReply("the reply is longer than evaluation.judge.max_tokens")
    return text if isinstance(text, str) else ""


def _wait(state: "RetryCallState") -> float:
    """Return the seconds before the next attempt: as the server says, else ever longer."""
    from tenacity import wait_exponential_jitter

    error = state.outcome.exception() if state.outcome else None
    asked = error.wait if isinstance(error, _Passing) else None
    backoff: float = wait_exponential_jitter(multiplier=FIRST_WAIT, jitter=FIRST_WAIT)(state)
    return min(backoff if asked is None else asked, LONGEST_WAIT)
