"""The values of the charts and the template of the jobs: what a run needs in a cluster."""

import json
import os
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.local import PATIENT
from tests.infra.deployed import INFRA, is_known_variable, patience
from tests.infra.test_images import require_pinned

FOLDER = INFRA / "kubernetes"
TEMPLATE = json.loads((FOLDER / "job-template.json").read_text())
CHARTS = ("prefect-server", "prefect-worker", "mlflow")
VALUES = {name: yaml.safe_load((FOLDER / f"{name}.yaml").read_text()) for name in CHARTS}


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    """The job of a run, as Prefect's worker fills in the template."""
    from prefect.utilities.templating import apply_values

    variables = {
        name: one["default"]
        for name, one in TEMPLATE["variables"]["properties"].items()
        if "default" in one
    }
    return apply_values(TEMPLATE["job_configuration"]["job_manifest"], variables | {"name": "sums"})


@pytest.fixture(scope="module")
def pod(job) -> dict[str, Any]:
    return job["spec"]["template"]["spec"]


def require_valid(document: dict[str, Any]) -> None:
    if not find_spec("kubernetes_validate"):
        pytest.skip("the schemas of Kubernetes are not installed (kubernetes-validate)")
    import kubernetes_validate

    kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


class TestJobs:
    def test_prefect_takes_the_template(self):
        from prefect.server.schemas.core import WorkPool

        WorkPool(name="retune", type="kubernetes", base_job_template=TEMPLATE)
        for name, one in TEMPLATE["variables"]["properties"].items():
            assert one["description"], name
            assert one.get("default") is not None or name in ("name", "job_watch_timeout_seconds")

    def test_the_job_is_one_of_kubernetes(self, job):
        # Of the command the worker makes a list.
        made = json.loads(json.dumps(job))
        (container,) = made["spec"]["template"]["spec"]["containers"]
        container |= {"args": container["args"].split(), "env": []}
        require_valid(made)

    def test_a_run_has_time_for_its_checkpoint_in_prefects_engine_itself(self, pod):
        assert pod["terminationGracePeriodSeconds"] >= patience()
        (container,) = pod["containers"]
        assert container["args"] == "python -m prefect.engine"
        assert find_spec("prefect.engine")

    def test_it_gets_a_gpu_shared_memory_and_the_home_folder(self, pod):
        (container,) = pod["containers"]
        for kind in ("requests", "limits"):
            assert container["resources"][kind]["nvidia.com/gpu"] == "1"
        places = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        volumes = {volume.pop("name"): volume for volume in json.loads(json.dumps(pod["volumes"]))}
        assert places.keys() == volumes.keys()
        assert places["shared-memory"] == "/dev/shm"
        assert volumes["shared-memory"]["emptyDir"]["medium"] == "Memory"
        claim = volumes["home"]["persistentVolumeClaim"]["claimName"]
        claims = list(yaml.safe_load_all((FOLDER / "volumes.yaml").read_text()))
        assert claim in {one["metadata"]["name"] for one in claims}
        image = (INFRA / "images" / "cuda.Dockerfile").read_text()
        assert f"RETUNE_HOME={places['home']}" in image
        assert f"WORKDIR {container['workingDir']}" in image

    def test_it_may_run_where_machines_are_taken_back(self, pod):
        assert {"cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority"} <= {
            one["key"] for one in pod["tolerations"]
        }

    def test_it_may_do_nothing_that_a_training_needs_not(self, pod):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        (container,) = pod["containers"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        # The secrets are one of Kubernetes' own.
        assert container["envFrom"] == [{"secretRef": {"name": "retune-run"}}]


def test_the_volumes_are_some_of_kubernetes():
    for document in yaml.safe_load_all((FOLDER / "volumes.yaml").read_text()):
        require_valid(document)


class TestValues:
    def test_images_are_pinned(self):
        from importlib.metadata import version

        prefect = (
            VALUES["prefect-server"]["global"]["prefect"]["image"],
            VALUES["prefect-worker"]["worker"]["image"],
        )
        for image in prefect:
            require_pinned(f"{image['repository']}:{image['prefectTag']}")
            assert image["prefectTag"].startswith(version("prefect"))
        assert VALUES["mlflow"]["image"] == {"repository": "retune", "tag": "cpu"}

    def test_both_servers_ask_for_a_sign_in_and_neither_is_let_out(self):
        server, mlflow = VALUES["prefect-server"], VALUES["mlflow"]
        assert server["server"]["basicAuth"] == {
            "enabled": True,
            "existingSecret": "prefect-sign-in",
        }
        assert mlflow["auth"]["enabled"] is True
        assert mlflow["auth"]["appName"] == "retune-sign-in"
        assert mlflow["auth"]["defaultPermission"] == "NO_PERMISSIONS"
        for values in (server, mlflow):
            assert values["service"]["type"] == "ClusterIP"
            assert values["ingress"]["enabled"] is False

    def test_the_worker_signs_in_and_makes_jobs_by_the_template(self):
        worker = VALUES["prefect-worker"]["worker"]
        api = worker["selfHostedServerApiConfig"]
        assert api["basicAuth"] == {"enabled": True, "existingSecret": "prefect-sign-in"}
        assert worker["config"]["baseJobTemplate"] == {
            "existingConfigMapName": "retune-job-template"
        }
        assert worker["config"]["workPool"] == "retune"

    def test_its_runs_are_as_patient_as_those_of_retune_worker(self):
        variables = {one["name"]: one["value"] for one in _worker_variables()}
        assert variables.items() >= PATIENT.items()

    def test_leases_outlive_the_server(self):
        server = VALUES["prefect-server"]["server"]
        variables = {one["name"]: one["value"] for one in server["env"]}
        assert variables["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"].endswith(".filesystem")
        (volume,) = server["extraVolumes"]
        (mount,) = server["extraVolumeMounts"]
        assert variables["PREFECT_HOME"] == mount["mountPath"]
        claims = yaml.safe_load_all((FOLDER / "volumes.yaml").read_text())
        assert volume["persistentVolumeClaim"]["claimName"] in {
            one["metadata"]["name"] for one in claims
        }

    def test_every_variable_is_read_by_somebody_and_no_secret_is_written_down(self):
        listed = [*VALUES["prefect-server"]["server"]["env"], *_worker_variables()]
        names = [one["name"] for one in listed] + [*VALUES["mlflow"]["extraEnvVars"]]
        assert len(names) >= 7
        assert all(map(is_known_variable, names)), names
        for name in CHARTS:
            text = (FOLDER / f"{name}.yaml").read_text()
            assert "authString:" not in text
            assert "adminPassword:" not in text

    @pytest.mark.parametrize("name", CHARTS)
    def test_the_chart_takes_them(self, name):
        charts = os.environ.get("RETUNE_CHARTS")
        helm = subprocess.run(["which", "helm"], capture_output=True, text=True, check=False).stdout
        if not charts or not helm:
            pytest.skip("helm is not installed, or RETUNE_CHARTS names no folder with the charts")
        subprocess.run(
            ["helm", "template", "x", Path(charts, name), "--values", FOLDER / f"{name}.yaml"],
            check=True, capture_output=True,
        )  # fmt: skip


def _worker_variables() -> list[dict[str, str]]:
    return VALUES["prefect-worker"]["worker"]["extraEnvVars"]
