"""Units of systemd and the script for Slurm: what they start exists, and a run has time to end."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.infra.deployed import (
    INFRA,
    commands,
    is_known_variable,
    patience,
    program,
    require_command,
)

UNITS = sorted((INFRA / "systemd").glob("*.*"))
SERVICES = [path for path in UNITS if path.suffix == ".service"]
LASTING = [path for path in SERVICES if path.stem != "retune-check"]
SLURM = INFRA / "slurm" / "worker.sbatch"


def unit(path: Path) -> dict[str, dict[str, list[str]]]:
    """Return the sections of a unit, each key with all of its values."""
    found: dict[str, dict[str, list[str]]] = {}
    section = ""
    for line in path.read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(section, {}).setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.stem)
class TestServices:
    def test_it_starts_what_there_is(self, path):
        service = unit(path)["Service"]
        (line,) = service["ExecStart"]
        command = shlex.split(line)
        assert command[0] == "/opt/retune/.venv/bin/retune"
        require_command(command)
        assert service["WorkingDirectory"] == ["/opt/retune"]
        for assignment in service["Environment"]:
            assert is_known_variable(assignment.partition("=")[0])

    def test_it_runs_as_nobody_much_and_sees_little(self, path):
        service = unit(path)["Service"]
        assert service["User"] == ["retune"]
        assert service["CapabilityBoundingSet"] == [""]
        for name in ("NoNewPrivileges", "ProtectHome", "PrivateTmp", "RestrictSUIDSGID"):
            assert service[name] == ["yes"], name
        assert service["ProtectSystem"] == ["strict"]
        assert service["StateDirectoryMode"] == ["0700"]
        home = next(one for one in service["Environment"] if one.startswith("RETUNE_HOME="))
        assert home == f"RETUNE_HOME=/var/lib/{service['StateDirectory'][0]}"

    def test_no_secret_is_in_it(self, path):
        service = unit(path)["Service"]
        assert service["EnvironmentFile"][0].endswith("/etc/retune/environment")
        assert not re.search(r"(TOKEN|PASSWORD|AUTH_STRING)=\w", "\n".join(service["Environment"]))


@pytest.mark.parametrize("path", LASTING, ids=lambda path: path.stem)
def test_what_lasts_is_started_again_and_may_write_its_checkpoint(path):
    service = unit(path)["Service"]
    assert service["Restart"] == ["always"]
    assert service["KillMode"] == [
        "mixed"
    ]  # SIGTERM to the first process, not to the child that trains
    assert int(service["TimeoutStopSec"][0]) >= patience()
    assert unit(path)["Unit"]["StartLimitIntervalSec"] == ["600"]


def test_the_timer_asks_whether_or_not_the_servers_run():
    timer = unit(INFRA / "systemd" / "retune-check.timer")
    assert timer["Timer"]["Unit"] == ["retune-check.service"]
    assert timer["Timer"]["Persistent"] == ["yes"]
    check = unit(INFRA / "systemd" / "retune-check.service")
    assert not {"Requires", "BindsTo", "PartOf"} & check["Unit"].keys()
    assert check["Service"]["ExecStart"][0].endswith("retune status --check")


def test_systemd_finds_nothing(tmp_path):
    analyze = program("systemd-analyze", "systemd")
    for path in UNITS:
        text = path.read_text().replace("/opt/retune/.venv/bin/retune", sys.executable)
        (tmp_path / path.name).write_text(text)
    done = subprocess.run(
        [analyze, "verify", "--man=no", *sorted(tmp_path.iterdir())],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    ours = [line for line in done.stderr.splitlines() if "retune" in line]
    assert (ours, done.returncode) == ([], 0)


class TestSlurm:
    def options(self) -> dict[str, str]:
        lines = re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", SLURM.read_text(), re.MULTILINE)
        return dict(lines)

    def test_the_worker_hears_of_the_end_in_time(self):
        # To the script alone, whose place the worker has taken.
        who, _, rest = self.options()["signal"].partition(":")
        signal, _, before = rest.partition("@")
        assert (who, signal) == ("B", "TERM")
        assert int(before) >= patience() + 60  # Slurm sends it up to a minute early or late

    def test_the_last_line_is_the_worker_in_the_scripts_place(self):
        last = SLURM.read_text().splitlines()[-1]
        assert last.startswith("exec .venv/bin/retune worker ")
        (command,) = commands(last.removeprefix("exec "))
        require_command(command)

    def run(self, folder: Path, mode: int) -> "subprocess.CompletedProcess[str]":
        """Run the script with an environment file of `mode` and a retune that tells what it was given."""
        checkout = folder / "checkout"
        (checkout / ".venv" / "bin").mkdir(parents=True)
        retune = checkout / ".venv" / "bin" / "retune"
        retune.write_text('#!/bin/sh\necho "$$ $* $PREFECT_API_URL $RETUNE_HOME"\n')
        retune.chmod(0o755)
        secrets = folder / "environment"
        secrets.write_text("PREFECT_API_URL='http://prefect:4200/api'\n")
        secrets.chmod(mode)
        return subprocess.run(
            ["sh", "-c", f"echo $$; exec bash {SLURM}"],
            env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "RETUNE_ENVIRONMENT": str(secrets),
                 "RETUNE_CHECKOUT": str(checkout), "RETUNE_QUEUE_AGAIN": "no"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def test_it_becomes_a_worker_with_the_servers_addresses(self, tmp_path):
        done = self.run(tmp_path, 0o600)
        process, told = done.stdout.splitlines()
        home = tmp_path / "checkout" / ".retune"
        assert told == f"{process} worker --pool retune --limit 1 http://prefect:4200/api {home}"

    def test_secrets_that_others_can_read_start_nothing(self, tmp_path):
        done = self.run(tmp_path, 0o640)
        assert done.returncode == 2
        assert "only you can read" in done.stderr
        assert len(done.stdout.splitlines()) == 1
