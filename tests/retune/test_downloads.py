"""Datasets at an address: copied over https alone, within a limit, and pinned by their content."""

import io
import json
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec

import fsspec
import pytest

from retune import downloads, stores, web
from retune.pinning import UNPINNED, local_selection, pin_dataset, resolved
from retune.recipe import Dataset, Recipe, RecipeError
from retune.records import Pins
from retune.sources import SourceError

LINE = b'{"prompt": "a", "completion": "b"}\n'
LIMIT = 1 << 20


class Website(ThreadingHTTPServer):
    """A web server on the loopback: pages by their paths, each a status, headers and a body."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Page)
        self.pages: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[tuple[str, str | None, str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        condition = self.headers.get("If-None-Match")
        self.server.asked.append((self.path, condition, self.headers.get("Authorization")))
        status, headers, body = self.server.pages.get(self.path, (404, {}, b""))
        if condition and condition == headers.get("ETag"):
            status, body = 304, b""
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    server = Website()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_file_is_copied_once_pinned_by_content_and_copied_again_when_it_changed(site):
    """In confined children, as a run does it."""
    site.pages["/d.jsonl"] = (200, {"ETag": '"1"'}, LINE)
    dataset = Dataset(source=f"{site.url}/d.jsonl")
    first, _ = pin_dataset(dataset)
    assert pin_dataset(dataset)[0] == first
    assert [condition for _, condition, _ in site.asked] == [None, '"1"']
    selection = local_selection(dataset, first)
    assert selection.paths[0].read_bytes() == LINE
    assert len(site.asked) == 2  # what was pinned is here
    site.pages["/d.jsonl"] = (200, {"ETag": '"2"'}, LINE * 2)
    second, _ = pin_dataset(dataset)
    assert second != first
    assert not selection.paths[0].exists()
    recipe = Recipe.parse(
        {"name": "r", "model": {"base": "b"}, "dataset": {"source": dataset.source}}
    )
    again = resolved(recipe, Pins(dataset=first, model="m" * 40)).dataset
    assert again.revision == first
    with pytest.raises(SourceError, match=r"dataset.revision: .* is not sha256:.* any more"):
        pin_dataset(again)
    assert {login for _, _, login in site.asked} == {None}


@pytest.mark.parametrize("headers", [{"ETag": '"1"'}, {}], ids=["named", "unnamed"])
def test_two_parts_of_one_address_are_one_copy_with_both_pins(site, tmp_path, headers):
    files = io.BytesIO()
    with zipfile.ZipFile(files, "w") as archive:
        archive.writestr("a.jsonl", LINE)
        archive.writestr("b.jsonl", LINE * 2)
    site.pages["/d.zip"] = (200, headers, files.getvalue())
    site.pages["/other.jsonl"] = (200, headers, LINE)
    source = f"{site.url}/d.zip"
    dataset = Dataset(
        mix=[
            {"source": source, "data_files": "a.jsonl"},
            {"source": f"{site.url}/other.jsonl"},
            {"source": source, "data_files": "b.jsonl", "split": "train[:1]"},
        ]
    )
    _, pins = pin_dataset(dataset)
    assert [path for path, _, _ in site.asked] == ["/d.zip", "/other.jsonl"]
    chosen = [local_selection(*pinned) for pinned in zip(dataset.parts, pins, strict=True)]
    assert all(path.is_file() for selection in chosen for path in selection.paths)
    assert len(site.asked) == 2  # nothing is asked for again
    assert len(list((tmp_path / "home" / "downloads").glob("*/copy.json"))) == 2


def test_two_parts_that_are_different_files_of_one_copy_are_both_pinned(tmp_path, monkeypatch):
    """What a store's folder gives: the files of each part are their own version."""
    monkeypatch.setenv("RETUNE_HOME", str(tmp_path / "home"))
    copies = []

    def copied(dataset, folder, former, log):
        copies.append(folder)
        for name in ("train-0.jsonl", "test-0.jsonl"):
            (folder / name).write_bytes(LINE * len(name))
        return {"tag": None}

    monkeypatch.setattr(downloads, "_asked", copied)
    parts = [{"source": "s3://b/d", "split": split} for split in ("train", "test")]
    dataset = Dataset(mix=parts)
    _, pins = pin_dataset(dataset)
    assert pins[0] != pins[1]
    names = [
        local_selection(part, pin).names for part, pin in zip(dataset.parts, pins, strict=True)
    ]
    assert names == [("train-0.jsonl",), ("test-0.jsonl",)]
    assert len(copies) == 1
    pin_dataset(dataset)
    assert len(copies) == 2  # a store without versions is asked by each run


def test_a_look_copies_nothing_and_knows_what_was_copied(site, tmp_path):
    site.pages["/d.jsonl"] = (200, {"ETag": '"1"'}, LINE)
    dataset = Dataset(source=f"{site.url}/d.jsonl")
    assert pin_dataset(dataset, copies=False) == (UNPINNED, ())
    assert not (tmp_path / "home").exists()
    version, _ = pin_dataset(dataset)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "home").rglob("*")}
    assert pin_dataset(dataset, copies=False) == (version, ())
    site.pages["/d.jsonl"] = (200, {"ETag": '"2"'}, LINE * 2)
    assert pin_dataset(dataset, copies=False) == (UNPINNED, ())
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "home").rglob("*")} == before
    site.pages.clear()
    with pytest.raises(SourceError, match="answered 404"):
        pin_dataset(dataset, copies=False)
    parts = Dataset(mix=[{"source": dataset.source}, {"source": str(tmp_path / "none.jsonl")}])
    with pytest.raises(SourceError, match=r"dataset\.mix\.0\.source: .* answered 404"):
        pin_dataset(parts, copies=False)


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("file:///etc/passwd", "leads to file:///etc/passwd, and only https is followed"),
        ("http://198.51.100.1/d.jsonl", "only https is followed"),
        ("ftp://127.0.0.1/d.jsonl", "only https is followed"),
        ("/around", "more than 10 redirects"),
        ("https://h.example:99999/x", "no address"),
    ],
)
def test_a_redirect_leads_to_https_alone(site, tmp_path, location, words):
    site.pages["/d.jsonl"] = (302, {"Location": location}, b"")
    site.pages["/around"] = (302, {"Location": "/around"}, b"")
    with pytest.raises(SourceError, match=words):
        web.copy(f"{site.url}/d.jsonl", tmp_path, LIMIT, None)


@pytest.mark.parametrize("target", ["https://127.0.0.1/x", "https://169.254.169.254/latest"])
def test_a_public_server_leads_to_no_private_one(target):
    with pytest.raises(SourceError, match="which is on a private network"):
        web._next("https://198.51.100.1/d.jsonl", "https://198.51.100.1/d.jsonl", target)


@pytest.mark.parametrize(
    ("page", "error", "words"),
    [
        ((404, {}, b""), SourceError, "answered 404; correct the address"),
        ((403, {}, b""), SourceError, "answered 403; put a login for it into ~/.netrc"),
        ((503, {}, b""), ConnectionError, "answered 503"),
        ((200, {"Content-Type": "text/html; x"}, b"<p>"), SourceError, "it is a web page"),
        ((200, {}, b"x" * (LIMIT + 1)), SourceError, "dataset.max_unpacked_bytes"),
        ((200, {"Content-Length": "99"}, b"x"), ConnectionError, "no answer from 127.0.0.1"),
    ],
)
def test_what_a_server_answers_instead_is_told(site, tmp_path, page, error, words):
    site.pages["/d.jsonl"] = page
    with pytest.raises(error, match=words):
        web.copy(f"{site.url}/d.jsonl", tmp_path, LIMIT, None)


def test_names_of_an_address_lead_nowhere(site, tmp_path):
    site.pages["/a/%2e%2e%2fsecret.jsonl"] = (200, {}, LINE)
    web.copy(f"{site.url}/a/%2e%2e%2fsecret.jsonl", tmp_path, LIMIT, None)
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == ["secret.jsonl"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("http://example.org/d.jsonl", "would come unencrypted; use https"),
        ("https://me:hunter2@example.org/d.jsonl", "holds a user's name"),
        ("https://b.s3.amazonaws.com/d?X-Amz-Signature=hunter2", "is signed (X-Amz-Signature)"),
        ("https://example.org/d.jsonl?token=hunter2", "is signed (token)"),
        ("file:///etc/passwd", "give its path alone"),
        ("hf://datasets/org/name", "give its id alone"),
        ("zip://d.jsonl::https://example.org/d.zip", "is no address that is read"),
        ("gopher://example.org/d", "use one of https, http, s3"),
        ("https:///d.jsonl", "names no host"),
    ],
)
def test_an_address_that_is_not_read_or_holds_a_secret_is_refused_unseen(source, words):
    with pytest.raises(RecipeError) as mistake:
        Recipe.parse({"name": "r", "model": {"base": "b"}, "dataset": {"source": source}})
    assert words in str(mistake.value)
    assert "hunter2" not in str(mistake.value)


def test_a_store_without_its_library_says_what_to_install(tmp_path):
    if find_spec("s3fs"):
        pytest.skip("s3fs is there")
    with pytest.raises(SourceError, match="pip install s3fs"):
        stores.copy("s3://bucket/d.jsonl", tmp_path, LIMIT, None)


@pytest.fixture
def memory():
    """A store of fsspec's own, with what s3fs would tell of its files."""
    store = fsspec.filesystem("memory")
    for number, name in enumerate(("d/1.jsonl", "d/0.jsonl", "d/.hidden.jsonl", "e.jsonl")):
        store.pipe(f"/bucket/{name}", LINE * (number + 1))
    yield store
    store.rm("/bucket", recursive=True)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/bucket/e.jsonl", ["e.jsonl"]),
        ("/bucket/d", ["0.jsonl", "1.jsonl"]),
        ("/bucket/d/*.jsonl", ["0.jsonl", "1.jsonl"]),
    ],
)
def test_a_store_gives_a_file_a_folder_or_a_pattern(memory, tmp_path, path, expected):
    stores.copy_files(memory, path, "s3://bucket", tmp_path, LIMIT, None)
    assert sorted(file.name for file in tmp_path.iterdir()) == expected


def test_a_store_s_files_are_bounded_and_named_within_the_folder(memory, tmp_path):
    with pytest.raises(SourceError, match="max_unpacked_bytes"):
        stores.copy_files(memory, "/bucket/d", "s3://bucket", tmp_path / "a", len(LINE), None)
    assert stores._is_hidden("a/../../x.jsonl")
    with pytest.raises(SourceError, match="nothing is at s3://none"):
        stores.copy_files(memory, "/bucket/none", "s3://none", tmp_path / "b", LIMIT, None)


def test_a_store_that_is_only_asked_gives_no_file(memory):
    assert stores.copy_files(memory, "/bucket/d", "s3://b", None, 0, None).keys() == {"tag"}
    with pytest.raises(SourceError, match="nothing is at s3://none"):
        stores.copy_files(memory, "/bucket/none", "s3://none", None, 0, None)


def test_a_store_that_tells_versions_is_not_copied_twice(tmp_path):
    class Store:
        """What s3fs tells of one file."""

        def __init__(self, tag: str) -> None:
            self.tag = tag

        def isfile(self, path: str) -> bool:
            return True

        def info(self, path: str) -> dict[str, object]:
            return {"type": "file", "size": 3, "ETag": self.tag}

        def open(self, path: str, mode: str):
            return fsspec.filesystem("memory").open("/one", mode)

    fsspec.filesystem("memory").pipe("/one", LINE)
    first = stores.copy_files(Store("1"), "b/d.jsonl", "s3://b", tmp_path / "1", LIMIT, None)
    again = stores.copy_files(
        Store("1"), "b/d.jsonl", "s3://b", tmp_path / "2", LIMIT, first["tag"]
    )
    other = stores.copy_files(
        Store("2"), "b/d.jsonl", "s3://b", tmp_path / "3", LIMIT, first["tag"]
    )
    assert again == {"unchanged": True}
    assert other["tag"] != first["tag"]
    assert json.loads((tmp_path / "3" / "d.jsonl").read_text())["prompt"] == "a"


def test_what_a_store_s_library_says_is_not_repeated(tmp_path):
    error = stores._explained(ValueError("key AKIAhunter2 refused"), "s3://b/d.jsonl")
    assert "hunter2" not in str(error)
    assert "credentials" in str(error)
