"""Which files may leave this machine: regular ones, of known names, right inside their folder.

A base model's folder and what is made of it hold names and contents that strangers chose. A link
among them would publish what it points to: a token, a key, anything that this user may read.
"""

import json
import logging
import os
import re
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retune.escaping import visible
from retune.folders import blobs_of, exists
from retune.home import cache_dir, home
from tasks.publish.access import PublishError

TEXT_LIMIT = (
    2**20
)  # bytes of a text; Llama's licence has 8,000, notices of third parties up to 500,000

# Licences, and what some of them (Llama's, Gemma's) demand to go with every copy: LICENSE.txt,
# LICENSE-MODEL, MODEL_LICENSE, USE_POLICY.md, Notice, THIRD_PARTY_NOTICES.txt.
LICENCES = re.compile(
    r"(third[_-]party[_-]|model[_-])?"
    r"(licen[cs]es?|notices?|copying|copyright|(acceptable[_-])?use[_-]policy|terms[_-]of[_-]use)"
    r"([_-][a-z0-9_-]{1,40})?(\.(txt|md|rst))?",
    re.IGNORECASE | re.ASCII,
)
# What a model's or an adapter's folder holds for those who load it. No code, no pickles (*.bin,
# *.pt, training_args.bin), no logs; the card and the licences are added.
OUTPUTS = re.compile(
    r"(adapter_|generation_)?config\.json"
    r"|(adapter_)?model(-\d{5}-of-\d{5})?\.safetensors"
    r"|(adapter_)?model\.safetensors\.index\.json"
    r"|tokenizer\.(json|model)|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json"
    r"|vocab\.(json|txt)|merges\.txt|spiece\.model|sentencepiece\.bpe\.model|chat_template\.jinja",
    re.ASCII,
)
SETTINGS = re.compile(r"(adapter_|generation_|tokenizer_)?config\.json", re.ASCII)
# A repository on the Hub, in contrast to a folder.
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)

_log = logging.getLogger(__name__)


def outputs_in(folder: Path) -> dict[str, Path]:
    """Return the files of a model or an adapter by their names; other files stay here.

    Raises PublishError when one of them, or the folder itself, is a link or no file.
    """
    if folder.is_symlink():
        raise PublishError(f"{visible(folder)} is a link: only what was made here is published")
    names = sorted(entry.name for entry in folder.iterdir())
    files = {name: folder / name for name in names if OUTPUTS.fullmatch(name)}
    for path in files.values():
        require_regular(path)
    ignored = [visible(name) for name in names if name not in files and not name.startswith(".")]
    if ignored:
        _log.info("not published from %s: %s", folder.name, ", ".join(ignored))
    return files


def require_regular(path: Path) -> Path:
    """Return `path` if it is a file itself. Raises PublishError for links, pipes, folders."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise PublishError(
            f"{visible(path)} is {_kind(path)} and is not published: put the file itself there"
        )
    return path


def read_small(path: Path, limit: int = TEXT_LIMIT) -> bytes:
    """Return what is in a file of at most `limit` bytes.

    A link is not followed, unless into the blobs of the huggingface_hub cache that it is in.
    Raises PublishError for what is a link, no file, or too large.
    """
    try:
        # What was opened is looked at, not its name; and a pipe's writer is not waited for.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(blob_of(path), flags)
    except OSError:
        raise refusal(path, f"is {_kind(path)}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise refusal(path, f"is {_kind(path)}")
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise refusal(path, f"has more than {limit:,} bytes")
    return content


def is_text(content: bytes) -> bool:
    """Tell whether `content` is UTF-8, without control characters but white space."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return not re.search(r"[\x00-\x08\x0b\x0e-\x1f\x7f]", text)


def blob_of(path: Path) -> Path:
    """Return the file that an entry of huggingface_hub's cache refers to; any other path as it is."""
    blobs = blobs_of(path.parent)
    if not blobs or not path.is_symlink():
        return path
    target = Path(os.path.normpath(path.parent / path.readlink()))
    inside = target.parent == Path(os.path.normpath(blobs)) and not blobs.is_symlink()
    return target if inside else path


def without_paths(path: Path, base: str) -> str | None:
    """Return the JSON of a settings file without paths of this machine; None if it names none.

    `base` is how the world knows the base model: it stands where the path of one stood.
    """
    settings = json.loads(path.read_text(encoding="utf-8"))
    cleaned = _cleaned(settings, base)
    return None if cleaned == settings else json.dumps(cleaned, indent=2, ensure_ascii=False) + "\n"


def public_name(source: str) -> str:
    """Return a Hub id as it is, of a path its last part."""
    if HUB_ID.fullmatch(source) and not Path(source).exists():
        return source
    return Path(source).expanduser().absolute().name


def is_local_path(text: str) -> bool:
    """Tell whether `text` is a path of this machine: one that exists, or below a folder of ours."""
    if len(text) > 4096 or "\n" in text or "\0" in text:
        return False
    if re.match(r"[A-Za-z]:\\", text) or text.startswith(("~/", "file:///")):
        return True
    path = Path(text)
    if not path.is_absolute() or len(path.parts) < 3:
        return False
    ours = (home(), Path.home(), cache_dir(), Path.cwd(), Path(tempfile.gettempdir()))
    known = any(path.is_relative_to(folder) for folder in ours if len(folder.parts) > 1)
    return known or exists(path)


def _cleaned(value: Any, base: str, key: str = "") -> Any:
    if isinstance(value, Mapping):
        return {name: _cleaned(item, base, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_cleaned(item, base) for item in value]
    if not isinstance(value, str) or not value:
        return value
    if key in ("base_model_name_or_path", "_name_or_path", "name_or_path"):
        return value if HUB_ID.fullmatch(value) and not Path(value).exists() else base
    return Path(value).name if is_local_path(value) else value


def refusal(path: Path, what: str) -> PublishError:
    """Return the error about a file next to the base model that can't go with what is published."""
    return PublishError(
        f"{visible(path)} {what}, and would be read for publishing: put the text itself there, or "
        f"take the file away"
    )


def _kind(path: Path) -> str:
    try:
        mode = path.lstat().st_mode
    except OSError:
        return "not there"
    if stat.S_ISLNK(mode):
        return f"a link to {visible(path.readlink())}"
    return (
        "a folder" if stat.S_ISDIR(mode) else "not to be read" if stat.S_ISREG(mode) else "no file"
    )
