"""A Hugging Face Hub on the loopback, as huggingface_hub and datasets see it.

It speaks the Hub's HTTP API (sign-in, repositories, LFS uploads, commits, downloads), keeps
everything in memory, and can be told to misbehave.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml

SMALL = 10_000  # bytes; larger files and those with the suffixes below travel as LFS
LARGE_SUFFIXES = (".safetensors", ".gguf", ".parquet", ".bin", ".arrow")


def git_blob_id(content: bytes) -> str:
    """Return git's id of a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repo:
    """One repository: its files by commit, oldest first."""

    kind: str
    id: str
    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.head]

    def commit(self, files: Mapping[str, bytes], deleted: tuple[str, ...] = ()) -> str:
        """Add and delete files on top of the head; returns the new commit's sha."""
        old = self.files if self.commits else {}
        tree = {path: old[path] for path in old if path not in deleted} | dict(files)
        listing = [(path, hashlib.sha256(tree[path]).hexdigest()) for path in sorted(tree)]
        sha = hashlib.sha1(json.dumps([self.id, len(self.commits), listing]).encode()).hexdigest()
        self.commits[sha] = tree
        return sha


@dataclass
class Fault:
    """An answer given instead of the real one: `times` times, to requests that match."""

    method: str
    path: str
    status: int  # 0: the connection drops
    times: int
    after: bool  # the request is carried out first; only its answer is lost
    truncated: bool  # the connection drops in the middle of the answer
    slow: float  # seconds of silence before the answer
    headers: dict[str, str]


class Hub:
    """The server and its content. `you` is signed in with `hf_write`; `hf_read` may only read."""

    def __init__(self) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self.server.daemon_threads = True
        self.server.hub = self  # type: ignore[attr-defined]
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        self.reset()

    def start(self) -> None:
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def reset(self) -> None:
        """Forget everything: repositories, tokens, faults, requests."""
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}  # LFS contents by sha256
        self.tampered: set[str] = set()  # paths whose hash is reported wrong
        self.tokens: dict[str, dict[str, Any]] = {
            "hf_write": {"role": "write"},
            "hf_read": {"role": "read"},
        }
        self.orgs = [
            {"name": "team", "roleInOrg": "write"},
            {"name": "others", "roleInOrg": "read"},
        ]
        self.faults: list[Fault] = []
        self.requests: list[str] = []  # "POST /api/repos/create", oldest first
        self.received = 0  # bytes of large files, sent in vain or not
        self.chunk_size: int | None = None  # bytes; larger files are sent in parts of this size
        self.parts: dict[str, dict[int, bytes]] = {}  # by sha256, then number

    def add_dataset(self, name: str, files: Mapping[str, bytes], private: bool = False) -> str:
        """Commit `files` to the dataset repository `name`, made if need be; returns the sha."""
        return self._add("dataset", name, files, private)

    def add_model(self, name: str, files: Mapping[str, bytes], private: bool = False) -> str:
        """Commit `files` to the model repository `name`, made if need be; returns the sha."""
        return self._add("model", name, files, private)

    def model(self, name: str) -> Repo:
        return self.repos["model", name]

    def fail(
        self,
        method: str,
        path: str,
        status: int,
        times: int = 1,
        after: bool = False,
        truncated: bool = False,
        slow: float = 0,
        **headers: str,
    ) -> None:
        """Answer `status` to the next `times` requests whose path contains `path`; 0 hangs up.

        `after`: do what was asked, then lose the answer. `truncated`: hang up halfway through the
        answer. `slow`: keep silent for so many seconds first. Headers as Retry_After="1".
        """
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.faults.append(Fault(method, path, status, times, after, truncated, slow, named))

    def _add(self, kind: str, name: str, files: Mapping[str, bytes], private: bool) -> str:
        repo = self.repos.setdefault((kind, name), Repo(kind, name, private))
        return repo.commit(files)

    def fault(self, method: str, path: str) -> Fault | None:
        """Take the fault that this request runs into, if any."""
        for fault in self.faults:
            if fault.times and fault.method == method and fault.path in path:
                fault.times -= 1
                return fault
        return None


class _Refused(Exception):
    """An answer other than 200, with the headers and text that the Hub sends."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or every second request waits 40 ms for an acknowledgement
    server: Any

    @property
    def hub(self) -> Hub:
        return self.server.hub

    def log_message(self, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        self.url = urlsplit(self.path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            self.body = self._read_chunks()
        path = unquote(self.url.path)
        self.hub.requests.append(f"{self.command} {path}")
        fault = self.hub.fault(self.command, path)
        if fault and not (fault.after or fault.truncated):
            return self._misbehave(fault)
        status, headers, body = self._result(path)
        if fault and fault.truncated:
            self._send(status, headers | {"Content-Length": str(len(body))}, body[: len(body) // 2])
            self.close_connection = True
        elif fault:
            self._misbehave(fault)
        else:
            self._send(status, headers, body)

    do_GET = do_HEAD = do_POST = do_PUT = _answer  # noqa: N815

    def _result(self, path: str) -> tuple[int, dict[str, str], bytes]:
        try:
            for method, pattern, action in _ROUTES:
                match = pattern.fullmatch(path)
                if match and self.command in method.split():
                    result = action(self, **match.groupdict())
                    if isinstance(result, tuple):
                        return result
                    return 200, {"Content-Type": "application/json"}, json.dumps(result).encode()
            raise _Refused(404, f"no such address: {self.command} {path}")
        except _Refused as refusal:
            body = json.dumps({"error": str(refusal)}).encode()
            return refusal.status, refusal.headers | {"Content-Type": "application/json"}, body

    def _misbehave(self, fault: Fault) -> None:
        if fault.slow:
            threading.Event().wait(fault.slow)  # not time.sleep: tests replace it
        if fault.status:
            return self._send(fault.status, fault.headers, b"")
        self.close_connection = True

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _read_chunks(self) -> bytes:
        body = b""
        while length := int(self.rfile.readline(), 16):
            body += self.rfile.read(length)
            self.rfile.readline()
        self.rfile.readline()
        return body

    # who may do what

    def _role(self) -> str:
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if not scheme:
            return ""
        if token not in self.hub.tokens:
            raise _Refused(401, "Invalid credentials in Authorization header")
        return self.hub.tokens[token]["role"]

    def _require_write(self, namespace: str) -> None:
        if not self._role():
            raise _Refused(401, "Invalid username or password.")
        may = ["you"] + [org["name"] for org in self.hub.orgs if org["roleInOrg"] != "read"]
        if self._role() == "read" or namespace not in may:
            raise _Refused(403, f"You may not write under the namespace {namespace}")

    def _repo(self, kind: str | None, name: str) -> Repo:
        kind = (kind or "model").removesuffix("/").removesuffix("s")
        role = self._role()
        repo = self.hub.repos.get((kind, name))
        if not repo or (repo.private and not role):
            raise _Refused(404 if role else 401, "Repository not found", "RepoNotFound")
        return repo

    def _files(self, repo: Repo, revision: str | None) -> tuple[str, dict[str, bytes]]:
        sha = repo.head if revision in (None, "main") else revision
        if sha not in repo.commits:
            raise _Refused(404, f"Invalid rev id: {sha}", "RevisionNotFound")
        return sha, repo.commits[sha]

    # reading

    def whoami(self) -> Any:
        if not self._role():
            raise _Refused(401, "Invalid username or password.")
        token = self.hub.tokens[self.headers["Authorization"].removeprefix("Bearer ")]
        auth = {"type": "access_token", "accessToken": token}
        return {"type": "user", "name": "you", "orgs": self.hub.orgs, "auth": auth}

    def info(self, kind: str, name: str, revision: str | None = None) -> Any:
        repo = self._repo(kind, name)
        sha, files = self._files(repo, revision)
        entries = [_entry(path, files[path]) for path in sorted(files)]
        siblings = [{"rfilename": e["path"], "blobId": e["oid"], **e} for e in entries]
        return {
            "id": name,
            "sha": sha,
            "private": repo.private,
            "disabled": False,
            "gated": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "lastModified": "2026-11-23T00:00:00.000Z",
            "siblings": siblings,
            **_card_data(files),
        }

    def refs(self, kind: str, name: str) -> Any:
        head = self._repo(kind, name).head
        main = {"name": "main", "ref": "refs/heads/main", "targetCommit": head}
        return {"branches": [main], "tags": [], "converts": []}

    def tree(self, kind: str, name: str, revision: str, folder: str | None = None) -> Any:
        _, files = self._files(self._repo(kind, name), revision)
        below = f"{folder}/" if folder else ""
        entries = _tree(files)
        found = [entry for path, entry in entries.items() if path.startswith(below)]
        if below and not found:
            raise _Refused(404, f"{folder} does not exist", "EntryNotFound")
        if parse_qs(self.url.query).get("recursive", ["false"])[0].lower() == "true":
            return found
        return [entry for entry in found if "/" not in entry["path"].removeprefix(below)]

    def paths_info(self, kind: str, name: str, revision: str) -> Any:
        _, files = self._files(self._repo(kind, name), revision)
        form = parse_qs(self.body.decode())
        found = [_tree(files).get(path.strip("/")) for path in form.get("paths", [])]
        return [self._tampered(entry) for entry in found if entry]

    def _tampered(self, entry: dict[str, Any]) -> dict[str, Any]:
        if entry["path"] not in self.hub.tampered:
            return entry
        wrong = {"oid": "0" * 40}
        return entry | wrong | ({"lfs": entry["lfs"] | {"oid": "0" * 64}} if "lfs" in entry else {})

    def resolve(self, kind: str | None, name: str, revision: str, path: str) -> Any:
        sha, files = self._files(self._repo(kind, name), revision)
        headers = {"X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        if path not in files:
            raise _Refused(404, f"{path} does not exist", "EntryNotFound")
        content = files[path]
        entry = _entry(path, content)
        headers["ETag"] = f'"{entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]}"'
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return 200, headers, content
        first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return 206, headers, content[first : last + 1]

    # writing

    def create(self) -> Any:
        wanted = json.loads(self.body)
        namespace = wanted.get("organization") or "you"
        self._require_write(namespace)
        name, kind = f"{namespace}/{wanted['name']}", wanted.get("type", "model")
        url = f"{self.hub.endpoint}/{'' if kind == 'model' else kind + 's/'}{name}"
        if (kind, name) in self.hub.repos:
            said = {"error": f"You already created this {kind} repo: {name}", "url": url}
            return 409, {"Content-Type": "application/json"}, json.dumps(said).encode()
        private = wanted.get("private") or wanted.get("visibility") == "private"
        repo = self.hub.repos[kind, name] = Repo(kind, name, bool(private))
        repo.commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        return {"url": url, "name": name}

    def validate_yaml(self) -> Any:
        return {"errors": [], "warnings": []}

    def preupload(self, kind: str, name: str, revision: str) -> Any:
        self._require_write(name.split("/")[0])
        _, files = self._files(self._repo(kind, name), revision)
        return {
            "files": [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if _is_large(file["path"], file["size"]) else "regular",
                    "shouldIgnore": False,
                    "oid": _content_id(file["path"], files.get(file["path"])),
                }
                for file in json.loads(self.body)["files"]
            ]
        }

    def lfs_batch(self, kind: str | None, name: str) -> Any:
        self._require_write(name.split("/")[0])
        answers = []
        for wanted in json.loads(self.body)["objects"]:
            new = wanted["oid"] not in self.hub.objects
            answers.append(wanted | ({"actions": self._upload_actions(**wanted)} if new else {}))
        return {"transfer": "basic", "objects": answers}

    def _upload_actions(self, oid: str, size: int) -> dict[str, Any]:
        # The storage is another host than the Hub, as the real one.
        href = f"{self.hub.endpoint.replace('127.0.0.1', 'localhost')}/lfs/{oid}"
        verify = {"href": f"{self.hub.endpoint}/lfs/{oid}/verify"}
        chunk = self.hub.chunk_size
        if not chunk or size <= chunk:
            return {"upload": {"href": href}, "verify": verify}
        parts = {f"{n:05}": f"{href}/{n}" for n in range(1, -(-size // chunk) + 1)}
        header = {"chunk_size": str(chunk), **parts}
        return {"upload": {"href": f"{href}/complete", "header": header}, "verify": verify}

    def lfs_put(self, oid: str, part: str | None = None) -> Any:
        self.hub.received += len(self.body)
        if part is None:
            return self._store(oid, self.body)
        self.hub.parts.setdefault(oid, {})[int(part)] = self.body
        return 200, {"ETag": hashlib.md5(self.body).hexdigest()}, b""

    def lfs_complete(self, oid: str) -> Any:
        parts = self.hub.parts.pop(oid, {})
        etags = [hashlib.md5(parts[number]).hexdigest() for number in sorted(parts)]
        if [part["etag"] for part in json.loads(self.body)["parts"]] != etags:
            raise _Refused(400, "the parts are not those that were sent")
        return self._store(oid, b"".join(parts[number] for number in sorted(parts)))

    def _store(self, oid: str, content: bytes) -> Any:
        if hashlib.sha256(content).hexdigest() != oid:
            raise _Refused(400, "the content does not have the promised sha256")
        self.hub.objects[oid] = content
        return {}

    def lfs_verify(self, oid: str) -> Any:
        if len(self.hub.objects.get(oid, b"")) != json.loads(self.body)["size"]:
            raise _Refused(404, "no object of that size has arrived")
        return {}

    def commit(self, kind: str, name: str, revision: str) -> Any:
        self._require_write(name.split("/")[0])
        repo = self._repo(kind, name)
        lines = [json.loads(line) for line in self.body.splitlines()]
        parent = lines[0]["value"].get("parentCommit")
        if parent not in (None, repo.head):
            raise _Refused(412, "A commit has happened since. Please refresh and try again.")
        added: dict[str, bytes] = {}
        deleted = []
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                added[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                added[value["path"]] = self.hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                deleted.append(value["path"])
        sha = repo.commit(added, tuple(deleted))
        url = f"{self.hub.endpoint}/{quote(name)}/commit/{sha}"
        return {"success": True, "commitUrl": url, "commitOid": sha}


def _card_data(files: Mapping[str, bytes]) -> dict[str, Any]:
    block = re.match(rb"---\n(.*?)\n---\n", files.get("README.md", b""), re.DOTALL)
    return {"cardData": yaml.safe_load(block[1])} if block else {}


def _is_large(path: str, size: int) -> bool:
    return size > SMALL or path.endswith(LARGE_SUFFIXES)


def _entry(path: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content)}
    if not _is_large(path, len(content)):
        return entry | {"oid": git_blob_id(content)}
    oid = hashlib.sha256(content).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n"
    lfs = {"oid": oid, "size": len(content), "pointerSize": len(pointer)}
    # The Hub calls it oid below /tree and sha256 below `siblings`.
    return entry | {"oid": git_blob_id(pointer.encode()), "lfs": lfs | {"sha256": oid}}


def _content_id(path: str, content: bytes | None) -> str | None:
    if content is None:
        return None
    entry = _entry(path, content)
    return entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]


def _tree(files: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = {}
    for path in sorted(files):
        parts = path.split("/")
        for depth in range(1, len(parts)):
            folder = "/".join(parts[:depth])
            oid = hashlib.sha1(folder.encode()).hexdigest()
            entries[folder] = {"type": "directory", "path": folder, "oid": oid, "size": 0}
        entries[path] = _entry(path, files[path])
    return entries


_API = r"/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)"
_PAGE = r"/(?P<kind>datasets/)?(?P<name>[^/]+/[^/]+)"
_ROUTES = [
    (methods, re.compile(pattern), action)
    for methods, pattern, action in (
        ("GET", "/api/whoami-v2", _Handler.whoami),
        ("POST", "/api/repos/create", _Handler.create),
        ("POST", "/api/validate-yaml", _Handler.validate_yaml),
        ("GET", rf"{_API}", _Handler.info),
        ("GET", rf"{_API}/revision/(?P<revision>[^/]+)", _Handler.info),
        ("GET", rf"{_API}/refs", _Handler.refs),
        ("GET", rf"{_API}/tree/(?P<revision>[^/]+)(/(?P<folder>.+))?", _Handler.tree),
        ("POST", rf"{_API}/paths-info/(?P<revision>[^/]+)", _Handler.paths_info),
        ("POST", rf"{_API}/preupload/(?P<revision>[^/]+)", _Handler.preupload),
        ("POST", rf"{_API}/commit/(?P<revision>[^/]+)", _Handler.commit),
        ("POST", rf"{_PAGE}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
        ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})(/(?P<part>\d+))?", _Handler.lfs_put),
        ("POST", "/lfs/(?P<oid>[0-9a-f]{64})/complete", _Handler.lfs_complete),
        ("POST", "/lfs/(?P<oid>[0-9a-f]{64})/verify", _Handler.lfs_verify),
        ("GET HEAD", rf"{_PAGE}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
    )
]
