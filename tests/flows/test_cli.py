"""What a shell learns of a command: 0 done or accepted, 1 a gate said no, 2 it could not be done."""

import re
import subprocess
import sys

import pytest

from expectations.verdicts import Judgement, Rejected, Verdict
from flows import cli
from retune.child import ChildFailed
from retune.errors import HubUnreachable
from retune.recipe import RecipeError
from retune.sources import SourceError
from tests.flows.servers import environment

NO = Verdict(gate="validate", name="min_rows", expected="rows", seen="none", passed=False)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Rejected(Judgement("validate", "dataset", [NO])), 1),
        (RecipeError("a mistake"), 2),
        (SourceError("nothing is there"), 2),
        (HubUnreachable("no answer"), 2),
        (ChildFailed("a crash"), 2),
        (FileNotFoundError(2, "No such file or directory", "x"), 2),
        (ZeroDivisionError("a fault of ours"), 2),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("traced", [False, True])
def test_only_a_verdict_ends_in_1(monkeypatch, capsys, error, code, traced):
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setenv("RETUNE_TRACEBACK", "1" if traced else "")
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == code
    is_ours = isinstance(error, ZeroDivisionError)
    assert ("Traceback" in capsys.readouterr().err) == (traced or is_ours)


def test_help_tells_the_exit_codes(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["retune", "--help"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "1: a gate rejected" in said
    assert "2: it could not be done" in said


def test_help_lists_each_command_once_with_those_of_its_kind(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["retune", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    kinds: dict[str, list[str]] = {}
    for line in capsys.readouterr().out.splitlines():
        if head := re.match(r"╭─ (.+?) ─", line):
            kinds[head[1]] = []
        elif command := re.match(r"│ ([a-z]\S*)  ", line):
            kinds[[*kinds][-1]].append(command[1])
    kinds.pop("Options")
    assert [*kinds] == [*cli.COMMANDS]
    for kind, commands in cli.COMMANDS.items():
        names = [command.__name__.replace("_", "-") for command in commands]
        assert kinds[kind] == names + (["incident"] if kind == cli.DATA else [])


def test_a_mistyped_command_is_no_verdict(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["retune", "validate"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "h", "MASTER_PORT": "9"}, "retune join"),
        ({"RETUNE_STORE": "s4://bucket"}, "RETUNE_STORE"),
    ],
    ids=["several hosts", "the store"],
)
def test_what_this_host_has_wrong_is_said_before_a_server_starts(tmp_path, variables, said):
    (tmp_path / "recipe.yaml").write_text(
        "{name: sums, model: {base: b, load_in_4bit: false}, dataset: {source: d.jsonl}, "
        "training: {backend: trl, optimizer: adamw_torch}}"
    )
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "run", "recipe.yaml"],
        cwd=tmp_path,
        env=environment(tmp_path / "home") | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == cli.NOT_DONE
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
