"""publish: adapter, merged model and GGUF files go to the Hugging Face Hub, with model cards."""

from pathlib import Path
from typing import Any

from prefect import get_run_logger

from retune.config import Recipe
from retune.records import Adapter, Gguf, Merged, Pins, Published, Scores
from retune.workspace import Step, building, size
from tasks.publish.access import (
    HubUnavailable,
    NoAccess,
    PublishError,
    UploadNotVerified,
    check_access,
    hub,
)
from tasks.publish.cards import Release, card
from tasks.publish.upload import Bundle, folder_bundle, publish_bundles
from tasks.stage import stage

__all__ = [
    "Bundle",
    "HubUnavailable",
    "NoAccess",
    "PublishError",
    "UploadNotVerified",
    "check_access",
    "publish",
    "publish_bundles",
]


def _hub_was_unavailable(_task: Any, _run: Any, state: Any) -> bool:
    """Retry an outage; a missing permission stays missing."""
    return isinstance(state.result(raise_on_failure=False), HubUnavailable)


@stage(name="publish", retries=3, retry_delay_seconds=300, retry_condition_fn=_hub_was_unavailable)
def publish(
    adapter: Adapter,
    merged: Merged,
    ggufs: list[Gguf],
    scores: Scores,
    recipe: Recipe,
    pins: Pins,
    step: Step,
) -> Published:
    """Upload what the recipe asks for and what may ship, and verify it by hash."""
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()  # they would fill the log
    release = Release(recipe, pins, scores.metrics, [gguf for gguf in ggufs if gguf.ships])
    with building(step) as build:
        bundles = bundles_of(release, adapter, merged, build.path / "cards")
        message = f"{recipe.name}, dataset {pins.dataset[:19]}"
        commits = publish_bundles(hub(), bundles, recipe.publishing.private, message)
        for url in commits.values():
            get_run_logger().info("published and verified %s", url)
        sent = sum(size(path) for bundle in bundles for path in bundle.files.values())
        return build.finish(
            Published, commits=commits, params=commits, metrics={"bytes": sent}, files=("cards",)
        )


def bundles_of(release: Release, adapter: Adapter, merged: Merged, cards: Path) -> list[Bundle]:
    """Lay out one repository per artifact that is published; writes the cards into `cards`."""
    bundles = []
    for artifact, repo in release.repos.items():
        readme = cards / artifact / "README.md"
        readme.parent.mkdir(parents=True)
        readme.write_text(card(artifact, release), encoding="utf-8")
        if artifact == "gguf":
            bundles.append(_gguf_bundle(release, repo, readme))
        else:
            folder = adapter.path if artifact == "adapter" else merged.path
            bundles.append(folder_bundle(repo, folder, readme))
    return bundles


def _gguf_bundle(release: Release, repo: str, readme: Path) -> Bundle:
    files = {quant.file: quant.path for quant in release.quants}
    digests = {quant.file: quant.sha256 for quant in release.quants}
    return Bundle(repo, files | {"README.md": readme}, digests)
