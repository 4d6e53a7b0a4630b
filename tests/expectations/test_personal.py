"""Card and account numbers, national ids and IP addresses: known by their rules, not by their look."""

import polars as pl
import pytest
from pydantic import ValidationError

from expectations.data import personal
from expectations.data.personal import NUMBERS, numbers
from retune.recipe import Validation


def found(text: str) -> list[str]:
    verdicts = numbers(pl.Series([text]))
    return [flaw for flaw in NUMBERS if verdicts[flaw].item()]


@pytest.mark.parametrize(
    ("text", "flaw"),
    [
        ("I paid with card 4539198344417476, expiry 11/27.", "credit_card"),
        ("card=4539-1983-4441-7476", "credit_card"),
        ('{"pan": "5412750000000001"}', "credit_card"),
        ("It is 3714 496353 98407.", "credit_card"),
        ("IBAN: DE12 5001 0517 0648 4898 90 BIC INGDDEFF", "iban"),
        ("pay to BE71096123456769.", "iban"),
        ("NO93 8601 1117 947 NORDEA", "iban"),
        ("My social security number is 209-88-9636.", "national_id"),
        ("ssn 209889636", "national_id"),
        ("CPF 529.982.247-25", "national_id"),
        ("身份证 11010519491231002X", "national_id"),
        ("il codice fiscale è RSSMRA85T10A562S", "national_id"),
        ("NIR 2 55 08 14 168 025 38", "national_id"),
        ("Our router is 81.28.158.180.", "ip_address"),
        ("http://81.28.158.180:8080/x", "ip_address"),
    ],
)
def test_each_is_found(text, flaw):
    assert found(text) == [flaw]


@pytest.mark.parametrize(
    "text",
    [
        "4539198344417477",  # a wrong check digit
        "9999 9999 9999 9995",  # of no issuer
        "4111 1111 1111 1111 and 4242424242424242",  # every manual's
        "pi is 3.4539198344417476 and more",
        "x = 45391983444174760000000000",
        "order #4539198344417476",
        "id_4539198344417476, a4539198344417476b, 4539198344417476-1",
        "4539 1983 4441 7476 1234 5678",  # a list of numbers
        "ISBN 978-3-16-148410-0, 9783161484100, 1700000000000, 20231121093000",
        "2023-11-21 09:30:00, 123-45-6789, 000-12-3456, 666-12-3456, 900-12-3456, 209-00-9636",
        "call 209-889-6360, part 209-88-96361, 1209-88-9636",
        "DE89 3704 0044 0532 0130 00 and GB82 WEST 1234 5698 7654 32",  # Wikipedia's
        "DE12 5001 0517 0648 4898 91",
        "AB12 CDEF GHIJ KLMN OPQR, SHA256 ABCD EFGH",
        "111.111.111-11 and 529.982.247-26",
        "110105194912310021 and RSSMRA85T10A562T",
        "127.0.0.1, 10.20.30.40, 192.168.1.20, 203.0.113.77, 8.8.8.8, 255.255.255.0, 999.1.1.77",
        "Mozilla/5.0 Chrome/110.0.0.0 Safari/537.36, libfoo/20.21.22.23",
        "version 1.2.3.4 and 10.0.1.2, section 3.14.15.9, 81.28.158.180.5, v81.28.158.180",
        "3e1b6a4c4539198344417476ffab",
        "UUID 45391983-4441-7476-9f00-000000000000",
    ],
)
def test_what_only_looks_like_one_is_none(text):
    assert found(text) == []


@pytest.mark.parametrize(
    ("region", "text"),
    [
        ("DE", "Ruf mich an: 030 901820 oder 0151 23456789."),
        ("DE", "Tel. (089) 2180-0 ist besetzt, 089/21802180 nicht."),
        ("FR", "Mon numéro : 06 12 34 56 78."),
        ("ES", "Llámame al 612 34 56 78 mañana."),
        ("GB", "Call 020 7946 0958 after six."),
    ],
)
def test_a_national_number_is_found_in_its_region(region, text):
    assert personal.has_phone_number(pl.Series([text]), (region,)).to_list() == [True]
    assert personal.has_phone_number(pl.Series([text])).to_list() == [False]


@pytest.mark.parametrize(
    "text",
    [
        *("On 2019-05-12 at 08:15.", "It costs 1 200 000 €.", "1999 2000 2001 2002", "v0.12.34.56"),
        *("ISBN 978-3-16-148410-0", "192.168.10.12", "0.25 0.50 0.75", "012345", "page 12-34"),
    ],
)
def test_other_numbers_are_no_national_ones(text):
    assert personal.has_phone_number(pl.Series([text]), ("DE", "FR", "GB")).to_list() == [False]


def test_regions_are_off_and_known():
    assert Validation().phone_regions == ()
    with pytest.raises(ValidationError, match="UK is no region whose numbers are known"):
        Validation(phone_regions=["UK"])
