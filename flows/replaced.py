"""What a run shows on Prefect's pages once, though it comes to it again."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from prefect import get_client, runtime
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
)


def replace(
    *args: Any, key: str, kind: Callable[..., Any] = create_markdown_artifact, **fields: Any
) -> None:
    """Make an artifact of this flow run in the place of those that it has by this key.

    A run that waited for a person, or was retried, shows all of it once more.
    """
    run = runtime.flow_run.id
    if run:
        of_run = ArtifactFilter(
            flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(run)]),
            key=ArtifactFilterKey(any_=[key]),
        )
        with get_client(sync_client=True) as client:
            for artifact in client.read_artifacts(artifact_filter=of_run):
                client.delete_artifact(artifact.id)
    kind(*args, key=key, **fields)
