"""While a GGUF answers, nobody else on the machine and no web page can ask it anything."""

import stat
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import psutil

from retune import llamacpp


def test_the_server_that_answers_listens_where_only_its_user_can_go(gguf, tmp_path, monkeypatch):
    deep = tmp_path / ("long" * 30)  # longer than the path of a socket may be
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    asked = [[{"role": "user", "content": f"question {number}"}] for number in range(24)]
    listening, folders = set(), set()
    with ThreadPoolExecutor(1) as pool:
        answering = pool.submit(llamacpp.answers, gguf, asked, 200, 1)
        while not answering.done():
            for child in psutil.Process().children():
                with suppress(psutil.Error):
                    ports = child.net_connections("inet")
                    listening |= {port.laddr for port in ports if port.status == "LISTEN"}
            for socket in deep.glob("*/*.sock"):
                with suppress(FileNotFoundError):
                    folders.add(stat.S_IMODE(socket.parent.stat().st_mode))
            time.sleep(0.01)
    assert len(answering.result().answers) == len(asked)
    assert listening == set()
    assert folders == {0o700}
