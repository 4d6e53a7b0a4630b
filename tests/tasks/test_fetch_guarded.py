"""Sources that would read the user's machine, eat its memory or time, or change under the reader."""

import gzip
import io
import json
import os
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retune.recipe import Dataset
from retune.recipe.flaws import OVERSIZED
from retune.sources import SourceError, pin, require_unchanged, unchanged
from tasks.fetch.batches import to_rows
from tasks.fetch.budget import BUDGET
from tasks.fetch.guarded import fetch_rows
from tasks.fetch.reading import read

GOOD = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}
LINE = json.dumps(GOOD).encode()


def fetched(folder: Path, source: str, **settings) -> list[dict]:
    """Return the rows of a source as a run fetches them, in children."""
    dataset = Dataset(source=source, **settings)
    out = folder / "out"
    out.mkdir(exist_ok=True)
    count = fetch_rows(dataset, pin(source, None, "dataset", "dataset.source"), out)
    rows = pq.read_table(out / "rows.parquet").to_pylist()
    assert len(rows) == count
    return rows


def read_here(folder: Path, source: str, **settings) -> list[dict]:
    """Return the rows of a source as this process reads them: children take their time to start."""
    dataset = Dataset(source=source, **settings)
    version = pin(source, None, "dataset", "dataset.source")
    commit = None if version.startswith("sha256:") else version
    tables = to_rows(read(dataset, commit, folder / "cache"), source)
    return pa.concat_tables(tables).to_pylist()


@pytest.fixture(autouse=True)
def usual_budget():
    """A budget that a test sets is not the next one's."""
    before = BUDGET.set(BUDGET.get())
    yield
    BUDGET.reset(before)


class Website(HTTPServer):
    """A server on the user's network, which nothing may ask for anything."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Page)
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(LINE)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(LINE)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def website():
    server = Website()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def card(files: str, more: str = "") -> bytes:
    return f"---\nconfigs:\n- config_name: default\n  {files}\n  {more}\n---\n".encode()


LEADING_OUT = {
    "an absolute path": "data_files: {folder}/secret.jsonl",
    "a pattern of absolute paths": "data_files: '{folder}/*.jsonl'",
    "a path by way of the parent": "data_files: ../../../../../../..{folder}/secret.jsonl",
    "a web address": "data_files: {url}/secret.jsonl",
    "a web address of a split": "data_files: [{{split: train, path: ['{url}/secret.jsonl']}}]",
    "a file's address": "data_files: file://{folder}/secret.jsonl",
    "a file's address without slashes": "data_files: 'file:{folder}/secret.jsonl'",
    "another repository": "data_files: hf://datasets/org/private/secret.jsonl",
    "a chain": "data_files: 'zip://*.jsonl::{folder}/secret.zip'",
    "a chain to the web": "data_files: 'zip://*.jsonl::{url}/secret.zip'",
    "a cloud's address": "data_files: s3://bucket/secret.jsonl",
    "the home folder": "data_files: ~/secret.jsonl",
    "an absolute folder": "data_dir: {folder}",
    "a folder's address": "data_dir: {url}",
    "a folder by way of the parent": "data_dir: ../../../../../../..{folder}",
    "a second split": "data_files: [{{split: train, path: d.jsonl}}, "
    "{{split: test, path: {folder}/secret.jsonl}}]",
}


@pytest.fixture
def secret(tmp_path):
    """A folder with rows that no dataset may read."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "secret.jsonl").write_bytes(LINE)
    with zipfile.ZipFile(folder / "secret.zip", "w") as archive:
        archive.writestr("secret.jsonl", LINE)
    return folder


@pytest.mark.parametrize("where", LEADING_OUT.values(), ids=LEADING_OUT)
def test_a_card_that_leads_out_of_its_repository_is_refused(hub, website, secret, tmp_path, where):
    hub.add_dataset("org/private", {"secret.jsonl": LINE}, private=True)
    text = card(where.format(folder=secret, url=website.url))
    hub.add_dataset("org/tome", {"README.md": text, "d.jsonl": LINE})
    with pytest.raises(
        SourceError, match=r"org/tome is not read: its card names .* only the files"
    ):
        read_here(tmp_path, "org/tome")
    assert website.asked == []
    assert not [request for request in hub.requests if "org/private" in request]


def test_the_second_card_of_a_repository_is_looked_at_as_well(hub, secret, tmp_path):
    second = f"configs:\n- config_name: default\n  data_files: {secret}/*.jsonl\n"
    hub.add_dataset("org/tome", {".huggingface.yaml": second.encode(), "d.jsonl": LINE})
    with pytest.raises(SourceError, match="org/tome is not read: its card names"):
        read_here(tmp_path, "org/tome")


def test_a_configuration_that_is_not_asked_for_may_not_lead_out_either(hub, secret, tmp_path):
    text = f"""---
configs:
- config_name: default
  data_files: d.jsonl
- config_name: other
  data_dir: {secret}
---
"""
    hub.add_dataset("org/tome", {"README.md": text.encode(), "d.jsonl": LINE})
    with pytest.raises(SourceError, match="org/tome is not read: its card names"):
        read_here(tmp_path, "org/tome")


def test_a_local_folder_of_the_same_name_is_not_taken_for_the_repository(
    hub, tmp_path, monkeypatch
):
    """It may appear after the source was pinned as a Hub id."""
    commit = hub.add_dataset("org/tome", {"d.jsonl": LINE})
    (tmp_path / "org" / "tome").mkdir(parents=True)
    (tmp_path / "org" / "tome" / "d.jsonl").write_text('{"prompt": "local", "completion": "x"}')
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(SourceError):
        fetch_rows(Dataset(source="org/tome"), commit, out)


@pytest.mark.parametrize(
    "files",
    [
        "data_files: d.jsonl",
        "data_files: 'data/*.jsonl'",
        "data_files: [{split: train, path: ['data/**', 'd.jsonl']}]",
        "data_files: [{split: train, path: 'data/train-*'}, {split: test, path: d.jsonl}]",
        "data_dir: data",
    ],
)
def test_what_cards_usually_say_is_followed(hub, tmp_path, files):
    data = {"README.md": card(files), "d.jsonl": LINE, "data/train-0.jsonl": LINE}
    hub.add_dataset("org/tome", data)
    assert {row["messages"][1]["content"] for row in read_here(tmp_path, "org/tome")} == {"hello"}


def test_scripts_of_a_repository_do_not_run(hub, tmp_path):
    mark = tmp_path / "ran"
    script = f"open({str(mark)!r}, 'w')\n".encode()
    hub.add_dataset("org/tome", {"tome.py": script, "d.jsonl": LINE})
    with pytest.raises(SourceError, match="scripts are no longer supported"):
        read_here(tmp_path, "org/tome")
    hub.add_dataset("org/other", {"load.py": script, "d.jsonl": LINE})
    assert len(read_here(tmp_path, "org/other")) == 1
    assert not mark.exists()


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ("sep: '(a+)+$'", "sep"),
        ("converters: {prompt: os.system}", "converters"),
        ("encoding: punycode", "encoding"),
        ("dialect: excel", "dialect"),
    ],
)
def test_settings_of_a_card_that_are_more_than_settings_are_refused(hub, tmp_path, setting, name):
    files = {
        "README.md": card("data_files: d.csv", setting),
        "d.csv": b"prompt,completion\nhi,there\n",
    }
    hub.add_dataset("org/tome", files)
    with pytest.raises(SourceError, match=f"org/tome is not read: its card sets {name} to"):
        read_here(tmp_path, "org/tome")


def test_usual_settings_of_a_card_are_followed_without_the_network(hub, tmp_path):
    files = {
        "README.md": card("data_files: d.csv", "sep: ';'"),
        "d.csv": b"prompt;completion\nhi;there\n",
        "t/train.tsv": b"prompt\tcompletion\nhi\tthere\n",
    }
    hub.add_dataset("org/tome", files)
    hub.add_dataset("org/tabs", {"train.tsv": files["t/train.tsv"]})
    for source in ("org/tome", "org/tabs"):
        (row,) = read_here(tmp_path, source)
        assert [message["content"] for message in row["messages"]] == ["hi", "there"]


@pytest.mark.parametrize("name", ["d.h5", "d.lance", "d.xml", "d.png", "d.txt"])
def test_files_that_may_refer_to_others_are_refused_by_format(hub, tmp_path, name):
    hub.add_dataset("org/tome", {name: b"x"})
    with pytest.raises(SourceError, match="has files of the format"):
        read_here(tmp_path, "org/tome")


def packed(kind: str, members: list[tuple[str, bytes | None]]) -> bytes:
    """Return an archive; a member without content is a link to the user's file."""
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in members:
                if content is not None:
                    archive.writestr(name, content)
        return buffer.getvalue()
    with tarfile.open(fileobj=buffer, mode="w:gz" if kind == "tar.gz" else "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            else:
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content or b""))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_archives_unfold_nowhere_else_and_follow_no_link(hub, tmp_path, kind):
    row = b'{"prompt": "%d", "completion": "x"}'
    members = [
        ("b/1.jsonl", row % 2),
        ("a.jsonl", row % 0),
        ("b/0.jsonl", row % 1),
        ("../../escaped.jsonl", row % 9),
        (f"{tmp_path}/escaped.jsonl", row % 3),
        ("link.jsonl", None),
        (".hidden.jsonl", row % 9),
    ]
    # A tar file is of another format to `datasets`; what is read is what the file says that it is.
    name = "train.zip" if kind == "zip" else "train.jsonl.gz"
    hub.add_dataset("org/tome", {name: packed(kind, members)})
    rows = read_here(tmp_path, "org/tome")
    questions = sorted(row["messages"][0]["content"] for row in rows)
    assert questions == ["0", "1", "2", "3"]
    assert not list(tmp_path.glob("**/*escaped*"))


def test_a_compressed_file_unfolds_to_no_more_than_the_limit(hub, tmp_path):
    hub.add_dataset("org/tome", {"train.jsonl.gz": gzip.compress(b" " * (8 << 20))})
    with pytest.raises(
        SourceError, match=r"unfold to more than 4.19 MB \(dataset.max_unpacked_bytes\)"
    ):
        read_here(tmp_path, "org/tome", max_unpacked_bytes=4 << 20)


# ---- what a row may cost

BIG = 1 << 20


def oversized(kind: str, path: Path) -> None:
    """Write three rows; the second is over a budget of BIG bytes, 1,000 values and a depth of 20."""
    good = LINE.decode()
    bad = {
        "bytes": json.dumps({"prompt": "x" * (2 * BIG), "completion": "y"}),
        "values": json.dumps(
            {"prompt": "q", "completion": "a", **{f"k{n}": n for n in range(2000)}}
        ),
        "depth": '{"prompt": "q", "completion": "a", "x": ' + "[" * 50 + "]" * 50 + "}",
        "text": json.dumps({"messages": "[" + ",".join("[]" for _ in range(2000)) + "]"}),
    }[kind]
    rows = [good, bad, good]
    text = f"[{', '.join(rows)}]" if path.suffix == ".json" else "\n".join(rows)
    path.write_bytes(text.encode("utf-16" if "utf16" in path.name else "utf-8"))


@pytest.mark.parametrize("name", ["d.jsonl", "d.json", "utf16.jsonl", "utf16.json"])
@pytest.mark.parametrize(
    ("kind", "seen"),
    [
        ("bytes", "2,097,"),
        ("values", "has 2,002 keys and elements"),
        ("depth", "lists and objects 51 deep"),
        ("text", "`messages` has 2,000 keys and elements"),
    ],
)
def test_a_row_over_the_budget_is_named_and_its_neighbours_are_read(tmp_path, kind, seen, name):
    path = tmp_path / name
    oversized(kind, path)
    budget = {"max_row_bytes": BIG, "max_row_values": 1000, "max_row_depth": 20}
    first, second, third = read_here(tmp_path, str(path), **budget)
    assert first["problem"] is third["problem"] is None
    assert second["problem"].startswith(OVERSIZED)
    setting = {"text": "values"}.get(kind, kind)
    limit = {"bytes": BIG, "values": 1000, "depth": 20}[setting]
    assert f"more than dataset.max_row_{setting} ({limit:,})" in second["problem"]
    if "utf16" not in name:
        assert seen in second["problem"]
    three = read_here(tmp_path, str(path))  # the usual budget is generous
    assert not [row for row in three if (row["problem"] or "").startswith(OVERSIZED)]


@pytest.mark.proof  # smaller ones over a smaller budget are in the tests around
def test_a_line_of_100_megabytes_is_one_row_of_the_quarantine(tmp_path):
    for name, (before, between, after) in {
        "d.jsonl": (b"", b"\n", b""),
        "d.json": (b"[", b",", b"]"),
        "d.csv": (b"prompt,completion\n", b"\n", b""),
    }.items():
        good = b"hi,hello" if name == "d.csv" else LINE
        path = tmp_path / name
        with path.open("wb") as file:
            file.write(before + good + between + (b"" if name == "d.csv" else b'{"prompt": "'))
            for _ in range(100):
                file.write(b"x" * (1 << 20))
            file.write((b",y" if name == "d.csv" else b'"}') + between + good + after)
        rows = fetched(tmp_path, str(path))
        assert [row["problem"] is None for row in rows] == [True, False, True], name
        assert "has 104,857,6" in rows[1]["problem"]
        assert rows[1]["problem"].startswith(OVERSIZED)
        path.unlink()


def test_a_quote_that_is_never_closed_costs_its_row_and_no_more(tmp_path):
    path = tmp_path / "d.csv"
    lines = ["prompt,completion", "hi,hello", 'hi,"never closed', *["hi,hello"] * 1000]
    path.write_text("\n".join(lines))
    rows = read_here(tmp_path, str(path), max_row_bytes=1024)
    assert rows[1]["problem"].startswith(OVERSIZED)
    assert sum(row["problem"] is None for row in rows) > 800


def test_rows_of_many_different_keys_are_rows_as_any_other(tmp_path):
    """Arrow would make a column of each key, as long as the batch: gigabytes of a 10 MB file."""
    path = tmp_path / "d.jsonl"
    with path.open("w") as file:
        for row in range(1000):
            keys = {f"{row}-{number}": 1 for number in range(1000)}
            file.write(json.dumps({**GOOD, **keys}) + "\n")
    rows = fetched(tmp_path, str(path), memory_share=1e-9)
    assert len(rows) == 1000
    assert all(row["problem"] is None for row in rows)


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_typed_row_over_the_budget_is_named(tmp_path, kind):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    data = [{"messages": turns} for _ in range(50)]
    data[20] = {"messages": turns * 1000}
    data[30] = {"messages": [turns[0], {"role": "assistant", "content": "x" * (2 * BIG)}]}
    table, path = pa.Table.from_pylist(data), tmp_path / f"d.{kind}"
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    rows = read_here(tmp_path, str(path), max_row_bytes=BIG, max_row_values=1000)
    flawed = {row["row"]: row["problem"] for row in rows if row["problem"]}
    assert list(flawed) == [20, 30]
    assert "dataset.max_row_values (1,000)" in flawed[20]
    assert "dataset.max_row_bytes (1,048,576)" in flawed[30]


# ---- what reading may cost


def bomb(path: Path) -> None:
    """Write a small Parquet file of one text of 20 MB, 2,000 times."""
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int8()), ["x" * (20 << 20)])
    table = pa.table({"prompt": text, "completion": ["a"] * 2000})
    pq.write_table(table, path, compression="zstd", write_statistics=False)
    assert path.stat().st_size < 20_000


def test_a_parquet_bomb_ends_in_a_sentence(tmp_path):
    path = tmp_path / "d.parquet"
    bomb(path)
    with pytest.raises(SourceError) as refusal:
        fetched(tmp_path, str(path), memory_share=1e-9)
    sentence = str(refusal.value)
    assert sentence.startswith(f"dataset.source: {path} (d.parquet) takes more than 1.0 GiB")
    assert "dataset.memory_share" in sentence
    assert "\n" not in sentence


def test_more_rows_than_the_limit_end_the_run(tmp_path):
    path = tmp_path / "d.parquet"
    pq.write_table(pa.table({"prompt": ["q"] * 100_000, "completion": ["a"] * 100_000}), path)
    assert path.stat().st_size < 5000
    with pytest.raises(SourceError, match=r"has more than 50,000 rows \(dataset.max_rows\)"):
        fetched(tmp_path, str(path), max_rows=50_000)


def test_a_reader_that_hangs_is_ended(tmp_path, monkeypatch):
    """A pipe in the place of the file, which nobody ever writes into."""
    from retune.confined import limits
    from tasks.fetch import guarded

    path = tmp_path / "d.jsonl"
    path.write_bytes(LINE)
    version = pin(str(path), None, "dataset", "dataset.source")
    monkeypatch.setattr(guarded, "limits", lambda dataset: limits(dataset) | {"quiet": 2})
    real = guarded.run_confined

    def swapped(script, job, *rest):
        os.mkfifo(tmp_path / "pipe.jsonl")
        files = job.files.model_copy(update={"paths": (tmp_path / "pipe.jsonl",)})
        return real(script, job.model_copy(update={"files": files}), *rest)

    monkeypatch.setattr(guarded, "run_confined", swapped)
    (tmp_path / "out").mkdir()
    with pytest.raises(SourceError, match=r"gave no further rows .*dataset.quiet_minutes"):
        fetch_rows(Dataset(source=str(path)), version, tmp_path / "out")


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_never_ends_is_not_taken_for_a_file(tmp_path, kind):
    path = tmp_path / "d.jsonl"
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    with pytest.raises(SourceError, match="is no file and no folder"):
        pin(str(path), None, "dataset", "dataset.source")


def test_the_reader_has_no_secret_and_the_downloader_only_the_hub_s(hub, tmp_path, monkeypatch):
    from retune.environment import plain

    secrets = {
        "HF_TOKEN": "hf_read",
        "AWS_SECRET_ACCESS_KEY": "canary",
        "PREFECT_API_AUTH_STRING": "canary",
        "MLFLOW_TRACKING_PASSWORD": "canary",
        "MY_PRIVATE_THING": "canary",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    for network, kept in ((False, set()), (True, {"HF_TOKEN"})):
        assert secrets.keys() & plain(hub=network).keys() == kept
    hub.add_dataset("org/tome", {"d.jsonl": LINE}, private=True)
    assert len(fetched(tmp_path, "org/tome")) == 1


# ---- what was pinned is what was read


def test_a_row_appended_after_the_pin_is_not_read_under_it(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_bytes(LINE)
    version = pin(str(path), None, "dataset", "dataset.source")
    with path.open("ab") as file:
        file.write(b"\n" + LINE)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(
        SourceError, match=r"d.jsonl changed while the run was reading it; run again"
    ):
        fetch_rows(Dataset(source=str(path)), version, out)


@pytest.mark.parametrize("how", ["append", "replace", "swap back", "remove", "cut"])
def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path, how):
    path = tmp_path / "d.jsonl"
    path.write_bytes(LINE)
    version = pin(str(path), None, "dataset", "dataset.source")
    with (
        pytest.raises(SourceError, match="changed while the run was reading it"),
        unchanged(path, version, "dataset.source"),
    ):
        if how == "append":
            path.open("ab").write(b"\n")
        elif how == "replace":
            path.unlink()
            path.write_bytes(b"{}")
        elif how == "swap back":  # the same content, but in between it was another
            path.write_bytes(b"{}")
            path.write_bytes(LINE)
        elif how == "remove":
            path.unlink()
        else:
            os.truncate(path, 3)
            raise SourceError("what the reader says of it does not matter")


def test_a_folder_that_changes_while_it_is_read_is_noticed(tmp_path):
    (tmp_path / "a").write_text("1")
    version = pin(str(tmp_path), None, "model", "model.base")
    with unchanged(tmp_path, version, "model.base"):
        pass
    with (
        pytest.raises(SourceError, match=r"model.base: .* changed while"),
        unchanged(tmp_path, version, "model.base"),
    ):
        (tmp_path / "b").write_text("2")


def test_a_folder_that_is_not_what_was_pinned_is_not_begun_with(tmp_path):
    (tmp_path / "a").write_text("1")
    version = pin(str(tmp_path), None, "model", "model.base")
    (tmp_path / "a").write_text("2")  # of the same size
    with (
        pytest.raises(SourceError, match=r"model.base: .* changed while"),
        unchanged(tmp_path, version, "model.base"),
    ):
        pytest.fail("it was begun")
    (tmp_path / "a").write_text("1")
    with unchanged(tmp_path, version, "model.base"):  # it is what was pinned again
        pass


def test_what_git_and_editors_note_in_a_folder_is_no_change(tmp_path):
    (tmp_path / "a").write_text("1")
    (tmp_path / ".git").mkdir()
    version = pin(str(tmp_path), None, "model", "model.base")
    with unchanged(tmp_path, version, "model.base"):
        (tmp_path / ".git" / "index").write_text("2")
        (tmp_path / ".a.swp").write_text("3")
    assert pin(str(tmp_path), None, "model", "model.base") == version


def test_a_folder_that_looks_as_it_did_is_hashed_once(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("1")
    version = pin(str(tmp_path), None, "model", "model.base")
    monkeypatch.setattr("retune.sources.sha256", lambda path: pytest.fail(f"{path} is hashed"))
    with unchanged(tmp_path, version, "model.base"):
        require_unchanged(tmp_path, version, "model.base")


def test_a_commit_and_a_model_that_is_not_named_stay_what_they_are():
    for name, version in (("org/base", "b" * 40), (None, None)):
        with unchanged(name, version, "model.base"):
            pass
    require_unchanged("org/base", "b" * 40, "model.base")


# ---- what crosses the border of the child


@pytest.mark.proof  # the Hub's library waits between its attempts
def test_an_outage_is_worth_a_retry_also_from_the_child(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "1")
    commit = hub.add_dataset("org/tome", {"fresh.jsonl": LINE})
    for method in ("GET", "HEAD"):
        hub.fail(method, "/resolve/", 503, times=500)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ConnectionError, match="the Hub did not answer for org/tome"):
        fetch_rows(Dataset(source="org/tome"), commit, out)


def test_a_file_that_names_another_does_not_have_it_read(tmp_path):
    """The footer of a Parquet file may say that its columns lie in another file."""
    table = pa.table({"prompt": ["secret"], "completion": ["x"]})
    collected = []
    pq.write_to_dataset(table, tmp_path / "mine", metadata_collector=collected)
    metadata = collected[0]
    metadata.set_file_path(str(next((tmp_path / "mine").glob("*.parquet"))))
    metadata.write_metadata_file(tmp_path / "d.parquet")
    with pytest.raises(SourceError, match="cannot read"):
        fetched(tmp_path, str(tmp_path / "d.parquet"))
