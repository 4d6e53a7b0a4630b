"""Under what licence a release may be used: what the base model's and the dataset's own cards say."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from retune.sources import local_path
from tasks.publish.access import PublishError, explained, patiently

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# Some licences (Llama's, Gemma's) must go with every copy of what is made of the model.
FILES = re.compile(r"(licen[cs]e|notice|use_policy|copying)\b[^/]*", re.IGNORECASE)


@dataclass(frozen=True)
class Terms:
    """What a repository or folder says of its licence.

    `licence` is the Hub's name for it, None if nothing is said. `name` and `link` tell what `other`
    means. `files` are the texts of the licence, by their names.
    """

    licence: str | None = None
    name: str | None = None
    link: str | None = None
    files: Mapping[str, Path] = field(default_factory=dict)


def terms_of(
    api: "HfApi", source: str, pin: str, kind: Literal["model", "dataset"], setting: str
) -> Terms:
    """Read the licence of an input at the version that was used; only a model's files are fetched.

    `pin` is a Hub commit or `sha256:` of local files. Raises PublishError.
    """
    if pin.startswith("sha256:"):
        path = local_path(source, setting)
        assert path, "pinned as a file"
        return _terms_of_folder(path if path.is_dir() else path.parent, kind)
    with explained(source):
        info = patiently(lambda: api.repo_info(source, repo_type=kind, revision=pin))
        names = [file.rfilename for file in info.siblings or () if FILES.fullmatch(file.rfilename)]
        files = {
            name: Path(patiently(lambda name=name: api.hf_hub_download(source, name, revision=pin)))
            for name in (names if kind == "model" else ())
        }
    stated = info.card_data.to_dict() if info.card_data else {}
    return _terms(stated, files, f"https://huggingface.co/{source}/blob/{pin}")


def _terms_of_folder(folder: Path, kind: str) -> Terms:
    import yaml
    from huggingface_hub import metadata_load

    card = folder / "README.md"
    try:
        stated = metadata_load(card) if card.is_file() else None
    except (ValueError, yaml.YAMLError) as error:
        raise PublishError(
            f"{card}: the block between the lines of --- is not YAML: {error}"
        ) from None
    texts = [path for path in sorted(folder.iterdir()) if FILES.fullmatch(path.name)]
    return _terms(stated or {}, {path.name: path for path in texts if kind == "model"}, None)


def _terms(stated: Mapping[str, Any], files: Mapping[str, Path], home: str | None) -> Terms:
    licence, link = stated.get("license"), stated.get("license_link")
    if isinstance(licence, list):  # a dataset may have several
        licence = ", ".join(map(str, licence))
    relative = link and "://" not in link and link not in files
    if relative:
        link = f"{home}/{link}" if home else None
    return Terms(licence, stated.get("license_name"), link, files)
