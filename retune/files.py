"""Files: written whole, told apart by their contents, and counted."""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any


def write_json(path: Path, value: Any) -> None:
    """Write `value` for people to read."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False))


def write_whole(path: Path, text: str) -> None:
    """Write `text` to `path` so that a reader sees the old file or the new one, never a part."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        file.write(text)
    Path(file.name).replace(path)


def digest(value: Any) -> str:
    """Return 16 hex digits that identify `value` (anything JSON can hold)."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sha256(path: Path) -> str:
    """Return the sha256 of a file, or of a folder's file names and contents.

    Hidden files are not of a folder's contents: what git, a download or an editor notes there.
    """
    if path.is_dir():
        listing = {name: sha256(file) for name, file in files_in(path).items()}
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_in(folder: Path) -> dict[str, Path]:
    """Return the files below a folder by their paths there, in order, but for what is hidden."""
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
    return {name: path for name, path in paths.items() if "/." not in f"/{name}" and path.is_file()}


def size(path: Path) -> int:
    """Return the bytes in a file or folder."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size
