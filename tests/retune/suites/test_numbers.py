"""The last number of an answer: what people write as one, and what only looks like it."""

import time

import pytest

from retune.suites.numbers import last_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("It is 42.", 42),
        ("1,234.5", 1234.5),
        ("$1,234", 1234),
        ("12,34,567", 1234567),
        ("1'234'567.25", 1234567.25),
        ("1\u202f234", 1234),
        ("1_000", 1000),
        ("-1,000", -1000),
        ("x = -7.50", -7.5),
        ("(−3)", -3),
        ("+3", 3),
        (".5", 0.5),
        ("-.5", -0.5),
        ("1.", 1),
        ("1e5", 100_000),
        ("0.1e-3", 0.0001),
        ("5%", 5),
        ("42nd", 42),
        ("\\boxed{17}", 17),
        ("2 + 3 = **5**", 5),
        ("first 1, then 2", 2),
        ("1,2,3", 3),
        ("12:30", 30),
        ("10²", 10),
        ("٤٢", 42),
        ("４２", 42),
        ("१२३", 123),
        ("٣٫٥", 3.5),
        # a sign joins nothing that stands before it
        ("3-5", 5),
        ("10 - 20", 20),
        ("COVID-19", 19),
        # no numbers
        ("", None),
        ("forty two", None),
        ("H2O", None),
        ("v2", None),
        ("1.2.3", None),
        ("12.05.2024", None),
        ("1e999", None),
        ("9" * 500, None),
    ],
)
def test_the_last_number(text, number):
    assert last_number(text) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1.234,5", 1234.5),
        ("1 234,5", 1234.5),
        ("0,5", 0.5),
        ("3,14", 3.14),
        ("1.234", 1234),
        ("im Jahr 2024 100", 100),
        ("12 345 678", 12_345_678),
        ("3.5", None),
        ("1,234.5", None),
    ],
)
def test_with_a_decimal_comma(text, number):
    assert last_number(text, decimal_comma=True) == number


def test_a_number_among_others_counts_although_the_last_one_is_none():
    assert last_number("42, says version 1.2.3") == 42


@pytest.mark.parametrize("piece", ["1,", "-", "1.1e", "1e", "1 ", "123 ", "'", "1_"])
@pytest.mark.parametrize("decimal_comma", [False, True])
def test_it_takes_linear_time(piece, decimal_comma):
    began = time.process_time()
    last_number(piece * 50_000, decimal_comma)
    assert time.process_time() - began < 2
