"""Children that answer, refuse, crash, are killed, and are orphaned."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
from pydantic import BaseModel

from retune import forkserver
from retune.child import ChildFailed, ChildRefused, dismiss_child, prepare_child, run_child
from retune.environment import ROOT
from retune.errors import HubUnreachable, RetuneError

CHILD = """
import os, signal, subprocess, sys, time
from pydantic import BaseModel
from retune.child import emit, main
from retune.errors import HubUnreachable, RetuneError

class Job(BaseModel):
    what: str

class Kept:
    def __del__(self):
        os.write(1, b"taken apart")

def work(job):
    print("chatter")
    emit("begin", pid=os.getpid())
    if job.what == "refuse":
        raise RetuneError("rows is 0; use more")
    if job.what == "unreachable":
        raise HubUnreachable("the Hub did not answer")
    if job.what == "paint":
        raise RetuneError("row says \\x1b[2J\\rACCEPTED")
    if job.what == "crash":
        import numpy as np
        np.zeros(3).reshape(2, 2)
    if job.what == "exit":
        print("\\x1b[32mACCEPTED")
        os._exit(3)
    if job.what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if job.what == "end":
        import atexit
        atexit.register(print, "the end")
        globals()["kept"] = Kept()
    if job.what == "hang":
        grandchild = subprocess.Popen(["sleep", "600"])
        emit("grandchild", pid=grandchild.pid)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    return {"answer": job.what}

main(Job, work)
"""


class Job(BaseModel):
    what: str


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(CHILD)
    return path


@pytest.fixture(params=[False, True], ids=["started", "forked"])
def run(request):
    """`run_child` in both ways to get a process."""
    return partial(run_child, forked=request.param)


def test_a_child_whose_log_is_on_a_full_disk_says_so(script, tmp_path, run, monkeypatch):
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    log = tmp_path / "stage" / "child.log"
    log.parent.mkdir()
    log.symlink_to("/dev/full")
    with pytest.raises(ChildRefused, match=f"^no space left in {tmp_path}"):
        run(script, Job(what="work"), log)


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until_gone(*pids: int) -> None:
    deadline = time.monotonic() + 10
    while any(map(is_running, pids)):
        assert time.monotonic() < deadline, f"{pids} still run"
        time.sleep(0.05)


def test_events_arrive_and_output_goes_to_the_log(run, script, tmp_path, capfd):
    events = []
    result = run(script, Job(what="nothing"), tmp_path / "log.txt", events.append)
    assert result["answer"] == "nothing"
    assert [event["event"] for event in events] == ["begin"]
    assert (tmp_path / "log.txt").read_text() == "chatter\n"
    assert capfd.readouterr() == ("", "")


def test_a_forked_child_ends_in_order_but_leaves_its_objects_to_the_system(script, tmp_path):
    log = tmp_path / "log.txt"
    assert run_child(script, Job(what="end"), log, forked=True)["answer"] == "end"
    assert log.read_text() == "chatter\nthe end\n"


def test_a_refusal_is_one_clear_message(run, script, tmp_path):
    with pytest.raises(ChildRefused, match=r"^rows is 0; use more$"):
        run(script, Job(what="refuse"), tmp_path / "log.txt")


def test_a_crash_names_its_stage_its_place_and_the_log(run, script, tmp_path):
    """A library's ValueError, too, is no mistake of a person."""
    with pytest.raises(ChildFailed) as crash:
        run(script, Job(what="crash"), tmp_path / "log.txt")
    first, *frames, last = str(crash.value).splitlines()
    assert first == (
        f"{tmp_path.name} failed: ValueError: cannot reshape array of size 3 into shape (2,2)"
    )
    assert any(f'File "{script}"' in line and "in work" in line for line in frames)
    assert last == f"The full log is {tmp_path / 'log.txt'}"
    assert "Traceback" in (tmp_path / "log.txt").read_text()
    assert not isinstance(crash.value, RetuneError)


def test_that_the_hub_did_not_answer_is_told_apart(run, script, tmp_path):
    """It is worth a retry, and another answer of `retune validate`."""
    with pytest.raises(HubUnreachable, match=r"^the Hub did not answer$"):
        run(script, Job(what="unreachable"), tmp_path / "log.txt")


def test_a_silent_end_is_explained(run, script, tmp_path):
    with pytest.raises(ChildFailed, match=r"exit code 3[\s\S]*chatter"):
        run(script, Job(what="exit"), tmp_path / "log.txt")
    with pytest.raises(ChildFailed, match=r"signal 9, SIGKILL .*memory"):
        run(script, Job(what="kill"), tmp_path / "log.txt")


def test_what_a_child_quotes_does_nothing_to_a_terminal(run, script, tmp_path):
    with pytest.raises(ChildRefused) as refused:
        run(script, Job(what="paint"), tmp_path / "log.txt")
    assert str(refused.value) == "row says \\x1b[2J\\rACCEPTED"
    with pytest.raises(ChildFailed, match="chatter") as failed:
        run(script, Job(what="exit"), tmp_path / "log.txt")
    assert "\\x1b[32mACCEPTED" in str(failed.value)


def test_an_interrupted_parent_ends_its_child(run, script, tmp_path):
    """Also one that ignores SIGTERM, and what it started itself."""
    pids = []

    def interrupt(event):
        pids.append(event["pid"])
        if event["event"] == "grandchild":
            time.sleep(0.3)  # until the child ignores SIGTERM
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(script, Job(what="hang"), tmp_path / "log.txt", interrupt, grace=0.5)
    wait_until_gone(*pids)


# Another parent has a fork server of its own, which imports all libraries first.
@pytest.mark.parametrize("forked", [False, pytest.param(True, marks=pytest.mark.proof)])
def test_a_killed_parent_leaves_no_orphans(script, tmp_path, forked):
    parent_code = f"""
from pathlib import Path
from tests.retune.test_child import Job
from retune.child import run_child
run_child(Path({str(script)!r}), Job(what="hang"), Path({str(tmp_path / "log.txt")!r}),
          lambda event: print(event["pid"], flush=True), forked={forked})
"""
    with subprocess.Popen(
        [sys.executable, "-c", parent_code],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as parent:
        pids = [int(parent.stdout.readline()) for _ in range(2)]
        assert all(map(is_running, pids))
        parent.send_signal(signal.SIGKILL)
    wait_until_gone(*pids)


LIBRARIES = """
import os, sys
from pathlib import Path
from pydantic import BaseModel
from retune.child import main

class Job(BaseModel):
    what: str

def work(job):
    return {
        "imported": sorted({"torch", "transformers.modeling_utils"} & set(sys.modules)),
        "ours": [name for name in before if name.startswith(("retune.", "tasks", "expectations"))],
        "parent": os.getppid(),
        "argv": sys.argv[1:],
        "folder": os.getcwd(),
        "name": Path("/proc/self/comm").read_text().strip(),
        "group": os.getpgid(0) == os.getpid(),
        "greeting": os.environ.get("GREETING"),
        "endpoint": os.environ.get("HF_ENDPOINT"),
    }

main(Job, work)
"""


LEAVING = """
import os, signal, sys, time
from pathlib import Path
from pydantic import BaseModel
from retune.child import emit, main

class Job(BaseModel):
    what: str

def leave(job):
    emit("heard")
    Path(job.what).write_text("kept")
    os._exit(0)

def work(job):
    signal.signal(signal.SIGTERM, lambda *_: leave(job))
    print(os.getpid(), flush=True)
    emit("begin")
    time.sleep(600)

main(Job, work)
"""


def test_a_child_with_time_keeps_its_work_though_its_parent_is_killed(tmp_path):
    """What a training does: its last checkpoint is written without anybody to hear of it."""
    script, kept = tmp_path / "script.py", tmp_path / "kept"
    script.write_text(LEAVING)
    code = (
        f"import os, signal; from pathlib import Path; from pydantic import BaseModel\n"
        f"from retune.child import run_child\n"
        f"class Job(BaseModel):\n    what: str\n"
        f"run_child(Path({str(script)!r}), Job(what={str(kept)!r}), Path({str(tmp_path / 'log')!r}),\n"
        f"    lambda event: os.kill(os.getpid(), signal.SIGKILL), grace=60)\n"
    )
    parent = subprocess.run([sys.executable, "-c", code], cwd=ROOT)
    assert parent.returncode == -signal.SIGKILL
    wait_until_gone(int((tmp_path / "log").read_text().split()[0]))
    assert kept.read_text() == "kept"


def test_a_child_that_ends_at_once_has_run_once():
    """Its exit code may be there before its process id is looked for."""
    reading, writing = os.pipe()
    lifeline = os.pipe()
    os.write(writing, b"pid:12345\nexit:3\n")
    os.close(writing)
    process = forkserver.ForkedProcess(lifeline[1], reading)
    assert (process.pid, process.poll(), process.wait()) == (12345, 3, 3)
    os.close(lifeline[0])
    process.stdin.close()


OTHER = "http://127.0.0.1:9"  # a Hub's address that is not the tests'


class TestForkServer:
    @pytest.fixture
    def libraries(self, tmp_path: Path) -> Path:
        path = tmp_path / "room" / "script.py"
        path.parent.mkdir()
        before = "import sys\nbefore = list(sys.modules)\n"
        path.write_text(before + LIBRARIES)
        return path

    @pytest.fixture
    def elsewhere(self, monkeypatch, usual_fork_servers, tmp_path: Path) -> None:
        """Another environment, in which the libraries are imported at once, since nothing is in them."""
        stubs = tmp_path / "stubs"
        for name in ("torch/cuda", "transformers/modeling_utils", "datasets", "peft", "trl"):
            path = stubs / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("is_available = is_initialized = bool\n")
            if path.parent != stubs:
                (path.parent / "__init__.py").touch()
        monkeypatch.setenv("PYTHONPATH", str(stubs))
        monkeypatch.setenv("HF_ENDPOINT", OTHER)  # libraries read it at import

    def child(self, script: Path, **options) -> dict:
        log = script.with_name("log.txt")
        return run_child(script, Job(what="look"), log, forked=True, **options)

    def test_a_child_finds_the_libraries_and_none_of_our_modules(self, libraries):
        """What is imported once must not be yesterday's code."""
        look = self.child(libraries, env={"GREETING": "hello"})
        assert look["imported"] == ["torch", "transformers.modeling_utils"]
        assert look["ours"] in ([], ["retune.forkserver"])
        assert look["argv"] == [str(libraries.with_name("log.job.json"))]
        assert look["folder"] == str(Path.cwd())
        assert (look["name"], look["group"]) == ("retune-room", True)
        assert look["greeting"] == "hello"

    def test_where_no_server_works_children_import_for_themselves(
        self, libraries, usual_fork_servers, monkeypatch
    ):
        monkeypatch.setattr(forkserver, "_server", None)
        # As if an import ended the server: a Python that does not even start.
        monkeypatch.setattr(forkserver, "ENVIRONMENT", {"PYTHONHOME": "/nowhere"})
        for _ in range(2):
            look = self.child(libraries)
            assert look["imported"] == []
            assert look["parent"] == os.getpid()
        assert "No fork server works here" in libraries.with_name("log.txt").read_text()
        assert forkserver._server[1].failed

    def test_one_server_serves_all_until_the_environment_changes(
        self, libraries, elsewhere, monkeypatch
    ):
        monkeypatch.setenv("HF_ENDPOINT", "http://first.example")
        first = self.child(libraries)
        assert self.child(libraries, env={"GREETING": "again"})["parent"] == first["parent"]
        monkeypatch.setenv("HF_ENDPOINT", OTHER)
        other = self.child(libraries)
        assert other["parent"] != first["parent"]
        assert other["endpoint"] == OTHER
        wait_until_gone(first["parent"])

    def test_a_server_killed_with_a_child_is_told_as_the_childs_end(
        self, script, tmp_path, elsewhere
    ):
        pids = []

        def kill(event):
            pids.append(event["pid"])
            psutil.Process(event["pid"]).parent().kill()

        with pytest.raises(ChildFailed, match="SIGKILL"):
            run_child(script, Job(what="hang"), tmp_path / "log.txt", kill, forked=True)
        wait_until_gone(*pids)

    def test_a_killed_server_is_replaced(self, libraries, elsewhere):
        first = self.child(libraries)
        psutil.Process(first["parent"]).kill()
        wait_until_gone(first["parent"])
        second = self.child(libraries)
        assert second["imported"]
        assert second["parent"] not in (first["parent"], os.getpid())


AHEAD = CHILD.replace(
    "main(Job, work)",
    """
def ahead():
    print("lost")
    mark = os.environ.get("MARK")
    if mark:
        open(mark, "w").write(str(os.getpid()))
    if os.environ.get("FAILING"):
        import nothing_of_this_name

main(Job, work, ahead)
""",
)


class TestPrepared:
    """A child that is there before its job."""

    @pytest.fixture
    def script(self, tmp_path):
        path = tmp_path / "ahead.py"
        path.write_text(AHEAD)
        yield path
        dismiss_child(path)

    @pytest.fixture
    def mark(self, tmp_path) -> Path:
        return tmp_path / "mark"

    def prepared(self, script: Path, mark: Path, **env: str) -> int:
        """Prepare a child and return its process id once it has imported."""
        prepare_child(script, {"MARK": str(mark)} | env)
        wait_until(lambda: mark.exists() and mark.read_text())
        return int(mark.read_text())

    def run(self, script: Path, what: str, env: dict[str, str]) -> tuple[dict, int]:
        events = []
        log = script.parent / "log"
        done = run_child(script, Job(what=what), log, events.append, env)
        return done, events[0]["pid"]

    def test_it_does_the_job_and_its_words_are_in_the_log(self, script, mark):
        pid = self.prepared(script, mark)
        done, of_job = self.run(script, "well", {"MARK": str(mark)})
        assert (done["answer"], of_job) == ("well", pid)
        assert (script.parent / "log").read_text() == "chatter\n"
        # The next job has a process of its own.
        assert self.run(script, "well", {"MARK": str(mark)})[1] != pid

    def test_it_is_not_used_for_what_sees_other_variables(self, script, mark):
        pid = self.prepared(script, mark)
        assert self.run(script, "well", {})[1] != pid
        assert not is_running(pid)

    def test_it_may_fail_ahead_or_be_killed(self, script, mark):
        env = {"MARK": str(mark), "FAILING": "1"}
        pid = self.prepared(script, mark, FAILING="1")
        assert self.run(script, "well", env) == ({"event": "result", "answer": "well"}, pid)
        assert "nothing_of_this_name" in (script.parent / "log").read_text()
        mark.unlink()
        pid = self.prepared(script, mark)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_running(pid))
        done, of_job = self.run(script, "well", {"MARK": str(mark)})
        assert done["answer"] == "well"
        assert of_job != pid

    def test_it_may_be_killed_between_its_job_and_its_log(self, script, tmp_path):
        script.write_text("import os, signal; os.read(0, 1); os.kill(os.getpid(), signal.SIGKILL)")
        prepare_child(script)
        with pytest.raises(ChildFailed, match="SIGKILL") as failed:
            self.run(script, "well", None)
        assert failed.value.signal == signal.SIGKILL

    def test_it_refuses_and_crashes_as_any_child(self, script, mark):
        self.prepared(script, mark)
        with pytest.raises(ChildRefused, match="rows is 0; use more"):
            self.run(script, "refuse", {"MARK": str(mark)})
        mark.unlink()
        self.prepared(script, mark)
        with pytest.raises(ChildFailed, match="SIGKILL"):
            self.run(script, "kill", {"MARK": str(mark)})

    def test_it_ends_when_it_is_dismissed_or_its_parent_is_gone(self, script, mark):
        pid = self.prepared(script, mark)
        dismiss_child(script)
        assert not is_running(pid)
        mark.unlink()
        code = (
            "import sys, time; from pathlib import Path; from retune.child import prepare_child;"
            "prepare_child(Path(sys.argv[1]), {'MARK': sys.argv[2]}); time.sleep(600)"
        )
        parent = subprocess.Popen([sys.executable, "-c", code, str(script), str(mark)], cwd=ROOT)
        wait_until(lambda: mark.exists() and mark.read_text())
        pid = int(mark.read_text())
        parent.kill()
        parent.wait()
        wait_until(lambda: not is_running(pid))


def wait_until(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
