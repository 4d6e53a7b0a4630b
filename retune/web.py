"""A file from a web server: over https, and no further than a recipe's address leads to.

Redirects are followed by hand: to https alone, and from a public server to no private one.
"""

import ipaddress
import json
import re
import socket
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import httpx

from retune.confined import alive
from retune.recipe.address import is_loopback, without_secrets
from retune.sources import SourceError
from retune.writing import Limited

_HOPS = 10
_TIMEOUT = httpx.Timeout(30.0)
_PIECE = 1 << 20
_UNSAFE = re.compile(r"[^\w.+-]")
_CONDITIONS = {"etag": "If-None-Match", "last-modified": "If-Modified-Since"}


def copy(address: str, folder: Path | None, limit: int, former: str | None) -> dict[str, Any]:
    """Copy a file into `folder`. Returns `tag`, by which the server can tell whether it has changed, or
    `unchanged` if it still is `former`. Without a folder the file is asked for, and nothing of it read.

    Raises SourceError for what cannot be had, ConnectionError when the server does not answer.
    """
    with httpx.Client(follow_redirects=False, timeout=_TIMEOUT) as client:
        try:
            return _copy(client, address, folder, limit, former)
        except httpx.TransportError as error:
            raise ConnectionError(
                f"dataset.source: no answer from {_host(address)} ({type(error).__name__}); check the "
                f"network and the address"
            ) from None


def _copy(
    client: httpx.Client, address: str, folder: Path | None, limit: int, former: str | None
) -> dict[str, Any]:
    url = address
    # Packed for the way, a file would not be what was hashed elsewhere.
    headers = {"Accept-Encoding": "identity", **(json.loads(former) if former else {})}
    for _ in range(_HOPS):
        try:
            # Not HEAD, also where nothing is copied: not every server answers it, or as it answers GET.
            request = client.build_request("GET", url, headers=headers)
        except (ValueError, httpx.InvalidURL):
            raise _refused(address, "it, or what it leads to, is no address") from None
        response = client.send(request, stream=True, auth=_login())
        try:
            if response.has_redirect_location:
                url = _next(address, url, response.headers["location"])
                continue
            if response.status_code == httpx.codes.NOT_MODIFIED and former:
                return {"unchanged": True}
            _require_file(response, address)
            if folder:
                _write(response, Limited(folder / _name(address), limit, address))
            return {"tag": _tag(response)}
        finally:
            response.close()
    raise _refused(address, f"it leads through more than {_HOPS} redirects")


def _write(response: httpx.Response, out: Limited) -> None:
    with out:
        for piece in response.iter_raw(_PIECE):
            alive()
            out.write(piece)


def _login() -> httpx.Auth | None:
    """Return the logins that the user keeps in ~/.netrc, each for its host alone."""
    try:
        return httpx.NetRCAuth()
    except (OSError, SyntaxError):  # there is none; NetrcParseError is a SyntaxError
        return None


def _next(address: str, url: str, location: str) -> str:
    """Return where a redirect leads to. Raises SourceError for where none may."""
    try:
        target = urljoin(url, location)
        parts = urlsplit(target)
        host, port = parts.hostname or "", parts.port or 443
    except ValueError:
        raise _refused(address, "it leads to what is no address") from None
    local = is_loopback(urlsplit(address).hostname or "")
    plain = parts.scheme == "http" and local and is_loopback(host)
    if parts.scheme != "https" and not plain:
        raise _refused(
            address, f"it leads to {without_secrets(target)[:100]}, and only https is followed"
        )
    if not local and host != urlsplit(address).hostname and _is_private(host, port):
        raise _refused(address, f"it leads to {host}, which is on a private network")
    return target


def _is_private(host: str, port: int) -> bool:
    try:
        found = socket.getaddrinfo(host, port, proto=socket.IPPROTO_TCP)
    except OSError:  # only a proxy may know the name
        return False
    return any(
        not ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_global for entry in found
    )


def _require_file(response: httpx.Response, address: str) -> None:
    status = response.status_code
    if status >= 500 or status in (408, 425, 429):
        raise ConnectionError(
            f"dataset.source: {_host(address)} answered {status} for {address}; try again later"
        )
    if status in (401, 403):
        raise _refused(address, f"the server answered {status}; put a login for it into ~/.netrc")
    if status != httpx.codes.OK:
        raise _refused(address, f"the server answered {status}; correct the address")
    if response.headers.get("content-type", "").startswith("text/html"):
        raise _refused(address, "it is a web page; name the file itself, as its `raw` link does")


def _tag(response: httpx.Response) -> str | None:
    """Return the headers that ask the server whether the file is still this one; None if it cannot
    tell. A weak ETag does not speak of bytes."""
    for name, condition in _CONDITIONS.items():
        value = response.headers.get(name, "")
        if value and not value.startswith("W/"):
            return json.dumps({condition: value})
    return None


def _name(address: str) -> str:
    name = unquote(urlsplit(address).path).rstrip("/").rpartition("/")[2]
    return _UNSAFE.sub("_", name).lstrip(".")[-100:] or "data"


def _host(address: str) -> str:
    return urlsplit(address).hostname or address


def _refused(address: str, reason: str) -> SourceError:
    return SourceError(f"dataset.source: {address} is not read: {reason}")
