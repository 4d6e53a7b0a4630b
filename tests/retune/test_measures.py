"""One name, title, unit and format per measure."""

import ast

import pytest

from retune.measures import (
    MEASURES,
    format_bytes,
    format_memory,
    is_of_suite,
    measure,
    title,
)
from tests.test_house import ROOT, SOURCES, syntax

TABLE = ROOT / "retune" / "measures.py"


def test_every_name_and_every_title_is_there_once():
    names = [
        ast.literal_eval(key)
        for node in ast.walk(syntax(TABLE))
        if isinstance(node, ast.Dict)
        for key in node.keys
        if key
    ]
    assert len(set(names)) == len(names) == len(MEASURES)
    titles = [one.title for one in MEASURES.values()]
    assert len(set(titles)) == len(titles)
    columns = [one.heading for one in MEASURES.values()]
    assert len(set(columns)) == len(columns)


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if path != TABLE],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_no_other_module_gives_measures_titles(path):
    """A second table would have names of measures as keys, and texts as values."""
    for node in ast.walk(syntax(path)):
        if not isinstance(node, ast.Dict):
            continue
        pairs = zip(node.keys, node.values, strict=True)
        second = [
            key.value
            for key, value in pairs
            if isinstance(key, ast.Constant)
            and isinstance(value, ast.Constant)
            and isinstance(value.value, str)
            and key.value in MEASURES
        ]
        assert len(second) < 2, f"{path} gives measures titles of its own: {second}"


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("kl_divergence", 0.01234, "0.0123 nats per token"),
        ("same_top_token", 0.987, "98.7%"),
        ("exact_match/sums/tuned", 0.5, "50.0%"),
        ("loss/base", 1.23456, "1.2346 nats per token"),
        ("rows/train", 12345.0, "12,345"),
        ("perplexity", 8, "8.000"),
        ("tokens_per_second", 1234.56, "1,234.6 tokens/s"),
        ("gpu/memory_gib", 12.34, "12.3 GiB"),
    ],
)
def test_a_value_is_written_one_way(metric, value, text):
    assert measure(metric).text(value) == text


def test_a_metric_says_what_it_was_taken_of():
    assert title("exact_match/sums") == "exact match (sums)"
    assert title("kl_divergence") == "KL divergence"
    with pytest.raises(KeyError):
        measure("elegance")


@pytest.mark.parametrize(
    ("count", "text"),
    [(4.58e9, "4.58 GB"), (1.234e12, "1,234.00 GB"), (1_320_000, "1.32 MB"), (0, "0 kB")],
)
def test_files_are_in_gb(count, text):
    assert format_bytes(count) == text


def test_memory_is_in_gib():
    assert format_memory(80 * 2**30) == "80.0 GiB"
    assert format_memory(2**20) == "0.000977 GiB"


def test_no_other_unit_of_size_is_told():
    """`MB`, `MiB` or `GiB` stand in no text that people see of a file."""
    spoken = {
        (str(path.relative_to(ROOT)), constant.value)
        for path in SOURCES
        for node in ast.walk(syntax(path))
        if isinstance(node, ast.JoinedStr)
        for constant in node.values
        if isinstance(constant, ast.Constant)
        and (" MB" in constant.value or " MiB" in constant.value)
    }
    assert {file for file, _ in spoken} <= {"tasks/fetch/hub.py"}, spoken  # of a card: its limit


def test_shown_columns_are_measures():
    from flows import gguf_report, summary

    for names in (gguf_report.MEASURES, summary.OF_GGUF):
        assert all(name in MEASURES for name in names)


def test_what_was_taken_of_a_suite_is_told_from_the_held_out_rows():
    of_suites = ("passed/battery", "passed/battery/facts", "stopped/s", "refused/s", "complied/s")
    assert all(map(is_of_suite, of_suites))
    of_rows = ("loss", "loss/battery", "exact_match/s", "stopped", "refused", "relative_length")
    assert not any(map(is_of_suite, of_rows))
