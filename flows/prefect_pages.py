"""Prefect's server for `retune ui`, whose pages say what it answers.

Prefect's own clients ask again when its SQLite database was busy (503), its pages do not; and of an
answer that has no `detail` they show "Unknown error". So a page's request is made again here, and every
refusal has a `detail`. Uvicorn finds the app here, as it finds Prefect's own for `prefect server start`.
"""

import json
from asyncio import sleep
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

BUSY = 503  # Prefect's answer where its database was locked; what was begun is rolled back by then
PAUSES = (0.2, 0.5, 1, 2)  # seconds before the next attempts
AGAIN = "Prefect's database was busy, and nothing was changed: please try again in a moment."
CHANGES = ("POST", "PUT", "PATCH", "DELETE")


class ClearAnswers:
    """Makes requests of pages again that met a busy database, and gives refusals a `detail`."""

    def __init__(self, app: "ASGIApp") -> None:
        self.app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if not _is_of_a_page(scope):
            await self.app(scope, receive, send)
            return
        body = await _body(receive)
        for pause in (*PAUSES, None):
            messages, error = await self._asked(scope, body, receive)
            status = messages[0]["status"] if messages else BUSY
            if status != BUSY or pause is None:
                break
            await sleep(pause)
        if not messages and error:
            raise error
        for message in _with_detail(messages):
            await send(message)

    async def _asked(
        self, scope: "Scope", body: bytes, receive: "Receive"
    ) -> "tuple[list[Message], Exception | None]":
        """Return the whole answer to a request, and what was raised after it was sent."""
        messages: list[Message] = []
        given = [{"type": "http.request", "body": body, "more_body": False}]

        async def read() -> "Message":
            return given.pop() if given else await receive()

        async def keep(message: "Message") -> None:
            messages.append(message)

        try:
            await self.app(dict(scope), read, keep)
        except Exception as error:  # Starlette answers, and then raises it for the server's log
            return messages, error
        return messages, None


def create_app() -> "FastAPI":
    """Return Prefect's server with its pages."""
    from prefect.server.api.server import create_app

    app = create_app(final=True)
    app.add_middleware(ClearAnswers)
    return app


def _is_of_a_page(scope: "Scope") -> bool:
    """Tell whether a page changes something: a browser names the page's origin then."""
    return (
        scope["type"] == "http"
        and scope["method"] in CHANGES
        and any(name == b"origin" for name, _ in scope["headers"])
    )


async def _body(receive: "Receive") -> bytes:
    parts = []
    while (message := await receive())["type"] == "http.request":
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            break
    return b"".join(parts)


def _with_detail(messages: "list[Message]") -> "list[Message]":
    """Return an answer; a refusal in JSON that has no `detail` gets one."""
    start, *rest = messages
    if start["status"] < 400:
        return messages
    try:
        content = json.loads(b"".join(message.get("body", b"") for message in rest))
    except ValueError:
        return messages
    if not isinstance(content, dict) or content.get("detail"):
        return messages
    body = json.dumps({"detail": _words(start["status"], content), **content}).encode()
    kept = [pair for pair in start["headers"] if pair[0] != b"content-length"]
    headers = [*kept, (b"content-length", str(len(body)).encode())]
    return [{**start, "headers": headers}, {"type": "http.response.body", "body": body}]


def _words(status: int, content: dict[str, Any]) -> str:
    """Return what an answer of Prefect's says, in the words that it has under other names."""
    if status == BUSY:
        return AGAIN
    faults = content.get("exception_detail")
    if isinstance(faults, list) and faults:
        first = faults[0]
        place = ".".join(map(str, first.get("loc", ())))
        return f"{place}: {first.get('msg', 'is not valid')}"
    return str(content.get("exception_message") or f"Prefect answered HTTP {status}.")
