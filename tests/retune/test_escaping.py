"""Nasty text leaves as text: seen, and doing nothing, in Markdown, HTML and on a terminal."""

import io

import pytest

from retune import escaping
from tests.nasty import EVERYDAY, MARK, NASTY, unseen_in
from tests.rendered import ACTIVE, Page, rendered

every_nasty = pytest.mark.parametrize("text", NASTY.values(), ids=list(NASTY))
EXITS = (escaping.visible, escaping.html, escaping.markdown, escaping.code)


@every_nasty
@pytest.mark.parametrize("exit_", EXITS)
def test_all_of_it_is_seen_on_one_line_of_some_length(exit_, text):
    line = exit_(text)
    assert MARK in line
    assert unseen_in(line) == []
    assert "\n" not in line
    assert "\t" not in line
    assert len(line) < 5000
    line.encode()


@every_nasty
@pytest.mark.parametrize("exit_", [escaping.markdown, escaping.code])
@pytest.mark.parametrize("around", ["{}", "seen: {}", "| a | b |\n|---|---|\n| {} | last cell |"])
def test_markdown_shows_it_and_makes_nothing_of_it(exit_, text, around):
    plain, page = (Page(rendered(around.format(cell))) for cell in ("x", exit_(text)))
    quoted = {"code"} if exit_ is escaping.code else set()
    assert [name for name in page.names() if name not in quoted] == plain.names()
    assert not set(page.names()) & ACTIVE
    said = page.text.strip().removeprefix("seen: ")
    if "last cell" in around:
        assert page.names().count("td") == 2
        said = said.partition("b\n\n\n\n\n")[2].removesuffix("last cell").strip()
    if not (exit_ is escaping.code and "|" in text):
        assert said.replace("\xa0", " ") == escaping.visible(text).strip()


@every_nasty
def test_a_block_of_code_is_not_left(text):
    page = Page(rendered(f"{escaping.code_block(text)}\n\nafter"))
    assert page.names() == ["pre", "code", "p"]
    assert MARK in page.text


@every_nasty
def test_html_shows_it_and_makes_nothing_of_it(text):
    page = Page(f'<p title="{escaping.html(text)}">{escaping.html(text)}</p>')
    assert page.tags == [("p", {"title": escaping.visible(text)})]
    assert page.text == escaping.visible(text)


@every_nasty
def test_a_terminal_prints_it_and_nothing_else(text):
    said = escaping.terminal(f"rejected:\n- {text}")
    assert said.startswith("rejected:\n- ")
    assert unseen_in(said) == []
    assert MARK in said
    assert max(map(len, said.split("\n"))) <= escaping.LONGEST_LINE
    said.encode()


@every_nasty
def test_a_table_of_rich_prints_it(text):
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("seen", box=None)
    table.add_row(Text(escaping.visible(text)))
    out = io.StringIO()
    Console(file=out, width=3000, color_system=None).print(table)
    assert escaping.visible(text).strip() in out.getvalue()


@pytest.mark.parametrize("text", EVERYDAY)
def test_what_people_write_stays_readable(text):
    assert escaping.visible(text) == text
    assert escaping.terminal(text) == text
    for shown in (rendered(escaping.markdown(text)), f"<p>{escaping.html(text)}</p>"):
        assert Page(shown).text.strip() == text


def test_a_table_names_its_columns_and_keeps_its_numbers():
    rows = [{"result": "a\x1b[2J", "rows": 3, "share": None}]
    assert escaping.table(rows) == [{"result": "a\\x1b[2J", "rows": 3, "share": None}]
    with pytest.raises(AssertionError, match="a column without a name"):
        escaping.table([{"": "passed"}])
