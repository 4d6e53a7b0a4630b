"""What all tests share. Nothing reaches the internet: the Hugging Face Hub is on the loopback."""

import gc
import os
import tempfile
from typing import Any

import pytest
from hypothesis import settings

from retune import forkserver
from retune.child import _variables
from tests.checkout import python_path
from tests.hub import Hub

# Scripts that tests start by themselves import the project's packages, which an installation keeps to
# its own processes; and the program `retune` is this checkout's, wherever its environment was made.
os.environ["PYTHONPATH"] = python_path()

# The libraries of models are millions of objects that stay: looking through all of them now and then
# took a sixth of the tests' time.
gc.set_threshold(50_000, 20, 50)

# As many threads as there are cores for each worker, not for all of them, made tests half as fast again.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    for variable in ("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS"):
        os.environ.setdefault(variable, threads)

# huggingface_hub and datasets read these at import, so they are set before any test is loaded.
_HUB = Hub()
_HUB.start()
_HUGGINGFACE_HOME = tempfile.TemporaryDirectory(prefix="retune-hf-")
os.environ |= {
    "HF_ENDPOINT": _HUB.endpoint,
    "HF_HOME": _HUGGINGFACE_HOME.name,
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_XET": "1",  # the loopback Hub speaks plain HTTP
}
os.environ.pop("HF_TOKEN", None)

# Whatever asks Prefect without having a server would start Prefect's own, for 20 s of a core.
os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "false"

# pytest sets it anew for each test, and no library reads it: the fork server serves them all.
forkserver.LATE.add("PYTEST_CURRENT_TEST")


class LastingForkServer(forkserver.ForkServer):
    """A fork server that outlives a test in another environment, which has its own: the imports of the
    next one would take 12 s of a core."""

    def close(self) -> None:
        """Stay; it ends with its starter."""


_lasting: dict[str, Any] = {}


def _fork_server(environment: dict[str, str]) -> forkserver.ForkServer:
    """Return the first server of this worker for the environment that it was begun with, else a usual
    one."""
    if not _lasting or _lasting["server"].ended:
        _lasting.update(environment=environment, server=LastingForkServer(environment))
    if _lasting["environment"] == environment:
        return _lasting["server"]
    return LastingForkServer.__base__(environment)


forkserver.ForkServer = _fork_server  # type: ignore[misc,assignment]


@pytest.fixture
def usual_fork_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server outlives its environment."""
    monkeypatch.setattr(forkserver, "ForkServer", LastingForkServer.__base__)


@pytest.fixture
def one_fork_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """All children are forked by the server of this environment, whichever the test then sets."""
    server = forkserver.server(_variables(hub=False, variables=None))
    monkeypatch.setattr(forkserver, "server", lambda _: server)


# Some examples for `make test`, many for `make proofs`, which runs what has examples once more.
settings.register_profile("light", deadline=None, database=None, max_examples=60)
settings.register_profile("proofs", settings.get_profile("light"), max_examples=1000)
settings.load_profile("light")


@pytest.fixture
def hub() -> Hub:
    """The loopback Hub, empty; every library in this process and its children talks to it."""
    _HUB.reset()
    return _HUB


@pytest.fixture(scope="session")
def obstore() -> None:
    """What the extra `cluster` brings."""
    from tests.infra.stack import use_extra

    use_extra("cluster", "obstore", pytest.MonkeyPatch(), "--only-binary", ":all:")


@pytest.fixture
def no_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages and charts are most of the gate's time on a small dataset; few tests look at them."""
    monkeypatch.setattr("expectations.data.judgement._write_page", lambda *_: None)
    monkeypatch.setattr("retune.plots.reasons_chart", lambda *_: None)
    monkeypatch.setattr("retune.plots.score_histogram", lambda *_: None)


# Files that go to one worker, because they have a fixture that takes long to make in common.
TOGETHER = {
    **dict.fromkeys(  # a model that was trained
        (f"tasks/test_{stage}.py" for stage in ("evaluate", "anchor", "merge", "select", "suites")),
        "tasks/test_train.py",
    ),
    **dict.fromkeys(  # a GGUF
        ("retune/test_tool_text.py", "retune/test_answering.py"), "retune/test_llamacpp.py"
    ),
    "retune/test_registry.py": "retune/test_tracking.py",  # MLflow's server
    "retune/test_measures.py": "test_house.py",  # the syntax of all modules
}

# What takes longest, in this order: begun last it would keep one worker busy alone.
FIRST = (
    "flows/test_line.py",
    "tasks/test_corpus.py",
    "tasks/test_train.py",
    "flows/test_ui.py",
    "flows/test_check.py",
    "tasks/test_validate.py",
    "tasks/test_rehearse.py",
    "retune/test_llamacpp.py",
    "retune/test_tracking.py",
    "retune/test_templates.py",
    "tasks/test_conform.py",
    "flows",
    "tasks",
    "expectations",
)


# Files with cases that take long and have nothing in common but within a family of models.
BY_CASE = ("tasks/test_families.py", "tasks/test_zoo.py")


def _group(nodeid: str) -> str:
    """Return the group that a test runs in: its file below `tests`, or the file that it goes with; in
    some files the case, by the name in its brackets."""
    file = nodeid.partition("::")[0].removeprefix("tests/")
    if file in BY_CASE:
        return file + nodeid.partition("[")[2]
    return TOGETHER.get(file, file)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        group = _group(item.nodeid)
        return next((n for n, name in enumerate(FIRST) if group.startswith(name)), len(FIRST))

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Send all tests of a group to one worker, in our order: each costly fixture is made once.

    pytest-xdist's own `loadgroup` writes the group into `_nodeid`, which pytest 9.2 does not read: each
    test went to whichever worker was free, and every fixture was made on all of them.
    """
    from xdist.scheduler import LoadScopeScheduling

    class GroupScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid)

    config.option.loadscopereorder = False
    return GroupScheduling(config, log)
