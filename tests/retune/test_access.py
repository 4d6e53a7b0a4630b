"""The sign-in of a home folder, who else is there, and whose server answers on a port."""

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from retune import access, processes


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


class TestSignIn:
    def test_it_is_made_once_for_a_home_and_nobody_else_reads_it(self, home: Path) -> None:
        before = os.umask(0)  # as careless as a user can be
        try:
            with ThreadPoolExecutor(8) as pool:
                made = set(pool.map(lambda _: access.sign_in(), range(40)))
        finally:
            os.umask(before)
        (only,) = made
        name, _, password = only.partition(":")
        assert name == "retune"
        assert len(password) >= 32
        assert access.sign_in_file().stat().st_mode & 0o777 == 0o600
        assert access.sign_in() == only

    @pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o777])
    def test_one_that_others_could_read_is_replaced(self, home: Path, mode: int) -> None:
        old = access.sign_in()
        access.sign_in_file().chmod(mode)
        assert access.sign_in() != old
        assert access.sign_in_file().stat().st_mode & 0o777 == 0o600

    def test_an_empty_one_is_not_a_password(self, home: Path) -> None:
        access.sign_in()
        access.sign_in_file().write_text("\n")
        with pytest.raises(PermissionError, match="remove it"):
            access.sign_in()

    def test_a_link_is_not_followed(self, home: Path, tmp_path: Path) -> None:
        (tmp_path / "theirs").write_text("retune:known")
        (tmp_path / "theirs").chmod(0o600)
        home.mkdir()
        access.sign_in_file().symlink_to(tmp_path / "theirs")
        with pytest.raises(PermissionError, match="remove it"):
            access.sign_in()

    @pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
    def test_one_of_another_user_is_refused(self, home: Path) -> None:
        access.sign_in()
        os.chown(access.sign_in_file(), 12345, 12345)
        with pytest.raises(PermissionError, match="a file that you own"):
            access.sign_in()


class TestOtherUsers:
    def test_neither_oneself_nor_the_system_counts(self) -> None:
        found = access.other_users()
        assert not {"root", "nobody", "daemon", "www-data"} & set(found)

    @pytest.mark.skipif(os.getuid() != 0, reason="only root starts processes of others")
    def test_who_has_a_process_here_counts(self) -> None:
        """Accounts of a directory are in no file; their processes have a number."""
        user = 4711
        assert str(user) not in access.other_users()
        with subprocess.Popen(["sleep", "60"], user=user) as process:
            assert str(user) in access.other_users()
            process.kill()
        with subprocess.Popen(["sleep", "60"], user=65534) as process:
            assert "nobody" not in access.other_users()
            process.kill()


LISTENER = """
import socket, time
listening = socket.create_server(("127.0.0.1", {port}))
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class TestWhoseServerItIs:
    """`ui.json` says where the server is; whether it is still ours, only the process can say."""

    def left_behind(self, port: int, process: str) -> None:
        access.ui_file().parent.mkdir(parents=True, exist_ok=True)
        access.ui_file().write_text(
            json.dumps({"process": process, "prefect_port": port, "started": []})
        )

    def test_a_file_left_by_a_dead_ui_is_not_believed(self, home: Path, port: int) -> None:
        dead = subprocess.Popen(["sleep", "60"])
        name = processes.name_of(dead.pid)
        dead.kill()
        with socket.create_server(("127.0.0.1", port)):  # the stranger
            self.left_behind(port, name)
            assert access.ui_server() is None  # a zombie
            dead.wait()
            assert access.ui_server() is None

    def test_nor_if_another_process_listens(self, home: Path, port: int) -> None:
        with (
            subprocess.Popen(["sleep", "60"]) as alive,
            socket.create_server(("127.0.0.1", port)),
        ):
            self.left_behind(port, processes.name_of(alive.pid))
            assert access.ui_server() is None
            alive.kill()

    def test_nor_if_its_number_was_given_to_another(self, home: Path, port: int) -> None:
        with socket.create_server(("127.0.0.1", port)):
            host, pid, began = processes.this_process().rsplit(" ", 2)
            self.left_behind(port, f"{host} {pid} {began}1")
            assert access.ui_server() is None
            self.left_behind(port, f"another-{host} {pid} {began}")
            assert access.ui_server() is None

    @pytest.mark.parametrize(
        "text",
        ["", "[]", "{}", "null", '{"process": 1}', '{"process": "a b", "prefect_port": 80}',
         '{"prefect_api": "http://127.0.0.1:1/api", "pid": 1}'],
    )  # fmt: skip
    def test_nonsense_is_no_server(self, home: Path, text: str) -> None:
        home.mkdir()
        access.ui_file().write_text(text)
        assert access.ui_server() is None

    def test_ours_is_found_also_in_a_child(self, home: Path, port: int) -> None:
        code = LISTENER.format(port=port)
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as server:
            server.stdout.readline()
            self.left_behind(port, processes.this_process())  # which started it
            assert access.ui_server() == f"http://127.0.0.1:{port}/api"
            assert not processes.listens(psutil.Process(server.pid), port + 1)
            server.kill()
        assert access.ui_server() is None


def test_who_speaks_no_http_gives_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        port = server.getsockname()[1]
        asked = pool.submit(access.status, f"http://127.0.0.1:{port}/api", patience=5)
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
            assert asked.result(10) == 0
    assert access.status("http://me:pass@host.example:x/api") == 0


def test_no_proxy_gets_what_is_for_loopback(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer

    with HTTPServer(("127.0.0.1", port), BaseHTTPRequestHandler) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        assert access.status("http://127.0.0.1:1/api", "retune:secret", patience=2) == 0
        proxy.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            proxy.socket.accept()
    assert access.no_proxy()["no_proxy"] == "127.0.0.1,localhost"
    monkeypatch.setenv("no_proxy", "corp.example, localhost")
    assert access.no_proxy()["no_proxy"] == "corp.example,localhost,127.0.0.1"
    monkeypatch.setenv("no_proxy", "*")
    assert access.no_proxy()["NO_PROXY"] == "*"
