"""Plants words that nobody may ever see again, and looks for them in everything that a run left.

    python -m tests.canary      # the whole demo, under a canary token and on a canary dataset

The folder that is searched is a home of its own, made for the purpose.
"""

import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

TOKEN = "hf_CanaryTokenCanaryTokenCanaryToken42"
# Kind of secret: what a row holds, and the words of which no trace may be left.
SECRETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "AWS key": (
        "aws_secret_access_key = kAnArYkAnArY1234kAnArYkAnArY5678kAnArY99",
        ("kAnArYkAnArY1234", "kAnArYkAnArY5678"),
    ),
    "GitHub token": (
        "export GITHUB_TOKEN=ghp_CanaryGitHub1234CanaryGitHub123456ab",
        ("CanaryGitHub1234", "CanaryGitHub123456ab"),
    ),
    "JSON Web Token": (
        "Authorization: Bearer eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9."
        "eyJzdWIiOiJjYW5hcnlDQU5BUllDQU5BUlkifQ.Q0FOQVJZc2lnbmF0dXJlQ0FOQVJZc2lnbmF0",
        ("eyJzdWIiOiJjYW5hcnlD", "Q0FOQVJZc2lnbmF0dXJl"),
    ),
    "private key": (
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEcanaryBODYcanaryBODYcanaryBODY01\n"
        "canaryTAILcanaryTAILcanaryTAIL02\n-----END RSA PRIVATE KEY-----",
        ("canaryBODYcanaryBODY", "canaryTAILcanaryTAIL"),
    ),
    "password in an address": (
        "postgresql://app:c4n4ryPassw0rdX9@db.internal:5432/app",
        ("c4n4ryPassw0rdX9",),
    ),
}
# Raw rows as they came: what a dataset's owner stored here, in a folder of mode 0700.
RAW = ("work/fetch/", "demo/", "input/")


def rows() -> list[dict]:
    """Return a row with each secret in its answer, and one with each in a place that is no text."""
    found = []
    for number, (secret, _) in enumerate(SECRETS.values()):
        ask, tell = f"How do I sign in to server {number}?", f"With this: {secret}"
        turns = [{"from": "human", "value": ask}, {"from": "gpt", "value": tell}]
        found += [
            {"conversations": turns, "source": "canary", "score": 4.0},
            {"conversations": [turns[0], {"from": secret, "value": "Hm."}], "score": 4.0},
            {"conversations": secret, "source": "canary", "score": 4.0},
        ]
    return found


def words() -> list[str]:
    """Return every word of which no trace may be left."""
    return [TOKEN.removeprefix("hf_"), *(word for _, said in SECRETS.values() for word in said)]


def traces(folder: Path, wanted: list[str]) -> list[str]:
    """Return `<file>: <word>` for every file below `folder` that holds one of `wanted`.

    Parquet files, gzip files and links are looked into; what lies in RAW is left out.
    """
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or name.startswith(RAW):
            continue
        content = b"\n".join(_contents(path))
        found += [f"{name}: {word}" for word in wanted if word.encode() in content]
    return found


def _contents(path: Path) -> Iterator[bytes]:
    yield path.name.encode()
    yield path.read_bytes()
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        yield json.dumps(pq.read_table(path).to_pylist(), default=str).encode()
    if path.suffix == ".gz":
        yield gzip.decompress(path.read_bytes())


def main() -> None:
    """Run the demo with canaries among its rows; exit with status 1 if any of them is seen again."""
    with tempfile.TemporaryDirectory(prefix="retune-canary-") as scratch:
        home = Path(scratch, "home")
        environment = {**os.environ, "RETUNE_HOME": str(home), "HF_TOKEN": TOKEN}
        command = [sys.executable, "-m", "demo.prepare"]
        subprocess.run(command, env=environment, check=True)
        data = home / "demo" / "finetome-demo.jsonl"
        with data.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows())
        command = [sys.executable, "-m", "flows.cli", "run", "demo"]
        command += ["--set", f"dataset.source={data}", "--set", f"model.base={home}/demo/base"]
        done = subprocess.run(command, env=environment, capture_output=True, check=False)
        seen = done.stdout + done.stderr
        print(done.stdout.decode()[-3000:], done.stderr.decode()[-2000:])
        found = [f"terminal: {word}" for word in words() if word.encode() in seen]
        found += traces(home, words())
        files = sum(path.is_file() for path in home.rglob("*"))
        print(f"{files:,} files searched for {len(words())} words: {found or 'no trace'}")
        sys.exit(bool(found) or done.returncode)


if __name__ == "__main__":
    main()
