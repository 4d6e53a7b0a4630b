"""What Prefect's pages get for an answer when its server cannot do what they ask."""

import sqlite3

import pytest
import sqlalchemy
from fastapi import FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from fastapi.testclient import TestClient
from prefect.server.api.server import (
    custom_internal_exception_handler,
    validation_exception_handler,
)

from flows import prefect_pages
from flows.prefect_pages import AGAIN, PAUSES, ClearAnswers

PAGE = {"Origin": "http://127.0.0.1:4200"}


def busy() -> Exception:
    """Return what SQLAlchemy raises where SQLite's database is locked."""
    cause = sqlite3.OperationalError("database is locked")
    return sqlalchemy.exc.OperationalError("INSERT", {}, cause)


@pytest.fixture
def asked(monkeypatch):
    """Return a client of a server that answers as Prefect's does, mounted as its API is; and how often
    a run was asked for, and how often the database is still busy."""
    monkeypatch.setattr(prefect_pages, "PAUSES", (0,) * len(PAUSES))
    told = {"asked": 0, "busy": 0}
    handlers = {
        Exception: custom_internal_exception_handler,
        RequestValidationError: validation_exception_handler,
    }
    api = FastAPI(exception_handlers=handlers)

    @api.post("/runs")
    def make(name: str, body: dict) -> dict:
        told["asked"] += 1
        if told["asked"] <= told["busy"]:
            raise busy()
        if name == "bad":
            raise HTTPException(409, detail="Validation failed for field 'dataset.split'.")
        return body

    app = FastAPI()
    app.mount("/api", api)
    app.add_middleware(ClearAnswers)
    return TestClient(app, raise_server_exceptions=False), told


def test_a_page_is_not_told_that_the_database_was_busy_for_a_moment(asked):
    client, told = asked
    told["busy"] = 2
    answer = client.post("/api/runs?name=x", json={"a": 1}, headers=PAGE)
    assert (answer.status_code, answer.json(), told["asked"]) == (200, {"a": 1}, 3)


def test_a_database_that_stays_busy_is_told_in_words(asked):
    client, told = asked
    told["busy"] = 99
    answer = client.post("/api/runs?name=x", json={}, headers=PAGE)
    assert (answer.status_code, answer.json()["detail"]) == (503, AGAIN)
    assert told["asked"] == len(PAUSES) + 1


def test_prefects_own_clients_are_answered_at_once(asked):
    client, told = asked
    told["busy"] = 1
    answer = client.post("/api/runs?name=x", json={})
    assert (answer.status_code, told["asked"]) == (503, 1)
    assert "detail" not in answer.json()


def test_a_page_is_told_what_was_wrong(asked):
    client, told = asked
    answer = client.post("/api/runs", json={}, headers=PAGE)
    assert (answer.status_code, answer.json()["detail"]) == (422, "query.name: Field required")
    answer = client.post("/api/runs?name=bad", json={}, headers=PAGE)
    assert answer.json() == {"detail": "Validation failed for field 'dataset.split'."}
    assert told["asked"] == 1
