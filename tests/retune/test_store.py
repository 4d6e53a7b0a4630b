"""One store for several machines, on a disk in common: an output is whole there or not there, and
whoever needs it has it. tests/infra/test_store.py does the same with an S3 server."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from retune.building import building
from retune.files import sha256
from retune.home import remove, work
from retune.manifest import REJECTED, FileEntry
from retune.outputs import (
    Output,
    Step,
    here,
    is_rejected,
    maker,
    mark_rejected,
    note_maker,
    offer,
    read_output,
    settled,
)
from retune.store import cache, place, sharing, transfer
from retune.store.place import Store, StoreError, StoreUnreachable
from retune.store.transfer import StoreDamaged

pytestmark = pytest.mark.usefixtures("obstore")
STEP = Step(stage="train", key={"r": 16})
NAME = STEP.name
BIG = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Return what makes this process work on a machine of a name, with a home of its own."""

    def be(name: str) -> Path:
        cache.let_go()
        sharing.known.clear()
        monkeypatch.setenv("RETUNE_HOME", str(tmp_path / name))
        return tmp_path / name

    monkeypatch.setenv("RETUNE_STORE", (tmp_path / "store").as_uri())
    monkeypatch.setattr(place, "LONGEST_WAIT", 0)
    place._opened.cache_clear()
    be("a")
    yield be
    cache.let_go()
    place._opened.cache_clear()


@pytest.fixture
def stored(tmp_path):
    return tmp_path / "store"


def make(text: str = "w", step: Step = STEP, size: int = 0) -> Output:
    with building(step) as build:
        (build.path / "notes.txt").write_text(f"of {text}")
        (build.path / "adapter").mkdir()
        (build.path / "adapter" / "weights").write_bytes(BIG + text.encode())
        (build.path / "adapter" / "empty").touch()
        (build.path / "padding").write_bytes(b"0" * size)
        output = build.finish(Output, models=("adapter",), files=("notes.txt",))
    return settled(output)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_one_machine_made_every_other_has(machine):
    output = make()
    note_maker(STEP, "run-of-a")
    made = files(output.folder)
    home = machine("b")
    assert STEP.done
    assert not list(home.rglob("weights"))  # asking moves nothing
    assert read_output(STEP, Output) == output
    assert files(output.folder) == made
    assert output.folder.is_relative_to(home)
    assert maker(STEP) == "run-of-a"


def test_a_home_that_was_wiped_has_everything_again(machine):
    made = files(make().folder)
    shutil.rmtree(machine("a"))
    machine("a")
    assert STEP.done
    assert files(here(NAME)) == made


def test_what_was_rejected_on_one_machine_is_so_on_all(machine):
    output = make()
    mark_rejected(STEP, ["expected: less; seen: more"])
    machine("b")
    assert is_rejected(STEP)
    assert json.loads((output.folder / REJECTED).read_text()) == ["expected: less; seen: more"]
    mark_rejected(STEP, [])
    machine("a")
    assert not is_rejected(STEP)


def test_an_output_is_committed_last(machine, stored, monkeypatch):
    """Whatever is asked before that, it is not there."""
    seen = []
    create = Store.create

    def watched(self, name, content):
        if name.endswith("output.json"):
            seen.append((sorted(path.name for path in files_of(stored)), self.has(name)))
        return create(self, name, content)

    monkeypatch.setattr(Store, "create", watched)
    make()
    assert seen == [(["empty", "notes.txt", "padding", "weights"], False)]


def variables() -> dict[str, str]:
    """Return ours for a process that is to find what this one finds."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


def files_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


KILLED = """
import os, signal
from retune.store.place import Store
from tests.retune.test_store import make
send, sent = Store.send, []
def dying(self, name, *others):
    if len(sent) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    sent.append(send(self, name, *others))
Store.send = dying
make()
"""


def test_a_machine_that_dies_while_it_publishes_leaves_nothing_half(machine, stored, monkeypatch):
    code = "from retune.store import transfer; transfer.AT_ONCE = 1\n" + KILLED
    done = subprocess.run([sys.executable, "-c", code], env=variables(), check=False)
    assert done.returncode == -signal.SIGKILL
    assert files_of(stored)
    machine("b")
    assert not STEP.done
    machine("a")
    assert STEP.done  # it was made here: publishing goes on where it was
    sent = []
    send = Store.send

    def counted(self, name, *others):
        sent.append(name.rpartition("/")[2])
        send(self, name, *others)

    monkeypatch.setattr(Store, "send", counted)
    offer(STEP)
    assert len(sent) == 2  # of four files
    made = files(STEP.folder)
    machine("b")
    assert files(here(NAME)) == made


def test_of_two_that_make_the_same_output_one_wins_and_none_breaks(machine, stored):
    with building(STEP) as build:
        (build.path / "weights").write_text("of a")
        machine("b")
        winner = make("of b")
        machine("a")
        loser = build.finish(Output)
    assert settled(loser) == winner != loser
    assert files(winner.folder) == files(here(NAME))
    assert (here(NAME) / "notes.txt").read_text() == "of of b"
    assert not [path for path in files_of(stored) if path.read_bytes() == b"of a"]
    machine("c")
    assert (here(NAME) / "adapter" / "weights").read_bytes() == BIG + b"of b"


def test_of_two_that_make_the_same_bytes_the_first_ones_record_counts(machine):
    with building(STEP) as build:
        machine("b")
        with building(STEP) as other:
            winner = other.finish(Output, metrics={"m": 1.0})
        machine("a")
        build.finish(Output, metrics={"m": 2.0})
    assert read_output(STEP, Output) == winner


@pytest.mark.parametrize("change", ["other", "shorter", "gone"])
def test_what_was_tampered_with_is_refused(machine, stored, change):
    make()
    (weights,) = stored.rglob("weights")
    if change == "gone":
        weights.unlink()
    else:
        weights.write_bytes(BIG[::-1] + b"w" if change == "other" else b"short")
    machine("b")
    with pytest.raises(StoreDamaged, match=r"adapter/weights is not what was made"):
        here(NAME)
    assert not STEP.folder.exists()
    with pytest.raises(StoreDamaged):  # whoever asks again is told again
        here(NAME)


@pytest.mark.parametrize("name", ["../../evil", "/evil", ".made-by-retune", "a/.x/b"])
def test_a_record_that_names_files_elsewhere_is_refused(machine, stored, tmp_path, name):
    make()
    record = stored / NAME / "output.json"
    fields = json.loads(record.read_text())
    fields["manifest"] = {name: fields["manifest"]["notes.txt"]}
    record.write_text(json.dumps(fields))
    machine("b")
    with pytest.raises(StoreDamaged, match="which is refused"):
        here(NAME)
    assert not list(tmp_path.rglob("evil"))


def test_what_changed_before_it_was_sent_is_not_published(machine, stored, monkeypatch):
    with monkeypatch.context() as patch:
        patch.delenv("RETUNE_STORE")
        make()
    (STEP.folder / "notes.txt").write_text("of x")
    with pytest.raises(StoreError, match=r"notes\.txt was changed after it was made"):
        offer(STEP)
    assert not (stored / NAME / "output.json").exists()


@pytest.mark.parametrize("times", [1, 9])
def test_what_is_removed_while_it_is_published_is_sent_again(machine, stored, monkeypatch, times):
    """As by `gc --store`, of files that lay there from an attempt of long ago."""
    send, sent = transfer.send_files, []

    def swept(shared, folder, *others):
        send(shared, folder, *others)
        sent.append(folder)
        if len(sent) <= times:
            (stored / folder / "notes.txt").unlink()

    monkeypatch.setattr(transfer, "send_files", swept)
    if times > 1:
        with pytest.raises(StoreError, match="was removed while it was published"):
            make()
        assert not (stored / NAME / "output.json").exists()
        return
    make()
    machine("b")
    assert (here(NAME) / "notes.txt").read_text() == "of w"


def test_a_file_of_ours_that_is_gone_is_named(machine, tmp_path):
    entry = FileEntry(bytes=1, sha256="0" * 64)
    with pytest.raises(StoreError, match="weights is not there any more"):
        place.store().send("train/x", tmp_path / "weights", entry, lambda: True)


def test_a_copy_goes_on_with_no_file_of_what_was_made_anew(machine, stored):
    make("old")
    (weights,) = stored.rglob("weights")
    weights.write_bytes(BIG[::-1] + b"old")
    machine("b")
    with pytest.raises(StoreDamaged):  # its notes have come
        here(NAME)
    assert (STEP.folder.with_name(f"{STEP.folder.name}.pulling") / "notes.txt").is_file()
    shutil.rmtree(stored / NAME)
    machine("c")
    made = files(make("new").folder)
    machine("b")
    assert files(here(NAME)) == made


def test_a_copy_that_came_meanwhile_stays(machine):
    """It may be in use, and is what counts."""
    machine("b")
    with building(STEP) as build:
        (build.path / "notes.txt").write_text("of b")
        own = build.finish(Output, files=("notes.txt",))
        machine("a")
        make("a")
        machine("b")
        (folder := here(NAME)).touch()
    assert (folder / "notes.txt").read_text() == "of a"
    assert settled(own) == read_output(STEP, Output) != own


def test_a_copy_that_was_interrupted_goes_on_with_what_is_there(machine, monkeypatch):
    monkeypatch.setattr(transfer, "PIECE", 2**16)
    monkeypatch.setattr(transfer, "AT_ONCE", 1)
    made = files(make().folder)
    asked = []
    piece = Store.piece

    def interrupted(self, name, start, end):
        asked.append((name, start))
        if len(asked) == 9:
            raise KeyboardInterrupt
        return piece(self, name, start, end)

    monkeypatch.setattr(Store, "piece", interrupted)
    machine("b")
    with pytest.raises(KeyboardInterrupt):
        here(NAME)
    assert not STEP.folder.exists()
    before, asked[:] = asked[:8], [()] * 10  # nothing interrupts it again
    assert files(here(NAME)) == made
    assert not set(asked) & set(before)
    assert not list(work().rglob("*.pulling"))


def test_a_piece_that_was_damaged_here_comes_again(machine, monkeypatch):
    made = files(make().folder)
    machine("b")
    piece = Store.piece
    monkeypatch.setattr(transfer, "AT_ONCE", 1)

    def interrupted(self, name, start, end):
        if name.endswith("notes.txt"):
            raise KeyboardInterrupt
        return piece(self, name, start, end)

    monkeypatch.setattr(Store, "piece", interrupted)
    with pytest.raises(KeyboardInterrupt):
        here(NAME)
    monkeypatch.setattr(Store, "piece", piece)
    (weights,) = work().rglob("weights")
    weights.write_bytes(b"\0" * weights.stat().st_size)  # as after a power cut
    assert files(here(NAME)) == made


def test_small_files_come_alone_and_what_is_noted_needs_none(machine, stored):
    output = make()
    home = machine("b")
    with output.some("notes.txt") as folder:
        assert [path.name for path in folder.glob("[!.]*")] == ["notes.txt"]
        assert (folder / "notes.txt").read_text() == "of w"
    assert not folder.exists()
    assert output.entry("adapter").bytes == len(BIG) + 1
    uri = output.uri("adapter")
    assert uri.startswith(f"{stored.as_uri()}/{NAME}/")
    assert Path(uri.removeprefix("file://"), "weights").read_bytes() == BIG + b"w"
    assert not list(home.rglob("weights"))


@pytest.mark.parametrize("noted", [{}, {"manifest": {}}])
def test_an_output_of_before_there_was_a_store_is_published_when_it_is_used(
    machine, monkeypatch, noted
):
    address = os.environ["RETUNE_STORE"]
    monkeypatch.delenv("RETUNE_STORE")
    output = make()
    fields = json.loads((STEP.folder / "output.json").read_text())
    del fields["manifest"]  # nor were there manifests
    (STEP.folder / "output.json").write_text(json.dumps(fields | noted))
    note_maker(STEP, "then")
    monkeypatch.setenv("RETUNE_STORE", address)
    assert output.uri("adapter").startswith((work() / "train").as_uri())
    offer(STEP)
    machine("b")
    assert read_output(STEP, Output).manifest == output.manifest
    assert (here(NAME) / "adapter" / "weights").exists()
    assert maker(STEP) == "then"


def test_a_run_that_makes_everything_anew_asks_no_store(machine, monkeypatch, tmp_path):
    make()
    monkeypatch.setenv("RETUNE_WORK", str(tmp_path / "anew"))
    assert not STEP.done
    assert make("anew").folder == tmp_path / "anew" / NAME


def test_an_output_that_is_not_final_stays_on_its_machine(machine, stored):
    with building(STEP) as build:
        (build.path / "notes.txt").write_text("not final")
        output = settled(build.finish(Output))
        build.is_final = False
    note_maker(STEP, "run")
    mark_rejected(STEP, ["no"])
    with output.some("notes.txt") as folder:
        assert (folder / "notes.txt").read_text() == "not final"
    assert output.entry("notes.txt").bytes == len("not final")
    assert maker(STEP) == "run"
    assert not STEP.done
    assert STEP.folder.is_dir()
    assert not (stored / NAME).exists()


class TestCache:
    """The home is a cache with a limit."""

    STEPS = tuple(Step(stage="merge", key={"n": number}) for number in range(4))
    SIZE = 10 * len(BIG)

    def made(self) -> None:
        for number, step in enumerate(self.STEPS):
            make(step=step, size=self.SIZE)
            cache.let_go()
            os.utime(step.folder.with_name(step.folder.name + cache.USE), (number, number))

    def there(self) -> list[int]:
        return [number for number, step in enumerate(self.STEPS) if step.folder.is_dir()]

    def test_what_was_not_used_for_longest_goes_first(self, machine, monkeypatch):
        self.made()
        here(self.STEPS[0].name)  # used now
        cache.let_go()
        monkeypatch.setenv("RETUNE_CACHE_SIZE", f"{3 * self.SIZE / 1e6:.1f}MB")
        make()
        assert self.there() == [0, 3]
        assert all(step.done for step in self.STEPS)
        assert files(here(self.STEPS[1].name))

    def test_what_a_process_uses_stays(self, machine, monkeypatch):
        self.made()
        code = (
            "import sys; from retune.outputs import here; here(sys.argv[1]); print('holds', flush=True)"
            "; sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code, self.STEPS[0].name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=variables(),
        ) as other:  # fmt: skip
            assert other.stdout.readline() == b"holds\n"
            os.utime(self.STEPS[0].folder.with_name(self.STEPS[0].folder.name + ".use"), (0, 0))
            monkeypatch.setenv("RETUNE_CACHE_SIZE", "1")
            here(self.STEPS[1].name)
            make()
            assert self.there() == [0, 1]
            other.kill()
            other.wait(30)
        cache.let_go()
        make("again", Step(stage="train", key={}))
        assert self.there() == []

    def test_what_another_process_removes_meanwhile_is_no_fault(self, machine, monkeypatch):
        self.made()
        measure = cache.size

        def gone(folder: Path) -> int:
            if folder == self.STEPS[1].folder:
                remove(folder)
            return measure(folder)

        monkeypatch.setattr(cache, "size", gone)
        monkeypatch.setenv("RETUNE_CACHE_SIZE", "1")
        make()
        assert self.there() == []

    def test_what_the_store_has_not_stays(self, machine, monkeypatch):
        address = os.environ["RETUNE_STORE"]
        monkeypatch.delenv("RETUNE_STORE")
        make(step=self.STEPS[0])
        monkeypatch.setenv("RETUNE_STORE", address)
        monkeypatch.setenv("RETUNE_CACHE_SIZE", "1")
        make()
        assert self.there() == [0]

    @pytest.mark.parametrize(
        ("text", "expected"),
        [("200GB", 200e9), ("1.5 tb", 1.5e12), ("2GiB", 2**31), ("7", 7), ("", None)],
    )
    def test_a_limit_has_a_unit(self, monkeypatch, text, expected):
        monkeypatch.setenv("RETUNE_CACHE_SIZE", text)
        assert cache.limit() == expected

    @pytest.mark.parametrize("text", ["much", "-1GB", "20 %", "GB"])
    def test_what_is_no_size_is_refused(self, monkeypatch, text):
        monkeypatch.setenv("RETUNE_CACHE_SIZE", text)
        with pytest.raises(cache.BadLimit, match=r"RETUNE_CACHE_SIZE=.*such as 200GB"):
            cache.limit()


class TestAddress:
    @pytest.mark.parametrize(
        "address",
        [
            "bucket/prefix",
            "ftp://host/x",
            "s3://",
            "s3:///x",
            "file://host/x",
            "file:x",
            "http://x/y",
        ],
    )
    def test_what_is_none_is_refused_with_what_to_write(self, machine, monkeypatch, address):
        monkeypatch.setenv("RETUNE_STORE", address)
        with pytest.raises(StoreError, match=r"RETUNE_STORE is no address .* s3://bucket/prefix"):
            STEP.done  # noqa: B018

    @pytest.mark.parametrize(
        "address", ["s3://AKIA:sesame@bucket/x", "az://box/x?sig=sesame", "gs://b/x#sesame"]
    )
    def test_a_secret_in_it_is_refused_and_not_shown(self, machine, monkeypatch, address):
        monkeypatch.setenv("RETUNE_STORE", address)
        with pytest.raises(StoreError, match="credentials are read from") as told:
            place.store()
        assert "sesame" not in str(told.value)

    def test_without_its_package_it_is_a_sentence(self, machine, monkeypatch):
        monkeypatch.setitem(sys.modules, "obstore", None)
        monkeypatch.setitem(sys.modules, "obstore.store", None)
        with pytest.raises(StoreError, match=r"pip install 'retune\[cluster\]'"):
            make()

    def test_a_store_that_does_not_answer_is_a_sentence(self, machine, monkeypatch):
        for name, value in (
            ("RETUNE_STORE", "s3://bucket/prefix"),
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:9"),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_ACCESS_KEY_ID", "AKIASESAME"),
            ("AWS_SECRET_ACCESS_KEY", "sesame"),
            ("AWS_REGION", "us-east-1"),
        ):
            monkeypatch.setenv(name, value)
        with pytest.raises(StoreUnreachable, match=r"s3://bucket/prefix does not answer") as told:
            make()
        assert "\n" not in str(told.value)
        assert "sesame" not in str(told.value).lower()

    def test_a_store_that_answers_at_the_second_attempt_is_enough(self, machine, monkeypatch):
        import obstore
        from obstore.exceptions import GenericError

        head, failed = obstore.head, []

        def faltering(*arguments):
            if not failed:
                failed.append(1)
                raise GenericError("connection reset")
            return head(*arguments)

        monkeypatch.setattr(obstore, "head", faltering)
        assert not STEP.done
        assert failed


UNUSED = """
import sys
from retune.building import building
from retune.outputs import Output, Step
with building(Step(stage="train", key={})) as build:
    output = build.finish(Output)
print(output.step.done, output.folder.is_dir(), output.uri("x")[:7])
print([name for name in ("obstore", "tenacity") if name in sys.modules])
"""


def test_without_a_store_nothing_of_it_is_loaded(tmp_path):
    others = {name: value for name, value in variables().items() if name != "RETUNE_STORE"}
    done = subprocess.run(
        [sys.executable, "-c", UNUSED], env=others | {"RETUNE_HOME": str(tmp_path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "True True file://\n[]\n"
    assert not list(tmp_path.rglob("*.use"))


def test_a_copy_is_what_was_made_to_the_byte(machine):
    digest = sha256(make().folder / "adapter")
    machine("b")
    assert sha256(here(NAME) / "adapter") == digest
