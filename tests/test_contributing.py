"""CONTRIBUTING.md: the files and names that it sends people to are there."""

import re

import pytest

from tests.test_house import ALLOWED, ROOT, SOURCES

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = sorted(set(re.findall(r"`([\w/.-]+\.(?:py|md|yaml|lock|txt))`", TEXT)))
CONSTANTS = sorted(set(re.findall(r"`([A-Z][A-Z_]{3,})`", TEXT)))


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_named_exists(name):
    assert len(FILES) > 30
    folders = [ROOT, *(ROOT / folder for folder in ALLOWED), ROOT / "tests"]
    assert (ROOT / name).is_file() or any(
        path for folder in folders[1:] for path in folder.rglob(name)
    )


def test_the_stages_have_the_files_that_it_names():
    for folder in (ROOT / "tasks").iterdir():
        if (folder / "__init__.py").is_file():
            assert (folder / "task.py").is_file()
            assert (folder / "key.py").is_file()


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_constant_that_is_named_exists(name):
    tests = ROOT.glob("tests/**/test_*.py")
    assert any(
        re.search(rf"^{name}\b", path.read_text(encoding="utf-8"), re.MULTILINE)
        for path in (*SOURCES, *tests)
    )
