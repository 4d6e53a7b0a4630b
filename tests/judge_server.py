"""A server on loopback that speaks as much of OpenAI's protocol as a judge needs."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = str | bytes | tuple[int, dict[str, str], bytes]  # the text; a whole body; a whole response


@dataclass
class JudgeServer:
    """Replies as `behave` says to the body of each request; keeps what it was sent."""

    behave: Callable[[dict[str, Any]], Reply]
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


def said(verdict: str) -> str:
    return json.dumps({"reason": "so it seems", "verdict": verdict})


def parts(body: dict[str, Any]) -> dict[str, str]:
    """Return what stands between fences in a request, by its title."""
    text = body["messages"][1]["content"]
    found = re.findall(r"(?m)^([A-Z][a-z ]+):\n<<<BEGIN (\w+)>>>\n(.*?)\n<<<END \2>>>", text, re.S)
    return {title: inner for title, _, inner in found}


def longer(body: dict[str, Any]) -> str:
    """Prefer the longer answer, of two that are as long neither."""
    sent = parts(body)
    first, second = len(sent["First answer"]), len(sent["Second answer"])
    return said("tie" if first == second else "first" if first > second else "second")


@contextmanager
def judge_server(behave: Callable[[dict[str, Any]], Reply]) -> Iterator[JudgeServer]:
    judge = JudgeServer(behave)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/v1/chat/completions"
            judge.bodies.append(body)
            judge.headers.append(dict(self.headers))
            reply = judge.behave(body)
            status, headers, content = reply if isinstance(reply, tuple) else (200, {}, reply)
            if isinstance(content, str):
                message = {"role": "assistant", "content": content}
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                content = json.dumps({"choices": [choice]}).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with suppress(OSError):  # whoever asked has heard enough
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    judge.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield judge
    finally:
        server.shutdown()
        server.server_close()
