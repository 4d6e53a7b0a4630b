"""Webhooks: what a receiver gets, where nothing is posted, and that failures are only told."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from retune import webhooks

NEWS = {"text": "sums: promoted", "version": 3}


@pytest.fixture
def receiver():
    """A server on the loopback that keeps what it is posted; below /broken it fails."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.received.append((self.path, self.headers["Content-Type"], json.loads(body)))
            status = {"/broken": 500, "/moved": 302}.get(self.path, 204)
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "http://169.254.169.254/latest")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.received = []
    server.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def no_secret(name: str) -> str:
    raise webhooks.WebhookRefused(f"no secret {name}")


def test_everybody_is_told_in_json(receiver):
    hooks = [f"{receiver.address}/one?token=x", "team"]
    said = webhooks.post_all(hooks, NEWS, {"team": f"{receiver.address}/two"}.__getitem__)
    assert said == []
    assert receiver.received == [
        ("/one?token=x", "application/json", NEWS),
        ("/two", "application/json", NEWS),
    ]


def test_a_failure_is_told_without_the_address_and_keeps_nobody_from_the_news(receiver):
    hooks = [f"{receiver.address}/broken", f"{receiver.address}/moved", "team", "http://[::1"]
    hooks += ["http://127.0.0.1:9/secret-path", f"{receiver.address}/fine"]
    said = webhooks.post_all(hooks, NEWS, no_secret)
    assert len(said) == 5
    assert "answered 500" in said[0]
    assert "answered 302" in said[1]  # a redirect is not followed
    assert "secret 'team'" in said[2]
    assert "ConnectError" in said[4]
    assert not any("path" in sentence for sentence in said)
    assert [path for path, _, _ in receiver.received] == ["/broken", "/moved", "/fine"]


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://169.254.169.254/latest/meta-data", "link-local"),
        ("https://[fe80::1]/", "link-local"),
        ("http://[::ffff:169.254.169.254]/", "link-local"),
        ("http://100.100.100.200/", "link-local"),
        ("http://[fd00:ec2::254]/", "link-local"),
        ("http://2852039166/", "link-local"),  # the first as one number
        ("http://93.184.216.34/", "unencrypted"),
        ("ftp://example.org/", "no http or https"),
        ("https://", "no http or https"),
    ],
)
def test_where_nothing_is_posted(address, words):
    with pytest.raises(webhooks.WebhookRefused, match=words):
        webhooks.require_allowed(address)


@pytest.mark.parametrize(
    "address",
    [
        "https://93.184.216.34/hook",
        "http://127.0.0.1:8080/",
        "http://10.0.0.7/hook",
        "http://[::1]/",
    ],
)
def test_where_news_may_go(address):
    webhooks.require_allowed(address)
