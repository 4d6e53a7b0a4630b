"""A YAML file is read as people mean it, or refused in one line and in no time."""

import time

import pytest
import yaml

from retune.documents import BYTES, read_yaml
from retune.recipe import RecipeError


def refused(content: str | bytes) -> str:
    """Return what is said of a document, which takes less than a second of this process's time."""
    begun = time.process_time()
    with pytest.raises(RecipeError) as caught:
        read_yaml(content, "r.yaml")
    assert time.process_time() - begun < 1
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    assert message.startswith("r.yaml")
    return message


LAUGHS = "a0: &a0 [lol, lol]\n" + "".join(
    f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(12)
)
MERGED_LAUGHS = "a0: &a0 {k: v}\n" + "".join(
    f"a{n + 1}: &a{n + 1}\n  <<: [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(12)
)
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{n + 1}: &a{n + 1} [*a{n}]\n" for n in range(5000))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "gates: {a: 1}\nx: 1\ngates: {}",
            "line 3: 'gates' stands there already, in line 1; keep one",
        ),
        ("a:\n  b: 1\n  'b': 2", "line 3: 'b' stands there already, in line 2"),
        ("a: {b: 1, b: 2}", "line 1: 'b' stands there already, in line 1"),
        ("a: [{b: 1, b: 2}]", "'b' stands there already"),
        ("yes: 1\ntrue: 2", "line 2: True stands there already, in line 1"),
        ("1: a\n0x1: b", "line 2: 1 stands there already"),
        ("x: &x {a: 1}\ny: {<<: *x, b: 1, <<: *x}", "'<<' stands there already"),
        ("a: " + "[" * 10_000, "more than 30 sections and lists lie inside one another"),
        ("a: " + "[" * 10_000 + "]" * 10_000, "more than 30"),
        ("a: " + "{b: " * 10_000, "more than 30"),
        ("- " * 10_000, "more than 30"),
        ("".join(" " * n + "a:\n" for n in range(900)), "more than 30"),
        (LAUGHS, "unfolds to more than 20,000 values, or 30 inside one another"),
        (MERGED_LAUGHS, "unfolds to more than 20,000"),
        (CHAIN, "or 30 inside one another"),
        ("\n".join(f"k{n}: {n}" for n in range(15_000)), "unfolds to more than 20,000"),
        ("a: &a [*a]", "line 1: *a lies in what it stands for"),
        ("a: &a\n  b: {<<: *a}", "line 2: *a lies in what it stands for"),
        ("a: *nobody", "*nobody stands for nothing"),
        ("a: " + "x" * 200_000, "line 1: a value has more than 100,000 characters"),
        ("x" * 200_000 + ": a", "a value has more than 100,000 characters"),
        ("#" * (BYTES + 1), "has more than 1,000,000 bytes"),
        ("a: " + "9" * 5000, "cannot be read as int"),
        ("a: 0x" + "f" * 5000, "cannot be read as int"),
        ("a: !!int many", "'many' cannot be read as int"),
        ("a: !!int ''", "'' cannot be read as int"),
        ("a: !!bool maybe", "'maybe' cannot be read as bool"),
        ("a: !!python/object/apply:os.system [id]", "the tag 'tag:yaml.org,2002:python/object"),
        ("a: !!python/name:os.system", "is not for recipes; remove it"),
        ("a: !!set {b, c}", "is not for recipes"),
        ("a: !!timestamp 2024-01-01", "is not for recipes"),
        ("!secret a", "the tag '!secret' is not for recipes"),
        ("a: 1\n---\nb: 2", "line 2: a second document begins; keep one"),
        ("? [a, b]\n: c", "a key must be a word or a number"),
        ("x: &x [a]\n? *x\n: c", "a key must be a word or a number"),
        ("a: {<<: 3}", "<< takes a section"),
        ("a: {<<: [x]}", "<< takes a section"),
        ("a: [", "is not YAML: "),
        ("a: 'b", "is not YAML: "),
        ("a: \0b", "is not YAML: "),
        ("\t- a", "is not YAML: "),
        (b"a: caf\xe9", "is not UTF-8 text"),
        ("a: 1".encode("utf-16"), "is not UTF-8 text"),
        ("a: \udcff", "is not UTF-8 text"),
        ('a: "\\ud800"', "is not YAML: "),
        ("%TAG ! x\n" * 1000, "is not YAML: "),
        ("*a " * 100_000, "stands for nothing"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_no_recipe_needs_is_refused(content, said):
    assert said in refused(content)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# only a comment",
        "a",
        "[a, 'b', \"c\", 1, -2, 0.5, 1.0e-4, true, No, null, ~]",
        "a: {b: [1, {c: d}], e: {}}\nf: []\ng: ''",
        "common: &c {a: 1, b: {c: 2}}\nx: {<<: *c, a: 3}\ny: *c",
        "p: &p {a: 1, b: 1}\nq: &q {a: 2, c: 2}\nx: {z: 0, <<: [*p, *q], c: 3}",
        "x: &x {a: 1}\ny: &y {<<: *x, b: 2}\nz: {<<: *y, a: 4}",
        "a: |\n  two\n  lines\nb: >\n  one\n  line\n",
        "a: !!str 7\nb: !!float 3\nc: !!seq [1]\nd: ! 7",
        "{0.05: 2.5, 0.5: 3.0}",
        "--- \na: 1\n...\n",
        "a: 1e-4\nb: 3e4\nc: .inf",
        "'<<': 1",
        "\ufeffa: é 数 😀",
    ],
)
def test_good_yaml_is_read_as_pyyaml_reads_it(text):
    assert read_yaml(text, "r.yaml") == yaml.safe_load(text)
    assert read_yaml(text.encode(), "r.yaml") == yaml.safe_load(text)


def test_dates_and_minutes_stay_text():
    """A revision may look like a day; 1:30 would be 90."""
    text = "[2024-01-01, 2024-13-45, 1:30, 1:30.5, 12:00:00, =]"
    expected = ["2024-01-01", "2024-13-45", "1:30", "1:30.5", "12:00:00", "="]
    assert read_yaml(text, "r.yaml") == expected


def test_a_large_recipe_is_read():
    """Thousands of phrases, and as many deployments as a team may have."""
    phrases = "".join(f"  - phrase number {n} with some words\n" for n in range(5000))
    assert len(read_yaml(f"refusals:\n{phrases}", "r.yaml")["refusals"]) == 5000
