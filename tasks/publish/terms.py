"""Under what licence a release may be used: what the base model's and the dataset's own cards say."""

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from retune.data_files import is_pattern, pattern_root
from retune.documents import read_yaml
from retune.escaping import visible
from retune.recipe import Recipe, RecipeError
from retune.recipe.address import is_address
from retune.sources import local_path
from tasks.publish.access import explained, patiently
from tasks.publish.files import LICENCES, TEXT_LIMIT, is_text, read_small, refusal

if TYPE_CHECKING:
    from huggingface_hub import HfApi

LONGEST = 200  # characters of a licence's name
VALUES = 500_000  # of a card; one of a dataset in 2,000 languages has 30,000
WEB = re.compile(r"https?://[\w.-]+(:\d+)?(/[\w.~%!$&'*+,;=:@/?#-]*)?", re.ASCII)
SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:|[/\\]", re.IGNORECASE)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Terms:
    """What a repository or folder says of its licence, in its own words: to be escaped.

    `licence` is the Hub's name for it, None if nothing is said. `name` and `link` tell what `other`
    means; the link is a web address or one of `files`. `files` are the texts of the licence by their
    names, `missing` the names of those that can't be carried.
    """

    licence: str | None = None
    name: str | None = None
    link: str | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


def terms_of(
    api: "HfApi", source: str, pin: str, kind: Literal["model", "dataset"], setting: str
) -> Terms:
    """Read the licence of an input at the version that was used; only a model's files are fetched.

    `pin` is a Hub commit or `sha256:` of local files. Raises PublishError.
    """
    if pin.startswith("sha256:"):
        if is_address(source):
            return Terms()  # a file alone, with no card beside it
        path = _local(source, setting)
        assert path, "pinned as a file"
        return _terms_of_folder(path if path.is_dir() else path.parent, kind)
    with explained(source):
        look_up: Callable[..., Any] = api.model_info if kind == "model" else api.dataset_info
        info = patiently(partial(look_up, source, revision=pin, files_metadata=True))
        sizes = {file.rfilename: file.size for file in info.siblings or ()}
        names = [name for name in sizes if kind == "model" and LICENCES.fullmatch(name)]
        files = {
            name: _download(api, source, name, pin)
            for name in names
            if (sizes[name] or 0) <= TEXT_LIMIT
        }
    texts = {name: content for name, content in files.items() if is_text(content)}
    missing = tuple(name for name in names if name not in texts)
    if missing:
        _log.warning(
            "%s of %s is no text of up to %s bytes", ", ".join(missing), source, TEXT_LIMIT
        )
    metadata = info.card_data.to_dict() if info.card_data else {}
    return _terms(metadata, texts, f"https://huggingface.co/{source}/blob/{pin}", missing)


def check_terms(recipe: Recipe) -> None:
    """Find out, before GPU time is spent, whether the texts next to local inputs can be read.

    Raises PublishError for a licence or a card that is a link, too large or no text.
    """
    datasets = [(part.source, "dataset", "dataset.source") for part in recipe.dataset.parts]
    for source, kind, setting in ((recipe.model.base, "model", "model.base"), *datasets):
        if not is_address(source) and (path := _local(source, setting)):
            _terms_of_folder(path if path.is_dir() else path.parent, kind)


def _local(source: str, setting: str) -> Path | None:
    """Return the file or folder that a source is; of a pattern, the folder in which it is looked for."""
    if is_pattern(source):
        return pattern_root(source)
    return local_path(source, setting)


def _download(api: "HfApi", source: str, name: str, pin: str) -> bytes:
    path = patiently(lambda: api.hf_hub_download(source, name, revision=pin))
    return read_small(Path(path))


def _terms_of_folder(folder: Path, kind: str) -> Terms:
    paths = [path for path in sorted(folder.iterdir()) if LICENCES.fullmatch(path.name)]
    texts = [path for path in paths if path.is_symlink() or not path.is_dir()]
    files = {path.name: _text(path) for path in texts if kind == "model"}
    return _terms(_metadata(folder / "README.md"), files, None)


def _text(path: Path) -> bytes:
    content = read_small(path)
    if not is_text(content):
        raise refusal(path, "is not text in UTF-8")
    return content


def _metadata(card: Path) -> Mapping[str, Any]:
    """Return the YAML at the head of a card, empty if there is no card or no YAML in it."""
    if not (card.is_symlink() or card.exists()):
        return {}
    try:
        metadata = read_yaml(_head(read_small(card).decode(errors="replace")), "", VALUES)
    except RecipeError:
        # Without the reason: that quotes the file.
        raise refusal(card, "has a block between lines of --- that is not YAML") from None
    return metadata if isinstance(metadata, dict) else {}


def _head(text: str) -> str:
    """Return what stands between the card's first line of --- and the next, if there are two."""
    first, *lines = re.split(r"\r\n|\r|\n", text.lstrip())
    return "\n".join(lines[: lines.index("---")]) if first == "---" and "---" in lines else ""


def _terms(
    metadata: Mapping[str, Any],
    files: Mapping[str, bytes],
    home: str | None,
    missing: tuple[str, ...] = (),
) -> Terms:
    licence = metadata.get("license")
    if isinstance(licence, list):  # a dataset may have several
        parts = [part for part in map(_words, licence[:20]) if part]
        licence = ", ".join(parts) or None
    link = _link(_words(metadata.get("license_link")), files, home)
    return Terms(_words(licence), _words(metadata.get("license_name")), link, files, missing)


def _words(value: Any) -> str | None:
    """Return a value of a card if it is a few words; a card may hold anything."""
    if not isinstance(value, str) or not value.strip() or len(value) > LONGEST:
        return None
    return visible(value)


def _link(link: str | None, files: Mapping[str, bytes], home: str | None) -> str | None:
    """Return where a card's link leads: one of `files`, or a web address; None for anything else."""
    if not link or link in files or WEB.fullmatch(link):
        return link
    if SCHEME.match(link) or ".." in link.split("/") or not home:
        return None
    return f"{home}/{quote(link)}"
