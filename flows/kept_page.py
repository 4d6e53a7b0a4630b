"""Artifacts of Prefect's with a fixed key: a page whose versions are its history."""

import re
from uuid import UUID


def key(prefix: str, name: str) -> str:
    """Return a key as Prefect takes it, of small letters, digits and dashes."""
    return f"{prefix}-" + re.sub(r"[^a-z0-9-]+", "-", name.lower())


def keep(key: str, markdown: str, description: str) -> None:
    """Make a new version of a page, if it says something else than the last one."""
    from prefect import get_client, runtime
    from prefect.client.schemas.actions import ArtifactCreate
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
    from prefect.client.schemas.sorting import ArtifactSort

    versions = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
    # By the client: Prefect's function for it warns outside of a run, where commands are.
    with get_client(sync_client=True) as client:
        newest = client.read_artifacts(
            artifact_filter=versions, sort=ArtifactSort.UPDATED_DESC, limit=1
        )
        if newest and newest[0].data == markdown:
            return
        page = ArtifactCreate(type="markdown", key=key, data=markdown, description=description)
        page.flow_run_id = UUID(run) if (run := runtime.flow_run.id) else None
        client.create_artifact(page)
