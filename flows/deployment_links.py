"""Where a person finds which version serves: in the description of its deployment.

Prefect's pages have no entry for artifacts; whoever asks what a deployment has made looks at it first.
"""

from prefect import get_client
from prefect.client.schemas.actions import DeploymentUpdate

from flows.in_service import key_of
from flows.kept_status import KEY
from flows.run_names import FLOW
from retune.pages import mlflow_pages

MARK = "\n\n---\n\n"  # between what `prefect.yaml` says and what is added


def add_links() -> None:
    """Add to each deployment of a recipe the addresses of what is kept about it."""
    with get_client(sync_client=True) as client:
        flow = client.read_flow_by_name(FLOW).id
        for deployment in client.read_deployments():
            if deployment.flow_id == flow:
                recipe = str(deployment.parameters.get("name") or deployment.name)
                own = (deployment.description or "").partition(MARK)[0]
                words = f"{own}{MARK}{links(recipe)}"
                client.update_deployment(deployment.id, DeploymentUpdate(description=words))


def links(recipe: str) -> str:
    """Return the addresses in Markdown. What there is no page of yet comes with the first run."""
    pages = [
        f"[Which version of {recipe} serves](/v2/artifacts/key/{key_of(recipe)})",
        f"[How all recipes stand](/v2/artifacts/key/{KEY})",
    ]
    if address := mlflow_pages():
        pages.append(f"[MLflow]({address})")
    return " · ".join(pages)
