"""docs/settings.md is what the generator writes, and holds every setting."""

import os
import subprocess
import sys

from infra import settings
from retune.recipe import Recipe, flat
from tests.test_house import ROOT

PAGE = settings.page()
SMALLEST = Recipe.parse({"name": "r", "model": {"base": "b"}, "dataset": {"source": "s"}})


def cells() -> dict[str, list[str]]:
    """Return the cells of each setting's line by its dotted name."""
    found, section = {}, ""
    for line in PAGE.partition("\n## Flaws")[0].splitlines():
        if line.startswith("#"):
            section = line.strip("#` ")
        elif line.startswith("| `"):
            name, *rest = (cell.strip() for cell in line.strip("|").split(" | "))
            found[f"{section}.{name.strip('`')}".removeprefix("Settings.")] = rest
    return found


def test_the_file_is_what_the_generator_writes():
    assert settings.PAGE.read_text(encoding="utf-8") == PAGE, "run `make docs` and commit the file"


def test_every_setting_is_there_once_and_says_whether_it_is_required():
    # Gates by method, parts of a mix and suites are sections of the page and, in a recipe, one setting.
    several = ("quantization.gates", "dataset.mix", "evaluation.suites", "evaluation.tasks")
    several += ("infra.resources",)
    known = {name for name in flat(SMALLEST) if name not in several}
    listed = {name for name in cells() if not name.startswith(tuple(f"{n}.<" for n in several))}
    assert listed == known
    assert {name for name, (_, default, _) in cells().items() if default == "required"} == {
        "name",
        "model.base",
        "dataset.mix.<number>.source",  # the dataset's own is required without a mix
        "evaluation.suites.<number>.name",
        "evaluation.suites.<number>.path",
        "evaluation.tasks.<number>.name",
        "evaluation.tasks.<number>.task",
    }


def test_values_and_defaults_are_told_as_a_recipe_has_them():
    told = cells()
    assert told["training.dropout"][:2] == ["number, at least 0, below 1", "`0`"]
    assert told["training.max_steps"][:2] == ["integer, at least 1, or empty", "empty"]
    assert told["training.packing"][:2] == ["`true`, `false`", "`true`"]
    assert told["merging.onto"][:2] == ["`best`, `16bit`, `dequantized`", "`best`"]
    assert told["validation.keep"][:2] == ["list of text", "none"]
    assert told["validation.tolerances.email"][:2] == ["number, 0 to 1", "`0.05`"]
    assert "- `I cannot assist with`" in PAGE


def test_it_is_the_same_on_every_machine(tmp_path):
    environment = os.environ | {"RETUNE_HOME": str(tmp_path), "PYTHONHASHSEED": "7"}
    code = "from infra.settings import page; print(page(), end='')"
    again = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, env=environment, capture_output=True, check=True,
    )  # fmt: skip
    assert again.stdout.decode("utf-8") == PAGE
    assert str(ROOT) not in PAGE
