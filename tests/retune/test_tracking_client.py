"""MLflow that does not answer: one sentence, after one wait."""

import logging
import os
import socket

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from retune.disk_space import NoSpaceLeft
from retune.tracking_client import RETRIES, PatientClient, TrackingUnreachable


@pytest.fixture
def nobody(monkeypatch) -> str:
    """The address of a server that is not there, and one retry."""
    monkeypatch.setenv(RETRIES, "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_a_server_that_is_away_is_one_sentence_and_the_next_call_does_not_wait(nobody):
    client = PatientClient(MlflowClient(nobody))
    for _ in range(2):
        with pytest.raises(TrackingUnreachable) as caught:
            client.get_run("abc")
        assert os.environ[RETRIES] == "0"  # once waited for, it is asked once
    words = str(caught.value)
    assert nobody in words
    assert "Nothing that was made is lost" in words
    assert len(words) < 400
    assert "\n" not in words


def test_a_server_that_answers_again_is_waited_for_again(nobody, tmp_path):
    client = PatientClient(MlflowClient(nobody))
    with pytest.raises(TrackingUnreachable):
        client.get_run("abc")
    client._client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert client.search_experiments()
    assert os.environ[RETRIES] == "1"


def test_what_mlflow_refuses_stays_what_it_is(tmp_path):
    with pytest.raises(MlflowException, match="not found"):
        PatientClient(MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")).get_run("abc")


class Full:
    tracking_uri = "sqlite:///x"

    def log_batch(self, what: str = "database or disk is full") -> None:
        error = MlflowException(f"(sqlite3.OperationalError) {what} [SQL: …]")
        logging.getLogger("mlflow.store.db.utils").error("caught", exc_info=error)  # as MLflow does
        raise error


def test_a_full_disk_is_called_that_and_nothing_else(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path))
    monkeypatch.setattr(logging.getLogger("mlflow"), "propagate", True)
    with pytest.raises(NoSpaceLeft, match=r"^no space left in"):
        PatientClient(Full()).log_batch()
    assert caplog.records == []
    with pytest.raises(MlflowException, match="malformed"):
        PatientClient(Full()).log_batch("malformed")
    assert {record.message for record in caplog.records} == {"caught"}
