"""Sources that are addresses (`https://…`, `s3://…`): which there may be, and none with a secret.

A recipe is kept in MLflow, printed and published: a password in an address would be, too.
"""

import ipaddress
import re
from urllib.parse import parse_qsl, urlsplit

# By scheme, what fsspec reads it with, which is installed by its name; nothing else is needed for http.
SCHEMES = {
    **dict.fromkeys(("https", "http"), ""),
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("az", "abfs", "abfss"), "adlfs"),
}
_ABOUT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# Of a query: what signs an address, or lets its bearer in.
_SECRET = re.compile(
    r"x-(amz|goog)-.*|sig|.*signature|.*token.*|.*secret.*|.*passw.*|.*credential.*|.*api_?key|key"
    r"|awsaccesskeyid|expires|auth|.*authori[sz]ation.*|code|jwt|pwd|.*session.*",
    re.IGNORECASE,
)


def is_address(source: str) -> bool:
    """Say whether a source begins as an address does; a path may hold one further on."""
    return bool(_ABOUT.match(source))


def require_address(source: str) -> str:
    """Return a source as it is. Raises ValueError for an address that is not read, or has a secret."""
    if not is_address(source):
        return source
    scheme = source.partition("://")[0]
    if scheme == "hf":
        raise ValueError("names a Hub dataset; give its id alone, such as org/name")
    if scheme == "file":
        raise ValueError("names a file; give its path alone")
    try:
        url = urlsplit(source)
        host, _ = url.hostname, url.port
    except ValueError:
        url, host = None, None
    if scheme not in SCHEMES or url is None or "::" in url.path:
        raise ValueError(f"is no address that is read; use one of {', '.join(SCHEMES)}")
    if not host:
        raise ValueError("names no host; correct the address")
    if url.scheme == "http" and not is_loopback(host):
        raise ValueError("would come unencrypted; use https")
    if url.username is not None and url.scheme != "abfs" and url.scheme != "abfss":
        raise ValueError("holds a user's name; put the login into ~/.netrc, and leave it out here")
    if url.password is not None:
        raise ValueError("holds a password; leave it out here")
    if names := [name for name, _ in parse_qsl(url.query) if _SECRET.fullmatch(name)]:
        raise ValueError(
            f"is signed ({names[0]}), which would be kept with the recipe and expires; use s3:// or "
            f"gs:// and this machine's credentials, or ~/.netrc"
        )
    return source


def is_loopback(host: str) -> bool:
    """Say whether a host is this machine, which no network lies before."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def without_secrets(text: str) -> str:
    """Return a text in which no address shows a user, a password or a query."""
    text = re.sub(r"://[^/\s@'\"]*@", "://***@", text)
    return re.sub(r"(://[^\s?#'\"]*)\?[^\s'\"]*", r"\1?***", text)
