"""The gate's page: what was found, in words, with rows and excerpts; and it loads nothing."""

import json
import re

import pytest

from expectations.data.page import POLICY, page
from expectations.data.report import Report
from tests.nasty import HOST, MARK, NASTY, unseen_in
from tests.rendered import Page
from tests.tasks.test_validate import run_gate, sound

PNG = b"\x89PNG"


def asked_for(text: str) -> list[str]:
    """Return every address that a browser could ask for because of this page."""
    named = [
        value or ""
        for tag, attributes in Page(text).tags
        for name, value in attributes.items()
        if name in ("src", "srcset", "href", "action", "data", "poster", "background", "formaction")
    ]
    style = "".join(re.findall(r"<style>(.*?)</style>", text, re.DOTALL))
    return [one for one in named if not one.startswith("data:image/png;base64,")] + re.findall(
        r"@import.*|url\(.*?\)|//.*", style
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def report(folder):
    """The report on a dataset that is rejected for roles out of order, of nasty sources."""
    texts = list(NASTY.values())
    rows = [*sound(60), *[[("assistant", text), ("user", text)] for text in texts[:3]]]
    sources = {"source": ["sums"] * 60 + ["\x1b[32mACCEPTED"] * 3}
    return run_gate(folder, *rows, rows=sources, tolerances={"roles_out_of_order": 0.0})


def test_it_loads_nothing_and_its_policy_forbids_it(report, folder):
    text = (folder / "data_docs" / "index.html").read_text()
    assert asked_for(text) == []
    policies = [a["content"] for tag, a in Page(text).tags if a.get("http-equiv")]
    assert policies == [POLICY]
    assert POLICY.startswith("default-src 'none';")
    assert [path.name for path in (folder / "data_docs").rglob("*")] == ["index.html"]


def test_it_says_what_failed_where_and_shows_it(report, folder):
    text = (folder / "data_docs" / "index.html").read_text()
    said = Page(text).text
    assert "Dataset rejected: 1 critical expectation failed" in said
    assert "no row has roles out of order" in said
    assert "validation.tolerances.roles_out_of_order" in said
    assert "row 60: 'assistant user: # canary" in said
    assert "4.8%" in said
    assert "must belong to this set" not in said
    names = Page(text).names()
    assert names.count("img") == 2
    assert said.index("FAILED") < said.index("passed")


def test_a_good_dataset_is_said_to_be_good(tmp_path):
    run_gate(tmp_path, *sound(40))
    said = Page((tmp_path / "data_docs" / "index.html").read_text()).text
    assert "Dataset accepted: 40 of 40 rows" in said
    assert "FAILED" not in said


@pytest.mark.parametrize("text", NASTY.values(), ids=list(NASTY))
def test_words_of_strangers_are_words(report, text):
    values = json.loads(report.model_dump_json())
    values["sources"] = {text.replace("\ud800", "?"): 7}
    finding = values["findings"][0] | {"examples": [(60, text.replace("\ud800", "?"))]}
    verdicts = [one | {"seen": text.replace("\ud800", "?")} for one in values["verdicts"]]
    values |= {"findings": [finding], "verdicts": verdicts}
    harmless = json.loads(json.dumps(values))
    harmless["sources"], harmless["findings"][0]["examples"] = {MARK: 7}, [(60, MARK)]
    made, plain = (
        page(Report.model_validate(one), {"chart.png": PNG}) for one in (values, harmless)
    )
    assert Page(made).tags == Page(plain).tags
    assert asked_for(made) == []
    assert unseen_in(made) == []
    assert HOST not in str(Page(made).tags)


def test_markdown_for_prefect_is_words_too(report):
    from tests.rendered import ACTIVE, rendered

    shown = report.model_copy(update={"sources": dict.fromkeys(NASTY.values(), 1)})
    page_ = Page(rendered(shown.markdown()))
    assert not set(page_.names()) & ACTIVE
    assert page_.names().count("table") == 3
    assert unseen_in(shown.markdown()) == []
