"""MLflow's apps for `retune ui`, open to their own pages alone.

MLflow answers pages of every port of this machine's loopback, the browser's sign-in included, and
has no setting against it (`LOCALHOST_ORIGIN_PATTERNS` in its `security_utils.py`). So whatever
another page asks is refused before MLflow sees it. `mlflow server --app-name` finds the two here
as entry points of the group `mlflow.app`, by way of `flows.installed`.
"""

from typing import TYPE_CHECKING

from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp, Receive, Scope, Send


class OwnOrigins:
    """Answers 403 to a request with an `Origin` that is not among `allowed`."""

    def __init__(self, app: "ASGIApp", allowed: list[str]) -> None:
        self.app = app
        self.allowed = allowed

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        answer = self.app
        if any(origin not in self.allowed for origin in _origins(scope)):
            answer = PlainTextResponse("A page of another origin asked.", status_code=403)
        await answer(scope, receive, send)


def create_app() -> "FastAPI":
    """Return MLflow's app without a sign-in."""
    from mlflow.server.fastapi_app import app

    return _guarded(app)


def create_app_with_sign_in() -> "FastAPI":
    """Return MLflow's app that asks for a sign-in, by the file at `MLFLOW_AUTH_CONFIG_PATH`."""
    from mlflow.server.auth import create_app

    return _guarded(create_app())


def _guarded(app: "FastAPI") -> "FastAPI":
    from mlflow.server.fastapi_security import get_allowed_origins

    app.add_middleware(OwnOrigins, allowed=get_allowed_origins())
    return app


def _origins(scope: "Scope") -> list[str]:
    """Return what the `Origin` headers of a request say; none for other events (lifespan)."""
    headers = scope.get("headers", ())
    return [value.decode("latin-1") for name, value in headers if name == b"origin"]
