"""compose.yaml: nobody is let in without a sign-in, no secret is in it, and a run has time to end."""

import json
import os
import re
import stat
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from retune.environment import SECRET
from tests.infra.deployed import (
    INFRA,
    commands,
    compose,
    is_known_variable,
    package,
    patience,
    require_command,
    seconds,
)
from tests.infra.test_images import require_pinned

FILE = compose()
SERVICES = FILE["services"]
LASTING = {name: one for name, one in SERVICES.items() if name != "deploy"}
# What asks for a sign-in, and how that is switched on.
ASKING = {
    "prefect": lambda one: "PREFECT_SERVER_API_AUTH_STRING_FILE" in one["environment"],
    "mlflow": lambda one: (
        "--app-name=retune-sign-in" in one["command"]
        and "MLFLOW_AUTH_ADMIN_PASSWORD_FILE" in one["environment"]
    ),
    "objects": lambda one: "-s3.config=/run/secrets/s3_identities" in one["command"],
    "postgres": lambda one: "scram-sha-256" in one["environment"]["POSTGRES_INITDB_ARGS"],
}


def test_it_is_what_compose_reads():
    if not find_spec("check_jsonschema"):
        pytest.skip("the schema of Compose is not installed (check-jsonschema)")
    import jsonschema

    folder = package("check_jsonschema") / "builtin_schemas" / "vendor"
    schema = json.loads((folder / "compose-spec.json").read_text())
    assert not [
        error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(FILE)
    ]


def test_every_image_is_pinned_or_built_here():
    built = {one["image"] for one in SERVICES.values() if "build" in one}
    assert built == {"retune:cpu", "retune:cuda"}
    for service in SERVICES.values():
        if service["image"] not in built:
            require_pinned(service["image"])
        elif "build" in service:
            assert (INFRA.parent / service["build"]["dockerfile"]).is_file()


def test_only_what_asks_for_a_sign_in_can_be_reached_and_only_from_this_machine():
    published = {name: one["ports"] for name, one in SERVICES.items() if "ports" in one}
    assert published.keys() == {"prefect", "mlflow"}
    for ports in published.values():
        assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports)
    for name, asks in ASKING.items():
        assert asks(SERVICES[name]), name


def test_nothing_listens_on_all_addresses_of_its_container_that_lets_everybody_in():
    listening = {name for name, one in SERVICES.items() if "0.0.0.0" in str(one.get("command"))}
    assert listening <= ASKING.keys()
    for name in ("worker", "worker-gpu"):
        assert SERVICES[name]["environment"]["PREFECT_WORKER_WEBSERVER_HOST"] == "127.0.0.1"
    assert "-ip.bind=127.0.0.1" in SERVICES["objects"]["command"]
    assert FILE["networks"]["inside"] == {"internal": True}
    for name in ("postgres", "objects"):
        assert SERVICES[name]["networks"] == ["inside"]


def test_secrets_are_files_and_in_no_variable():
    for name, service in SERVICES.items():
        assert set(service.get("secrets", ())) <= FILE["secrets"].keys()
        for variable, value in service.get("environment", {}).items():
            if SECRET.search(variable) or variable in ("PGPASSFILE", "HF_TOKEN_FILE"):
                if not str(value).startswith("/run/secrets/"):
                    assert variable in ("MLFLOW_AUTH_CONFIG_PATH", "MLFLOW_AUTH_ADMIN_USERNAME")
                    continue
                assert Path(value).name in service["secrets"], f"{name} is not given {value}"
            assert not re.search(r"://[^/@]*:[^/@]*@", str(value)), variable
    for secret in FILE["secrets"].values():
        assert set(secret) == {"file"}
        assert secret["file"].startswith("./secrets/")


def test_each_secret_is_made_and_used(tmp_path):
    names = made(tmp_path).keys()
    assert names == FILE["secrets"].keys()
    assert names == {name for one in SERVICES.values() for name in one.get("secrets", ())}


def test_every_variable_is_read_by_somebody():
    for service in SERVICES.values():
        for name in service.get("environment", {}):
            known = name.removesuffix("_FILE") if not name.startswith("AWS_") else name
            assert is_known_variable(known), name


def test_every_command_line_is_one_that_its_program_takes():
    seen = []
    for service in SERVICES.values():
        command = service.get("command", [])
        lines = commands(command[2]) if command[:2] == ["sh", "-c"] else [command]
        for line in filter(None, lines):
            require_command(line)
            seen.append(line[0])
    assert {"retune", "prefect", "mlflow"} <= set(seen)


@pytest.mark.parametrize(
    "line",
    [
        "retune worker --pools x",
        "retune work",
        "mlflow server --no-such",
        "prefect server start --no-such",
    ],
)
def test_a_command_line_that_no_program_takes_is_found(line):
    with pytest.raises((AssertionError, KeyError)):
        require_command(line.split())


def test_a_run_has_time_for_its_checkpoint():
    for name in ("worker", "worker-gpu"):
        assert seconds(SERVICES[name]["stop_grace_period"]) >= patience()


def test_what_lasts_is_started_again_and_looked_after():
    for name, service in LASTING.items():
        assert service["restart"] == "unless-stopped", name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        if not name.startswith("worker"):  # the image has theirs
            assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL"), name
    assert "--healthcheck" in SERVICES["worker"]["command"]
    assert SERVICES["deploy"]["restart"].startswith("on-failure")


def test_leases_outlive_the_server():
    prefect = SERVICES["prefect"]
    kept = prefect["environment"]["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"]
    assert kept.endswith(".filesystem")
    assert find_spec(kept)
    home = prefect["environment"]["PREFECT_HOME"]
    assert f"prefect:{home}" in prefect["volumes"]


def test_the_gpu_is_reserved_and_its_processes_have_shared_memory():
    (device,) = SERVICES["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert SERVICES["worker-gpu"]["shm_size"] == "8g"


def test_nobody_runs_as_root_but_the_store():
    for name, service in SERVICES.items():
        assert service.get("user", "").startswith("${RETUNE_UID") or name == "objects"


def made(folder: Path) -> dict[str, str]:
    """Run secrets.sh and return what it leaves."""
    subprocess.run([INFRA / "compose" / "secrets.sh", folder / "secrets"], check=True)
    return {path.name: path.read_text() for path in (folder / "secrets").iterdir()}


def test_secrets_are_for_their_owner_alone_and_stay(tmp_path):
    first = made(tmp_path)
    for path in (tmp_path / "secrets").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.stat().st_uid == os.getuid()
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    assert made(tmp_path) == first
    passwords = [first[name].strip() for name in ("postgres_password", "mlflow_password")]
    assert len(set(passwords)) == 2
    assert all(len(password) == 32 for password in passwords)
    assert re.fullmatch(r"retune:[\w-]{32}\n", first["prefect_sign_in"])
    assert re.fullmatch(r"\*:\*:\*:mlflow:[\w-]{32}\n", first["mlflow_pgpass"])
    (identity,) = json.loads(first["s3_identities"])["identities"]
    assert identity["credentials"][0]["secretKey"] in first["s3_credentials"]


def test_half_of_a_pair_of_keys_is_made_anew(tmp_path):
    made(tmp_path)
    (tmp_path / "secrets" / "s3_credentials").unlink()
    again = made(tmp_path)
    (identity,) = json.loads(again["s3_identities"])["identities"]
    assert identity["credentials"][0]["accessKey"] in again["s3_credentials"]


def test_git_and_the_images_never_see_them():
    done = subprocess.run(
        ["git", "check-ignore", "infra/compose/secrets/mlflow_password"],
        cwd=INFRA.parent, capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode != 128:  # no checkout
        assert done.returncode == 0
    assert "infra/compose/secrets/" in (INFRA.parent / ".gitignore").read_text().splitlines()
