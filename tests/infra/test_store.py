"""The store on a real S3 server: cases of tests/retune/test_store.py, and the whole line on two homes."""

import json
import os
import subprocess
import sys
import time
import uuid

import pytest

from retune.store import cache, checkpoints, place, sharing
from retune.store.place import StoreError
from tests.databases import furnish
from tests.flows.servers import free_port, wait_for
from tests.flows.test_line import Project
from tests.infra.stack import answers, end, weed

# Those that ask a store and nothing else; they run here with the fixtures of this file.
from tests.retune.test_store import (  # noqa: F401
    STEP,
    TestCache,
    make,
    test_a_copy_that_was_interrupted_goes_on_with_what_is_there,
    test_a_home_that_was_wiped_has_everything_again,
    test_a_piece_that_was_damaged_here_comes_again,
    test_of_two_that_make_the_same_bytes_the_first_ones_record_counts,
    test_what_one_machine_made_every_other_has,
    test_what_was_rejected_on_one_machine_is_so_on_all,
)

pytestmark = [
    pytest.mark.proof,
    pytest.mark.timeout(1200),
    pytest.mark.usefixtures("obstore"),
]

KEY, SECRET = "retune", "sesame-of-the-store"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The S3 server; yields its address."""
    folder = tmp_path_factory.mktemp("s3")
    identity = {
        "name": "retune",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    s3 = free_port()
    ports = {
        name: free_port()
        for part in ("master", "volume", "filer", "s3")
        for name in (f"{part}.port", f"{part}.port.grpc")
    } | {"s3.port": s3}
    command = [
        weed(), "server", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        "-master.volumeSizeLimitMB=64", "-volume.max=20", "-s3",
        "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={folder / 's3.json'}",
        *(f"-{name}={port}" for name, port in ports.items()),
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{s3}/healthz"), 60)
        make_bucket(f"http://127.0.0.1:{s3}")
        yield f"http://127.0.0.1:{s3}"
    finally:
        end(process)


def make_bucket(server: str) -> None:
    """Make the bucket; this server does so when a file is first put into it."""
    import obstore
    from obstore.store import S3Store

    inside = S3Store(
        "outputs", endpoint=server, access_key_id=KEY, secret_access_key=SECRET, region="us-east-1",
        client_options={"allow_http": True},
    )  # fmt: skip
    obstore.put(inside, "made", b"")


@pytest.fixture
def bucket(server, monkeypatch):
    """A prefix of its own for each test, with the variables that the store is reached by."""
    variables = {
        "RETUNE_STORE": f"s3://outputs/{uuid.uuid4().hex[:8]}",
        "AWS_ENDPOINT_URL": server,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    place._opened.cache_clear()
    yield variables
    place._opened.cache_clear()


@pytest.fixture
def machine(bucket, tmp_path, monkeypatch):
    def be(name: str):
        cache.let_go()
        sharing.known.clear()
        monkeypatch.setenv("RETUNE_HOME", str(tmp_path / name))
        return tmp_path / name

    be("a")
    yield be
    cache.let_go()


def test_a_file_of_many_parts_is_the_same_afterwards(machine, tmp_path):
    output = make(size=3 * place.PIECE + 1)
    digest = output.manifest["padding"].sha256
    machine("b")
    from retune.files import sha256
    from retune.outputs import here

    assert sha256(here(STEP.name) / "padding") == digest


def test_of_two_processes_at_once_one_wins(bucket, tmp_path):
    """They publish other bytes for the same fingerprint at the same moment."""
    code = (
        "import sys, time\nfrom tests.retune.test_store import make\n"
        "time.sleep(max(0, float(sys.argv[2]) - time.time()))\n"
        "print(make(sys.argv[1], size=10_000_000).manifest['notes.txt'].sha256)"
    )
    begin = str(time.time() + 6)
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, name, begin],
            env=os.environ
            | {"RETUNE_HOME": str(tmp_path / name), "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("a", "b", "c")
    ]
    told = {process.communicate(timeout=120)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0, 0]
    assert len(told) == 1
    assert told != {""}


def test_a_bucket_that_is_not_there_is_a_sentence(machine, monkeypatch):
    monkeypatch.setenv("RETUNE_STORE", "s3://elsewhere/x")
    with pytest.raises(StoreError, match="there is no such bucket"):
        [*place.store().list("train")]


def test_wrong_credentials_are_a_sentence_without_them(machine, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "sesame-of-another")
    place._opened.cache_clear()
    with pytest.raises(StoreError, match="refuses this machine") as told:
        make()
    assert "\n" not in str(told.value)
    assert "sesame" not in str(told.value)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return Project(tmp_path_factory.mktemp("project"))


def test_a_second_machine_has_nothing_to_do(bucket, project, tmp_path):
    """The whole line on one home; then on an empty one, with a database of its own."""
    # The checkout's own program first, then what this process finds besides.
    variables = {"PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], *sys.path])}
    made = []
    for name in ("a", "b"):
        home = furnish(tmp_path / name)
        done = project.retune("run", "recipe.yaml", RETUNE_HOME=str(home), **bucket, **variables)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert SECRET not in done.stdout + done.stderr
        made.append(done.stdout + done.stderr)
        for file in home.rglob("*.log"):
            assert SECRET not in file.read_text(errors="replace")
    trained = [*(tmp_path / "b" / "work" / "train").glob("*/adapter/adapter_model.safetensors")]
    assert not trained  # nobody needed it
    assert not [*(tmp_path / "b" / "work").glob("merge/*/model")]
    assert not [*(tmp_path / "b" / "work" / "convert").rglob("*.gguf")]  # nobody reads it
    assert "reused" in made[1]
    assert [*(tmp_path / "a" / "work" / "train").glob("*.use")]
    assert not [*(tmp_path / "b" / "work").rglob("*.partial")]
    for stage in ("conform", "validate", "train", "evaluate", "merge", "quantize"):
        locks = (tmp_path / "b" / "work" / stage).glob("*[0-9a-f].lock")
        assert not [lock for lock in locks if ".pulling" not in lock.name], f"{stage} was made"
    store = place.store()
    assert not checkpoints.are_there("train")
    assert store is not None
    records = [one.name for one in store.list("train") if one.name.endswith("output.json")]
    assert len(records) == 1
    assert len([one for one in store.list("quantize") if one.name.endswith(".gguf")]) == 6
