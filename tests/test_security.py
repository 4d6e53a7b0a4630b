"""SECURITY.md: each promise names a test, and each test that is named exists."""

import ast
import re

import pytest

from tests.test_house import ROOT

TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py(?:::\w+)*)`", TEXT)))
PROMISES = re.findall(r"^- (.+?)(?=^- |^$)", TEXT, re.MULTILINE | re.DOTALL)


def definitions(path: str) -> set[str]:
    """Return the classes and functions of a file, methods as `Class::method`."""
    found = set()
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{one.name}" for one in node.body if hasattr(one, "name")}
    return found


@pytest.mark.parametrize("name", NAMED)
def test_a_test_that_is_named_exists(name):
    path, _, inside = name.partition("::")
    assert not inside or inside in definitions(path)
    assert any("test_" in one for one in definitions(path))


def test_every_promise_names_a_test():
    assert len(PROMISES) > 30
    assert [promise for promise in PROMISES if "`tests/" not in promise] == []
