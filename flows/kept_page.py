"""Artifacts of Prefect's with a fixed key: a page whose versions are its history."""

import re


def key(prefix: str, name: str) -> str:
    """Return a key as Prefect takes it, of small letters, digits and dashes."""
    return f"{prefix}-" + re.sub(r"[^a-z0-9-]+", "-", name.lower())


def keep(key: str, markdown: str, description: str) -> None:
    """Make a new version of a page, if it says something else than the last one."""
    from prefect.artifacts import Artifact, create_markdown_artifact

    newest = Artifact.get(key, _sync=True)  # type: ignore[call-arg]
    if newest is None or newest.data != markdown:  # type: ignore[union-attr]
        create_markdown_artifact(key=key, markdown=markdown, description=description)
