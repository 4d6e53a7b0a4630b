"""The gate's page: what was found, in words, with rows and excerpts; and it loads nothing."""

import json
import re

import numpy as np
import pytest

from expectations.data import charts
from expectations.data.findings import EXAMPLES
from expectations.data.page import POLICY, Figure, page
from expectations.data.report import Report
from expectations.verdicts import Verdict
from tests.nasty import HOST, MARK, NASTY, unseen_in
from tests.rendered import Page
from tests.tasks.test_validate import run_gate, sound


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
    text = (folder / "report.html").read_text()
    assert asked_for(text) == []
    assert not {"script", "iframe", "img", "link"} & set(Page(text).names())
    policies = [a["content"] for tag, a in Page(text).tags if a.get("http-equiv")]
    assert policies == [POLICY]
    assert POLICY.startswith("default-src 'none';")
    assert [path.name for path in (folder / "data_docs").rglob("*")] == ["index.html"]
    assert (folder / "data_docs" / "index.html").read_text() == text


def test_it_says_what_failed_where_and_shows_it(report, folder):
    text = (folder / "report.html").read_text()
    said = Page(text).text
    assert "Dataset rejected: 1 critical expectation failed" in said
    assert "no row has roles out of order" in said
    assert "3 of 63 rows (4.8%)" in said
    assert "validation.tolerances.roles_out_of_order" in said
    assert "row 60'assistant user: # canary" in said
    assert "must belong to this set" not in said
    assert said.index("What failed") < said.index("Not judged") < said.index("Everything that was")
    table = said.partition("Everything that was")[2]
    assert table.index("FAILED") < table.index("not judged") < table.index("passed")


def test_a_message_is_named_by_its_place_and_only_some_rows_are_quoted(tmp_path, no_pages):
    odd = [[("user", f"q {n}?"), ("assistant", f"see <|im_start|> {n}")] for n in range(9)]
    (finding,) = [
        f for f in run_gate(tmp_path, *sound(30), *odd).findings if f.flaw == "special_token"
    ]
    assert [example.row for example in finding.examples] == list(range(30, 30 + EXAMPLES))
    assert {example.place for example in finding.examples} == {1}
    assert str(finding.examples[0]) == "row 30, message 1"


def test_a_good_dataset_is_said_to_be_good(tmp_path):
    report = run_gate(tmp_path, *sound(40))
    said = Page((tmp_path / "report.html").read_text()).text
    assert "Dataset accepted: 40 of 40 rows" in said
    assert "What failed" not in said
    assert "FAILED" not in said
    assert [(one.name, one.rows, one.accepted) for one in report.by_source] == [("test", 40, 40)]


def test_what_would_mend_it_stands_beside_it(report):
    sentence = "3 of 3 rows would become sound by <trim_ends>"
    verdicts = [verdict.model_copy(update={"fix": "set it"}) for verdict in report.verdicts]
    findings = [finding.model_copy(update={"advice": [sentence]}) for finding in report.findings]
    changed = report.model_copy(update={"verdicts": verdicts, "findings": findings})
    said = Page(page(changed)).text
    assert sentence in said
    assert "set it" in said.partition("Not judged")[0]
    assert "trim_ends: dropping answers before the first question" in said
    assert "unescape:" not in said


def test_a_warning_is_apart_from_what_blocks_and_what_is_open_from_both(report):
    one = Verdict(gate="validate", name="max_psi", expected="calm", seen="a storm", passed=False)
    kinds = {
        "What failed": {},
        "Warnings": {"severity": "warning"},
        "For information": {"severity": "info"},
        "Not judged": {"judged": False},
    }
    for title, changes in kinds.items():
        alone = report.model_copy(update={"verdicts": [one.model_copy(update=changes)]})
        said = Page(page(alone)).text
        assert [name for name in kinds if name in said] == [title]
        assert "a storm" in said.partition(title)[2]


def test_limits_are_drawn_where_they_are():
    lines = [
        charts.Bar("much", 0.4, 0.05),
        charts.Bar("little", 0.01, 0.05),
        charts.Bar("off", 0.1, 0.9),
    ]
    tags = Page(charts.bars(lines)).tags
    assert [a["class"] for tag, a in tags if tag == "rect"] == ["over", "bar", "bar"]
    marks = [float(a["x1"]) for tag, a in tags if tag == "line"]
    assert marks == pytest.approx([100 * 0.05 / 0.42] * 2, abs=0.01)  # the third is off the scale
    assert "(90%)" in Page(charts.bars(lines)).text


@pytest.mark.parametrize(
    ("values", "limit"),
    [
        ([3.0], None), ([3.0], 3.0), ([3.0] * 9, 2.5), ([0.0, 0.0], 1.0), ([-4.0, 9.0], 200_000.0),
        ([1, 5, 200_000], 4096.0), (list(range(1, 2000)), 120.0), ([1e-9, 1e9], 1.0), ([5e-324], 0.0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("outline", [(), (1.0, 2.0, 3.0)])
def test_any_numbers_can_be_drawn(values, limit, outline):
    words = "" if limit is None else "at <most>"
    drawn = charts.histogram(np.array(values), limit, words, outline=outline)
    assert "nan" not in drawn
    assert "inf" not in drawn
    assert ("at &lt;most&gt;" in drawn) == (limit is not None)
    colours = {a["class"] for tag, a in Page(drawn).tags if tag == "path"}
    assert colours <= {"bar", "over", "outline"}


@pytest.mark.parametrize("text", NASTY.values(), ids=list(NASTY))
def test_words_of_strangers_are_words(report, text):
    values = json.loads(report.model_dump_json())
    values["sources"] = {text.replace("\ud800", "?"): 7}
    values["by_source"] = [values["by_source"][0] | {"name": text.replace("\ud800", "?")}]
    finding = values["findings"][0] | {"advice": [text.replace("\ud800", "?")]}
    finding["examples"] = [{"row": 60, "excerpt": text.replace("\ud800", "?")}]
    verdicts = [one | {"seen": text.replace("\ud800", "?")} for one in values["verdicts"]]
    values |= {"findings": [finding], "verdicts": verdicts}
    harmless = json.loads(json.dumps(values))
    harmless["sources"], harmless["by_source"][0]["name"] = {MARK: 7}, MARK
    harmless["findings"][0] |= {"examples": [{"row": 60, "excerpt": MARK}], "advice": [MARK]}
    made, plain = (
        page(Report.model_validate(one), [Figure(words, "")])
        for one, words in ((values, text), (harmless, MARK))
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
