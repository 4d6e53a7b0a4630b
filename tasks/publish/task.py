"""publish: adapter, merged model and GGUF files go to the Hugging Face Hub, with model cards."""

from pathlib import Path
from typing import Any

from prefect import get_run_logger

from retune.building import building
from retune.files import size
from retune.modelfile import hub_files
from retune.outputs import Step, is_rejected
from retune.recipe import Recipe
from retune.records import Adapter, Gguf, Merged, Pins, Published, Scores
from tasks.publish.access import (
    HubUnavailable,
    NoAccess,
    PublishError,
    UploadNotVerified,
    connect,
    hub,
    require_access,
)
from tasks.publish.cards import Release, card, modelfile_of, recommended
from tasks.publish.files import SETTINGS, outputs_in, public_name, require_regular, without_paths
from tasks.publish.terms import Terms, check_terms, terms_of
from tasks.publish.upload import Bundle, publish_bundles
from tasks.stage import secret_block, stage

__all__ = [
    "Bundle",
    "HubUnavailable",
    "NoAccess",
    "PublishError",
    "UploadNotVerified",
    "check_access",
    "check_terms",
    "publish",
    "publish_bundles",
]


def check_access(recipe: Recipe) -> None:
    """Find out, before GPU time is spent, whether the Hub would allow publishing. Raises PublishError."""
    require_access(recipe, hub(recipe.publishing, secret))


def secret(name: str) -> str:
    """Return what the Secret block of Prefect holds. Raises NoAccess."""
    token = secret_block(name)
    if not token:
        raise NoAccess(
            f"publishing.token_secret: Prefect has no Secret block {name!r} that holds a token: make "
            f"one in its UI below Blocks"
        )
    return token


def _hub_was_unavailable(_task: Any, _run: Any, state: Any) -> bool:
    """Retry an outage; a missing permission stays missing."""
    return isinstance(state.result(raise_on_failure=False), HubUnavailable)


@stage(name="publish", retries=3, retry_delay_seconds=300, retry_condition_fn=_hub_was_unavailable)
def publish(
    adapter: Adapter,
    merged: Merged | None,
    ggufs: list[Gguf],
    scores: Scores,
    recipe: Recipe,
    pins: Pins,
    step: Step,
) -> Published:
    """Upload what the recipe asks for, of `ggufs` all, and verify it by hash."""
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()  # they would fill the log
    api = hub(recipe.publishing, secret)
    if failed := [gguf.file for gguf in ggufs if is_rejected(gguf.step)]:
        raise PublishError(f"{failed[0]} failed its gate and is not published")
    onto = merged.params.get("merged_onto", "") if merged and recipe.model.load_in_4bit else ""
    release = Release(recipe, pins, scores.metrics, ggufs, *_terms(recipe, pins), onto)
    if not release.repos:
        raise PublishError("nothing to publish: GGUF files are wanted and none passed its gate")
    with building(step) as build:
        bundles = bundles_of(release, adapter, merged, build.path / "cards")
        message = f"{recipe.name}, dataset {pins.dataset[:19]}"
        commits = publish_bundles(api, bundles, recipe.publishing.private, message)
        for url in commits.values():
            get_run_logger().info("published and verified %s", url)
        bytes_sent = sum(size(path) for bundle in bundles for path in bundle.files.values())
        best = recommended(ggufs) if "gguf" in release.repos else None
        return build.finish(
            Published,
            commits=commits,
            model=commits[release.main],
            params=commits | ({"recommended": best.file, "sha256": best.sha256} if best else {}),
            metrics={"bytes": bytes_sent, "files": sum(len(bundle.files) for bundle in bundles)},
            files=("cards",),
        )


def _terms(recipe: Recipe, pins: Pins) -> tuple[Terms, tuple[Terms, ...]]:
    """Return the licences of base model and datasets, read as they were downloaded.

    That is with the token of the environment: one that may only write where the models go need not
    be able to read a gated base.
    """
    api = connect()
    return (
        terms_of(api, recipe.model.base, pins.model, "model", "model.base"),
        tuple(
            terms_of(api, part.source, pin, "dataset", "dataset.source")
            for part, pin in zip(recipe.dataset.parts, pins.mix or (pins.dataset,), strict=True)
        ),
    )


def bundles_of(
    release: Release, adapter: Adapter, merged: Merged | None, cards: Path
) -> list[Bundle]:
    """Lay out one repository per artifact that is published; writes the cards into `cards`."""
    folders = {"adapter": adapter.path}
    if merged:
        folders |= {"merged": merged.path, "merged_4bit": merged.four_bit}
    bundles = []
    for artifact, repo in release.repos.items():
        folder = cards / artifact
        readme = _written(folder / "README.md", card(artifact, release))
        if artifact == "gguf":
            files = _gguf_files(release, folder)
        else:
            files = _model_files(folders[artifact], release, folder)
            assert files, f"no {artifact} in {folders[artifact]}"
        digests = {quant.file: quant.sha256 for quant in release.quants}
        texts = release.base_terms.files.items()
        licence = {name: _written(folder / name, content) for name, content in texts}
        bundles.append(Bundle(repo, {**files, **licence, "README.md": readme}, digests))
    return bundles


def _model_files(output: Path, release: Release, folder: Path) -> dict[str, Path]:
    """Return what was made; settings that name a path of this machine as copies that do not."""
    files = outputs_in(output)
    base = public_name(release.recipe.model.base)
    for name in filter(SETTINGS.fullmatch, list(files)):
        if text := without_paths(files[name], base):
            files[name] = _written(folder / name, text)
    return files


def _gguf_files(release: Release, folder: Path) -> dict[str, Path]:
    """Return the quants, their Modelfiles, and what Ollama reads when it is given the repository.

    All quants are of one model, so the template of the first is that of all.
    """
    files = {quant.file: require_regular(quant.path) for quant in release.quants}
    modelfiles = {
        name: require_regular(quant.folder / name)
        for quant in release.quants
        if (name := modelfile_of(quant))
    }
    if modelfiles:
        text = next(iter(modelfiles.values())).read_text(encoding="utf-8")
        files |= {
            name: _written(folder / name, content) for name, content in hub_files(text).items()
        }
    return files | modelfiles


def _written(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path
