"""Upload of sets of files, each as one commit of its Hub repository, verified by hash."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.publish.access import (
    PublishError,
    UploadNotVerified,
    check_visibility,
    explained,
    patiently,
)

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

# Weights of an earlier version must not stay next to this one's; other files may be somebody's own.
WEIGHTS = (
    *(".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json"),
    *(".gguf", ".Modelfile"),
)
AT_ONCE = 4  # large files sent at the same time


@dataclass(frozen=True)
class Bundle:
    """What one repository is to hold: local files by their path there.

    `sha256` are the digests that are known from when a file was made, by path in the repository.
    """

    repo: str
    files: Mapping[str, Path]
    sha256: Mapping[str, str]


def publish_bundles(
    api: "HfApi", bundles: Sequence[Bundle], private: bool, message: str
) -> dict[str, str]:
    """Upload every bundle and return the commit URL of each repository.

    Repositories are made where missing. All large files are sent before anything is committed, so
    that readers never see some of a set, and repositories change within seconds of each other. What
    stops halfway is completed by doing it again: files that arrived are not sent twice, and
    publishing the same files again changes nothing. Raises NoAccess, HubUnavailable,
    UploadNotVerified or PublishError, which says what is published already.
    """
    uploads = []
    for bundle in bundles:
        with explained(bundle.repo):
            _open(api, bundle.repo, private)
            uploads.append((bundle, _send(api, bundle)))
    urls: dict[str, str] = {}
    for bundle, additions in uploads:
        try:
            with explained(bundle.repo):
                commit = _commit(api, bundle, additions, message)
                verify(api, bundle.repo, additions, commit)
        except PublishError as error:
            raise _with_state_of_set(error, list(urls), bundles) from None
        urls[bundle.repo] = f"{api.endpoint}/{bundle.repo}/commit/{commit}"
    return urls


def _with_state_of_set(
    error: PublishError, committed: Sequence[str], bundles: Sequence[Bundle]
) -> PublishError:
    """Add to the error which repositories have the new version and which still have the old one."""
    if not committed:
        return error
    rest = [bundle.repo for bundle in bundles if bundle.repo not in committed]
    return type(error)(
        f"{error}; {', '.join(committed)} has this version already, {', '.join(rest)} not: run again to "
        f"complete the set"
    )


def verify(api: "HfApi", repo: str, additions: Sequence["CommitOperationAdd"], commit: str) -> None:
    """Raise UploadNotVerified unless `commit` of `repo` holds exactly the local files."""
    differences = _differences(api, repo, additions, commit)
    if differences:
        raise UploadNotVerified(
            f"{repo} at {commit[:12]} does not hold what was uploaded ({'; '.join(differences)}): do not "
            f"use it; run again, or go back to the commit before it on the Hub"
        )


def _open(api: "HfApi", repo: str, private: bool) -> None:
    patiently(lambda: api.create_repo(repo, private=private, exist_ok=True))
    check_visibility(api, repo, private)


def _send(api: "HfApi", bundle: Bundle) -> list["CommitOperationAdd"]:
    """Send the large files, uncommitted, once they are found to be what was made.

    Each file is asked for by itself, so that the storage's address is fresh when its turn comes, and
    a file that has arrived stays arrived whatever becomes of the others.
    """
    from huggingface_hub import CommitOperationAdd

    additions = [CommitOperationAdd(name, path) for name, path in bundle.files.items()]

    def send(addition: "CommitOperationAdd") -> None:
        _require_unchanged(addition, bundle.sha256.get(addition.path_in_repo))
        patiently(lambda: api.preupload_lfs_files(bundle.repo, [addition]))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(send, additions))  # the first failure cancels what has not begun
    return additions


def _require_unchanged(addition: "CommitOperationAdd", sha256: str | None) -> None:
    if sha256 and addition.upload_info.sha256.hex() != sha256:
        raise PublishError(
            f"{addition.path_in_repo} has changed since it was made ({_path(addition)}): "
            f"delete its folder and run again"
        )


def _path(addition: "CommitOperationAdd") -> Path:
    """Return the file that an addition is made of; ours are of files alone."""
    assert isinstance(addition.path_or_fileobj, str | Path)
    return Path(addition.path_or_fileobj)


def _commit(
    api: "HfApi", bundle: Bundle, additions: list["CommitOperationAdd"], message: str
) -> str:
    """Commit the additions on top of the head that is there now; returns the commit's id."""
    parent = patiently(lambda: api.model_info(bundle.repo)).sha
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        *additions,
        *_removals(api, bundle),
    ]

    def commit() -> str:
        head = api.model_info(bundle.repo).sha
        if head and head != parent and not _differences(api, bundle.repo, additions, head):
            return head  # an earlier attempt arrived; only its answer was lost
        return api.create_commit(
            bundle.repo, operations, commit_message=message, parent_commit=parent
        ).oid

    return patiently(commit)


def _removals(api: "HfApi", bundle: Bundle) -> list["CommitOperationDelete"]:
    from huggingface_hub import CommitOperationDelete

    names = patiently(lambda: api.list_repo_files(bundle.repo))
    stale = [name for name in names if name.endswith(WEIGHTS) and name not in bundle.files]
    return [CommitOperationDelete(name) for name in stale]


def _differences(
    api: "HfApi", repo: str, additions: Sequence["CommitOperationAdd"], commit: str
) -> list[str]:
    """Return a few words for each file that the Hub does not hold as it is here."""
    from huggingface_hub.hf_api import RepoFile
    from huggingface_hub.utils.sha import git_hash

    names = [addition.path_in_repo for addition in additions]
    entries = {
        entry.path: entry
        for entry in patiently(lambda: api.get_paths_info(repo, names, revision=commit))
        if isinstance(entry, RepoFile)
    }
    differences = []
    for addition in additions:
        entry = entries.get(addition.path_in_repo)
        if entry is None:
            differences.append(f"{addition.path_in_repo} is missing")
            continue
        if entry.lfs:
            here, hub = addition.upload_info.sha256.hex(), entry.lfs.sha256
        else:
            here, hub = git_hash(_path(addition).read_bytes()), entry.blob_id
        if here != hub:
            differences.append(f"{entry.path} has {hub[:12]} instead of {here[:12]}")
    return differences
