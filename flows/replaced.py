"""What a run shows on Prefect's pages once, though two of its stages have a word on it."""

from uuid import UUID

from prefect import get_client, runtime
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
)


def replace(key: str, markdown: str, description: str) -> None:
    """Make an artifact of this flow run in the place of those that it has by this key."""
    run = runtime.flow_run.id
    if run:
        of_run = ArtifactFilter(
            flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(run)]),
            key=ArtifactFilterKey(any_=[key]),
        )
        with get_client(sync_client=True) as client:
            for artifact in client.read_artifacts(artifact_filter=of_run):
                client.delete_artifact(artifact.id)
    create_markdown_artifact(key=key, markdown=markdown, description=description)
