"""The way to the Hub: who may write where, what is worth a retry, errors that say what to do."""

import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from retune.errors import RetuneError
from retune.recipe import Publishing, Recipe

if TYPE_CHECKING:
    import httpx
    from huggingface_hub import HfApi
    from tenacity import RetryCallState

SUFFIXES = {"adapter": "-lora", "merged": "", "merged_4bit": "-bnb-4bit", "gguf": "-GGUF"}
ATTEMPTS = 5
LONGEST_WAIT = 300  # seconds; the Hub's rate limits reset within this window
SILENCE = 120  # seconds without a byte after which a connection counts as lost

Reply = TypeVar("Reply")
_backoff = wait_exponential_jitter(initial=1, exp_base=2, jitter=1)  # 1, 2, 4, 8 seconds and a bit
_log = logging.getLogger(__name__)


class PublishError(RetuneError):
    """Publishing failed; the message says where and what to change. Never carries the token."""


class NoAccess(PublishError):
    """The Hub knows no such user, or does not let the user do this: retrying is pointless."""


class HubUnavailable(PublishError, ConnectionError):
    """The Hub could not be reached or did not answer properly, also after retries."""


class UploadNotVerified(PublishError):
    """What the Hub holds is not what was uploaded."""


def repositories(recipe: Recipe) -> dict[str, str]:
    """Return the Hub repository of each artifact that is published."""
    repo = recipe.publishing.repo
    return {artifact: f"{repo}{SUFFIXES[artifact]}" for artifact in recipe.artifacts}


def hub(publishing: Publishing, secret: Callable[[str], str]) -> "HfApi":
    """Return the Hub, signed in as the recipe says; `secret` gives a secret by its name.

    Raises NoAccess.
    """
    from huggingface_hub import get_token

    if publishing.token_secret:
        return connect(secret(publishing.token_secret))
    if not get_token():
        raise NoAccess("no Hugging Face token: set HF_TOKEN or run `hf auth login`")
    return connect()


def connect(token: str | None = None) -> "HfApi":
    """Return the Hub, with the environment's token unless one is given. Raises NoAccess.

    From then on requests of huggingface_hub time out: by itself it waits for an answer for ever.
    """
    from huggingface_hub import HfApi, get_token, set_client_factory

    token = token or get_token() or ""
    # The HTTP library would complain too, but quotes the token when it does.
    if not (token.isascii() and token.isprintable()):
        raise NoAccess("the Hugging Face token has a character that no token has: copy it anew")
    set_client_factory(_client_that_times_out)
    return HfApi(token=token or None, library_name="retune")


def _client_that_times_out() -> "httpx.Client":
    from huggingface_hub.utils._http import default_client_factory

    def limit(request: "httpx.Request") -> None:
        request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), SILENCE)

    client = default_client_factory()
    # Not client.timeout: some of the library's calls pass a timeout of None.
    client.event_hooks["request"].append(limit)
    return client


def require_access(recipe: Recipe, api: "HfApi") -> None:
    """Find out, before GPU time is spent, whether the Hub would allow publishing.

    Checks the token, its right to write below the namespace, and that no repository that should be
    private is public. Raises NoAccess, HubUnavailable, or PublishError for a public repository.
    """
    publishing = recipe.publishing
    assert publishing.repo, "the recipe guarantees a repository"
    with explained(publishing.repo):
        user = patiently(api.whoami)
        namespace = publishing.repo.partition("/")[0]
        targets = repositories(recipe)
        if not (_may_write(user, namespace) or all(_may_write(user, r) for r in targets.values())):
            raise NoAccess(
                f"the token of {user['name']!r} may not write to {publishing.repo}: publish below "
                f"your own name or an organisation that you write to, with a token that has write "
                f"permission for {namespace} (https://huggingface.co/settings/tokens)"
            )
        for repo in targets.values():
            if patiently(partial(api.repo_exists, repo)):
                check_visibility(api, repo, publishing.private)


def check_visibility(api: "HfApi", repo: str, private: bool) -> None:
    """Raise PublishError when the recipe says private and the existing repository is public."""
    if private and not patiently(lambda: api.model_info(repo)).private:
        raise PublishError(
            f"publishing.private is true but {repo} is public: make it private in its settings, "
            f"or set publishing.private to false"
        )


def patiently(request: Callable[[], Reply]) -> Reply:
    """Return `request()`, tried again after what passes by itself: 5xx, 429, a dropped connection.

    Waits as long as Retry-After says (up to LONGEST_WAIT), else 1, 2, 4, 8 seconds, each with up to
    one more, since several uploads fail at once; the last error is raised. huggingface_hub itself
    retries the requests that carry files, as hf_xet does all of its own, and no other.
    """
    retrying = Retrying(
        retry=retry_if_exception(_is_worth_another_attempt),
        stop=stop_after_attempt(ATTEMPTS),
        wait=_wait,
        before_sleep=_log_wait,
        reraise=True,
    )
    return retrying(request)


@contextmanager
def explained(repo: str) -> Iterator[None]:
    """Turn errors of the Hub's client into PublishErrors about `repo`.

    The originals do not leave: they hold the request, its headers and so the token, and Prefect
    stores the exceptions of tasks.
    """
    import httpx
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except PublishError:
        raise
    # The client wraps some of its errors in RuntimeError (uploads) and ValueError (unexpected answers).
    except (HfHubHTTPError, httpx.HTTPError, RuntimeError, ValueError) as error:
        raise _explanation(repo, error) from None
    except OSError as error:
        if not _is_of_xet(error):
            raise
        raise _explanation(repo, error) from None


def _explanation(repo: str, error: BaseException) -> PublishError:
    cause = _hub_error(error)
    status = _status(cause)
    if _is_transient(cause):
        return HubUnavailable(
            f"the Hub did not take {repo} ({_outline(cause)}): check the network and "
            f"https://status.huggingface.co, then run again; files that arrived are not sent twice"
        )
    if status == 401:
        return NoAccess(
            f"the Hub does not accept the token for {repo} (401): make one with write permission "
            f"at https://huggingface.co/settings/tokens, then set HF_TOKEN, run `hf auth login`, or "
            f"put it in the Prefect secret that publishing.token_secret names"
        )
    if status == 403:
        return NoAccess(
            f"the token may not write to {repo} (403): give it write permission for "
            f"{repo.partition('/')[0]} at https://huggingface.co/settings/tokens"
        )
    if status in (409, 412):
        return PublishError(f"{repo} got another commit during the upload ({status}); run again")
    return PublishError(f"{repo} was not published: {_without_token(cause)}")


def _without_token(error: BaseException) -> str:
    """Return the error's text on one line, without the signatures in addresses of the storage.

    A server may send back anything that it was sent.
    """
    text = re.sub(r"\?\S+", "", " ".join(str(error).split()))
    response = getattr(error, "response", None)
    sign_in = response.request.headers.get("Authorization", "") if response is not None else ""
    return text.replace(sign_in.removeprefix("Bearer "), "…") if sign_in else text


def _hub_error(error: BaseException) -> BaseException:
    """Return the HTTP error at the root of `error`, or `error`."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, HfHubHTTPError | httpx.HTTPError):
            return cause
        cause = cause.__cause__
    return error


def _is_transient(error: BaseException) -> bool:
    import httpx

    status = _status(error)
    if status is not None:
        # Addresses of the storage are good for minutes: if one has expired, the Hub gives a new one.
        return status in (408, 429) or status >= 500 or (status == 403 and _is_of_storage(error))
    dropped = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError)
    # JSONDecodeError: a gateway's page instead of JSON.
    return isinstance(error, (*dropped, json.JSONDecodeError)) or _is_of_xet(error)


def _is_worth_another_attempt(error: BaseException) -> bool:
    cause = _hub_error(error)
    return _is_transient(cause) and not _is_of_xet(cause)


def _is_of_xet(error: BaseException) -> bool:
    """Tell whether hf_xet raised it, which sends large files and uses Python's own exceptions."""
    return isinstance(error, ConnectionError | TimeoutError) or type(error).__module__ == "hf_xet"


def _is_of_storage(error: Any) -> bool:
    """Tell whether another host than the Hub answered: the one that the Hub sends large files to."""
    from huggingface_hub import constants

    response = getattr(error, "response", None)
    address = str(error) if response is None else str(response.url)
    return f"{constants.ENDPOINT}/" not in address


def _status(error: BaseException) -> int | None:
    """Return the HTTP status of an answer, None if there was none."""
    response = getattr(error, "response", None)
    if response is not None:
        return response.status_code
    if type(error).__name__ == "XetAuthenticationError":
        return 401
    match = _is_of_xet(error) and re.search(r"\bHTTP status \w+ error \((\d{3})\b", str(error))
    return int(match[1]) if match else None


def _wait(state: "RetryCallState") -> float:
    """Return the seconds before the next attempt."""
    error: Any = _failure(state)
    headers = error.response.headers if getattr(error, "response", None) is not None else {}
    retry_after = headers.get("Retry-After", "")
    return min(int(retry_after), LONGEST_WAIT) if retry_after.isdecimal() else _backoff(state)


def _log_wait(state: "RetryCallState") -> None:
    cause = _outline(_failure(state))
    _log.warning("the Hub did not answer (%s); again in %.1f s", cause, state.upcoming_sleep)


def _failure(state: "RetryCallState") -> BaseException:
    """Return the HTTP error that ended an attempt."""
    assert state.outcome is not None
    error = state.outcome.exception()
    assert error is not None
    return _hub_error(error)


def _outline(error: BaseException) -> str:
    """Say what happened in a word or two, without what the exception holds."""
    return f"HTTP {_status(error)}" if _status(error) else type(error).__name__


def _may_write(user: dict[str, Any], target: str) -> bool:
    """Tell whether the signed-in user may write to `target`: a namespace, or one repository."""
    token = user.get("auth", {}).get("accessToken", {})
    if token.get("role") == "read":
        return False
    if token.get("role") == "fineGrained":
        scopes = token.get("fineGrained", {}).get("scoped", [])
        return any(
            scope["entity"].get("name") == target and "repo.write" in scope["permissions"]
            for scope in scopes
        )
    roles = {org["name"]: org.get("roleInOrg") for org in user.get("orgs", [])}
    return target == user["name"] or roles.get(target, "read") != "read"
