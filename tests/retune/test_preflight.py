"""`retune doctor`'s checks: what is wrong is found, and comes with its fix."""

import base64
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from retune import access, preflight
from retune.home import make_home
from retune.llamacpp import LlamaCpp, LlamaCppNotFound
from retune.preflight import check_disk, check_packages, checks

Program = Callable[[str, str], None]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Put shell scripts, by name, on a PATH that holds nothing else."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CXX", raising=False)

    def make(name: str, script: str) -> None:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return make


def test_every_check_is_there_and_each_problem_has_its_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path))
    found = checks()
    assert [check.name for check in found] == [
        "Python",
        "packages",
        "GPU",
        "memory",
        "work folder",
        "home folder",
        "tool cache",
        "llama.cpp",
        "C++ compiler",
        "Hub token",
        "store",
        "sign-in",
        "other users",
        "Prefect",
        "MLflow",
    ]
    assert all(check.state for check in found)
    assert all(check.fix for check in found if check.ok is False)


def test_it_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path / "new" / "home"))
    checks()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("version", "ok"), [((3, 10), False), ((3, 11), True), ((3, 12), True), ((3, 13), False)]
)
def test_python(version: tuple[int, int], ok: bool) -> None:
    check = preflight.check_python(version)
    assert check.ok is ok
    assert sys.executable in check.state


class TestPackages:
    def test_all_there(self) -> None:
        assert check_packages(["prefect", "fastapi<0.151", 'nowhere; extra == "gpu"']).ok

    def test_a_missing_one_is_named(self) -> None:
        check = check_packages(["prefect", "nowhere-to-be-found>=2"])
        assert (check.ok, check.state) == (False, "missing: nowhere-to-be-found")
        assert "make env" in check.fix

    def test_one_that_drifted_is_named_with_what_is_needed(self) -> None:
        check = check_packages(["pytest<1"])
        assert check.ok is False
        assert check.state == f"pytest {pytest.__version__} where <1 is needed"

    def test_the_project_itself_is_not_installed(self) -> None:
        assert check_packages([]).state == "retune itself is not installed"


class TestGpu:
    ONE = 'echo "NVIDIA H200, 143771 MiB, 570.86.15"'

    def test_none_is_a_note(self, program: Program) -> None:
        check = preflight.check_gpu("2.13.0+cpu")
        assert check.ok is None
        assert "CPU" in check.state

    def test_one(self, program: Program) -> None:
        program("nvidia-smi", self.ONE)
        check = preflight.check_gpu("2.13.0+cu130")
        assert (check.ok, check.state) == (True, "NVIDIA H200, 143771 MiB, 570.86.15")

    def test_a_torch_that_cannot_use_it(self, program: Program) -> None:
        program("nvidia-smi", self.ONE)
        check = preflight.check_gpu("2.13.0+cpu")
        assert check.ok is False
        assert "CUDA build" in check.fix

    def test_a_broken_driver(self, program: Program) -> None:
        program("nvidia-smi", "echo Driver/library version mismatch; exit 18")
        check = preflight.check_gpu("2.13.0+cu130")
        assert (check.ok, check.state) == (False, "Driver/library version mismatch")


class TestDisk:
    def test_plenty(self, tmp_path: Path) -> None:
        assert check_disk("disk", tmp_path / "not" / "yet", "RETUNE_HOME", 0.001).ok

    def test_too_little_for_a_large_model_is_a_note(self, tmp_path: Path) -> None:
        check = check_disk("disk", tmp_path, "RETUNE_HOME", 1_000_000)
        assert check.ok is None
        assert "set RETUNE_HOME" in check.fix

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_not_writable(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        assert check_disk("disk", tmp_path / "home", "RETUNE_HOME", 1).ok is False


def test_little_memory_is_a_note() -> None:
    assert preflight.check_memory(64).ok is True
    assert preflight.check_memory(8).ok is None


class TestLlamaCpp:
    def test_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(preflight, "locate", lambda: LlamaCpp(Path("/opt/llama"), "0.94.0"))
        assert preflight.check_llamacpp().state == "0.94.0, /opt/llama"

    def test_not_found(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv("RETUNE_LLAMACPP", raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        check = preflight.check_llamacpp()
        assert check.ok is False
        assert "is not installed" in check.state
        assert check.fix.startswith("Run `make llamacpp`")

    def test_a_wrong_folder_was_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RETUNE_LLAMACPP", "/nowhere")
        with pytest.raises(LlamaCppNotFound):
            preflight.locate()
        check = preflight.check_llamacpp()
        assert "/nowhere" in check.state
        assert "unset it" in check.fix


def test_compiler(program: Program) -> None:
    check = preflight.check_compiler()
    assert check.ok is None
    assert check.fix == (
        "Install a C++ compiler (Debian: `apt-get install g++`), or set merging.save_method=lora (then"
        " there are no GGUF files)."
    )
    program("g++", "true")
    assert preflight.check_compiler().state.endswith("/g++")


def test_the_token_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert preflight.check_token().ok is None
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    check = preflight.check_token()
    assert check.ok
    assert "canary" not in repr(check)


class TestServers:
    def test_without_servers_the_local_defaults_are_named(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.delenv("PREFECT_API_URL", raising=False)
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        monkeypatch.setenv("RETUNE_HOME", str(tmp_path))
        assert preflight.check_prefect().ok
        assert preflight.check_mlflow().state == f"sqlite:///{tmp_path}/mlflow.db"

    def test_a_server_that_is_down(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{unused.getsockname()[1]}/api"
            monkeypatch.setenv("PREFECT_API_URL", url)
            check = preflight.check_prefect()
        assert check.ok is False
        assert f"{url} does not answer" in check.state
        assert "unset PREFECT_API_URL" in check.fix

    def test_a_server_that_hangs_does_not_hold_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}"
            monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
            check = preflight.check_mlflow()
            assert check.ok is False
            assert "timed out" in check.state

    def test_passwords_are_not_shown(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@db/mlflow")
        assert preflight.check_mlflow().state == "postgresql://db/mlflow"


class TestSignIn:
    """A Prefect server that asks for a sign-in, or does not, as `doctor` sees it."""

    @pytest.fixture
    def server(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        wanted = self.wanted = ["me:canary"]

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                tokens = [base64.b64encode(one.encode()).decode() for one in wanted]
                own = self.headers.get("Authorization") in [f"Basic {token}" for token in tokens]
                is_open = self.path == "/api/health" or not wanted
                self.send_response(200 if own or is_open else 401)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever).start()
            url = f"http://127.0.0.1:{server.server_address[1]}/api"
            monkeypatch.setenv("PREFECT_API_URL", url)
            monkeypatch.delenv("PREFECT_API_AUTH_STRING", raising=False)
            yield url
            server.shutdown()

    def test_right_wrong_and_none(self, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
        without = preflight.check_prefect()
        assert without.ok is False
        assert "asks for a sign-in" in without.state
        assert "PREFECT_API_AUTH_STRING" in without.fix
        monkeypatch.setenv("PREFECT_API_AUTH_STRING", "me:canary-of-yesterday")
        wrong = preflight.check_prefect()
        assert wrong.ok is False
        assert "does not take PREFECT_API_AUTH_STRING" in wrong.state
        monkeypatch.setenv("PREFECT_API_AUTH_STRING", "me:canary")
        right = preflight.check_prefect()
        assert right.ok
        assert "canary" not in repr([without, wrong, right])

    def test_a_server_that_is_open_to_all_is_noted(self, server: str) -> None:
        self.wanted.clear()
        check = preflight.check_prefect()
        assert check.ok is None
        assert "asks for no sign-in" in check.state
        assert "PREFECT_SERVER_API_AUTH_STRING" in check.fix

    def test_the_file_is_looked_at_and_not_shown(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("RETUNE_HOME", str(tmp_path))
        assert preflight.check_sign_in().ok
        assert not any(tmp_path.iterdir())  # looking makes none
        password = access.sign_in().partition(":")[2]
        check = preflight.check_sign_in()
        assert check.ok
        assert password not in repr(check)
        access.sign_in_file().chmod(0o640)
        check = preflight.check_sign_in()
        assert check.ok is False
        assert "mode 640" in check.state
        assert password not in repr(check)

    def test_a_sign_in_that_others_can_read_is_told_and_not_replaced(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """A running server still takes it."""
        monkeypatch.setenv("RETUNE_HOME", str(tmp_path))
        monkeypatch.delenv("PREFECT_API_URL", raising=False)
        monkeypatch.setattr(preflight, "ui_server", lambda: "http://127.0.0.1:1/api")
        secret = access.sign_in()
        access.sign_in_file().chmod(0o644)
        preflight.check_prefect()
        assert access.sign_in_file().read_text().strip() == secret

    def test_beside_other_users_mlflow_needs_a_package(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert preflight.check_other_users([]).ok
        monkeypatch.setattr(preflight, "find_spec", lambda name: None)
        check = preflight.check_other_users(["ann", "bob"])
        assert check.ok is False
        assert "ann, bob" in check.state
        assert "install flask-wtf" in check.fix


class TestPrivacy:
    """Who may read the home folder is said, with the command that changes it."""

    @pytest.fixture
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        folder = tmp_path / "my home"
        monkeypatch.setenv("RETUNE_HOME", str(folder))
        return folder

    def test_none_yet_is_fine(self, home: Path) -> None:
        assert preflight.check_privacy().ok
        assert not home.exists()

    def test_one_made_by_retune_is_fine(self, home: Path) -> None:
        make_home()
        check = preflight.check_privacy()
        assert (check.ok, check.state) == (True, f"{home}, for you alone (mode 700)")

    @pytest.mark.parametrize("mode", [0o755, 0o750, 0o711, 0o702])
    def test_an_open_one_is_told_and_the_fix_mends_it(self, home: Path, mode: int) -> None:
        home.mkdir()
        home.chmod(mode)
        check = preflight.check_privacy()
        assert check.ok is None
        assert f"is open to other users (mode {mode:03o})" in check.state
        command = check.fix.split("`")[1]
        assert subprocess.run(command, shell=True, check=True)
        assert preflight.check_privacy().ok

    @pytest.mark.parametrize("place", ["me", "me/.."])
    def test_the_users_own_is_a_problem(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
    ) -> None:
        (tmp_path / "me").mkdir()
        monkeypatch.setenv("HOME", str(tmp_path / "me"))
        monkeypatch.setenv("RETUNE_HOME", str(tmp_path / place))
        check = preflight.check_privacy()
        assert check.ok is False
        assert check.fix.startswith("Name a folder for them alone")


def test_a_store_that_cannot_be_used_is_named_with_the_fix(monkeypatch):
    monkeypatch.delenv("RETUNE_STORE", raising=False)
    assert preflight.check_store().ok is None
    monkeypatch.setenv("RETUNE_STORE", "ftp://example.org")
    found = preflight.check_store()
    assert found.ok is False
    assert found.fix.startswith("write s3://bucket/prefix")
