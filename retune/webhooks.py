"""What is posted when another version serves; whoever does not answer never fails a run."""

import ipaddress
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx

from retune.errors import RetuneError
from retune.recipe.address import is_address, is_loopback, without_secrets

TIMEOUT = 10.0  # seconds
# Where clouds give out a machine's own credentials, beside link-local addresses.
METADATA = {ipaddress.ip_address(text) for text in ("100.100.100.200", "fd00:ec2::254")}


class WebhookRefused(RetuneError):
    """An address that nothing is posted to."""


def post_all(
    webhooks: Iterable[str], payload: Mapping[str, Any], secret: Callable[[str], str]
) -> list[str]:
    """Post `payload` as JSON to each webhook, and return a sentence for each that did not take it.

    A webhook is an address, or the name of a secret that `secret` gives, which holds one. Nothing of an
    address but its host is told, since it may let its bearer in.
    """
    failures = []
    for webhook in webhooks:
        try:
            post(webhook if is_address(webhook) else secret(webhook), payload)
        except (RetuneError, httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            failures.append(_sentence(webhook, error))
    return failures


def post(address: str, payload: Mapping[str, Any]) -> None:
    """Post to one address. Raises WebhookRefused for one that may not be, or an error of httpx."""
    require_allowed(address)
    # A redirect could lead where no address may.
    with httpx.Client(follow_redirects=False, timeout=TIMEOUT) as client:
        answer = client.post(address, json=dict(payload))
    if not answer.is_success:
        raise WebhookRefused(f"it answered {answer.status_code}")


def require_allowed(address: str) -> None:
    """Raise WebhookRefused unless an address is https, or http on this machine or in its network, and
    not one that clouds give credentials out at."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, parts, port = "", urlsplit(""), None
    if parts.scheme not in ("http", "https") or not host:
        raise WebhookRefused("it is no http or https address; correct it")
    places = _places(host, port or (443 if parts.scheme == "https" else 80))
    if any(place.is_link_local or place in METADATA for place in places):
        raise WebhookRefused("it is of the machine's own network (link-local); name another host")
    private = bool(places) and all(place.is_private or place.is_loopback for place in places)
    if parts.scheme == "http" and not (is_loopback(host) or private):
        raise WebhookRefused("it would be sent unencrypted; use https")


def _places(host: str, port: int) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    try:
        entries = socket.getaddrinfo(host, port, proto=socket.IPPROTO_TCP)
    except OSError:  # only a proxy may know the name
        return []
    places = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in entries]
    return [getattr(place, "ipv4_mapped", None) or place for place in places]


def _sentence(webhook: str, error: Exception) -> str:
    called = f"the secret {webhook!r}"
    if is_address(webhook):
        try:
            called = urlsplit(without_secrets(webhook)).hostname or "an address"
        except ValueError:
            called = "an address"
    reason = str(error) if isinstance(error, RetuneError) else type(error).__name__
    return f"promotion.webhooks: {called} did not take the news: {reason}"
