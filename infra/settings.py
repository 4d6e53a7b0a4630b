"""Writes docs/settings.md, the reference of a recipe's settings: `make docs`.

Each of its tables is made of the facts where they stand: the sections' models, and the tables of flaws,
expectations, quantization methods and measures in `retune`.
"""

import inspect
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from textwrap import fill
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from retune.measures import MEASURES, Measure
from retune.recipe import DATASET_EXPECTATIONS, FLAWS, Quantization, Recipe
from retune.recipe.flaws import DatasetExpectation
from retune.recipe.gates import EXPECTATIONS
from retune.recipe.methods import METHODS, Method
from retune.recipe.quantization import DEFAULT_GATES, QuantGate

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"
LONGEST = 80  # characters of a default in a table; a longer one stands below it
KEYS = {"resources": "stage"}  # of a mapping of sections; else they are methods
LIMITLESS = 10**9  # a bound from here on is there for what a library would choke on
HEAD = """\
<!-- Written by `make docs` (infra/settings.py) from retune/recipe/ and retune/measures.py. -->

# Settings

Everything that a recipe may hold, section by section, in the order of the stages. "Empty" is YAML's
`null`, or a setting that is left out. How a recipe is written is in [recipes.md](recipes.md), what the
gates do with their limits in [gates.md](gates.md).

Texts, lists and numbers also have upper bounds far above what is of use; those are left out here.

What the settings refer to stands below the sections: [flaws of a row](#flaws-of-a-row),
[expectations on a whole dataset](#expectations-on-a-whole-dataset) and
[of the other gates](#expectations-of-the-other-gates), the
[default gates of GGUF files](#default-gates-of-gguf-files), the
[quantization methods](#quantization-methods) and the [measures](#measures).
"""


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    print(f"Wrote {PAGE}")


def page() -> str:
    """Return the whole text."""
    tables = (flaws, dataset_expectations, gate_expectations, default_gates, methods, measures)
    return "\n".join([HEAD, *section(Recipe, ""), *(table() for table in tables)])


# The sections.


def section(model: type[BaseModel], path: str) -> Iterator[str]:
    """Yield a section's heading, words and table, and then its inner sections."""
    if path:
        yield f"{'###' if '.' in path else '##'} `{path}`\n\n{inspect.getdoc(model)}\n"
    schemas = model.model_json_schema()["properties"]
    inner = {name: section_type for name in schemas if (section_type := _inner(model, name))}
    settings = {name: schema for name, schema in schemas.items() if name not in inner}
    if settings:
        rows = [_setting(name, schema) for name, schema in settings.items()]
        yield table(("setting", "value", "default", "description"), rows)
    for name, schema in settings.items():
        if len(_default(schema)) > LONGEST:
            entries = "\n".join(f"- `{entry}`" for entry in schema["default"])
            yield f"By default `{path}.{name}` is:\n\n{entries}\n"
    for name, (suffix, model_of_it) in inner.items():
        yield from section(model_of_it, (f"{path}." if path else "") + name + suffix)


def _inner(model: type[BaseModel], name: str) -> tuple[str, type[BaseModel]] | None:
    """Return the section that a setting is, or that each of its entries is (`.<method>`, `.<number>`)."""
    annotation: Any = model.model_fields[name].annotation
    entry = ".<number>" if get_origin(annotation) is tuple else f".<{KEYS.get(name, 'method')}>"
    for suffix, kinds in (("", (annotation,)), (entry, get_args(annotation))):
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                return suffix, kind
    return None


def _setting(name: str, schema: dict[str, Any]) -> list[str]:
    default = _default(schema)
    cell = default if len(default) <= LONGEST else "see below"
    return [f"`{name}`", _kind(schema), cell, schema["description"]]


def _default(schema: dict[str, Any]) -> str:
    """Return a default as YAML has it."""
    if schema.get("type") == "object":
        return "none"  # made for each recipe
    if "default" not in schema:
        return "required"
    value = schema["default"]
    if value is None:
        return "empty"
    if isinstance(value, list):
        return f"`[{', '.join(value)}]`" if value else "none"
    if isinstance(value, bool):
        value = str(value).lower()
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _kind(schema: dict[str, Any]) -> str:
    """Return in words what a setting may be: the choices, or the type and its range."""
    options = schema.get("anyOf", [schema])
    kinds = [_type(option) for option in options if option.get("type") != "null"]
    return ", or ".join(kinds + ["empty"] * (len(kinds) < len(options)))


def _type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    match schema["type"]:
        case "array":
            return f"list of {_type(schema['items'])}"
        case "object":
            return f"mapping to {_kind(_entries(schema))}"
        case "boolean":
            return "`true`, `false`"
        case "string":
            return "text"
        case kind:
            return ", ".join(filter(None, (kind, _range(schema))))


def _entries(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a mapping's values; of names that follow a pattern it stands below that."""
    return schema.get("additionalProperties") or next(iter(schema["patternProperties"].values()))


def _range(schema: dict[str, Any]) -> str:
    bounds = {
        words: schema[key]
        for words, key in (
            ("at least", "minimum"),
            ("above", "exclusiveMinimum"),
            ("at most", "maximum"),
            ("below", "exclusiveMaximum"),
        )
        if abs(schema.get(key, LIMITLESS)) < LIMITLESS
    }
    if bounds.keys() == {"at least", "at most"}:
        return " to ".join(map(_number, bounds.values()))
    return ", ".join(f"{words} {_number(bound)}" for words, bound in bounds.items())


def _number(bound: float) -> str:
    return f"{bound:,.0f}" if float(bound).is_integer() else f"{bound:g}"


# What the settings refer to.


def flaws() -> str:
    rows = (
        [
            f"`{name}`",
            _named(flaw.title),
            f"{flaw.tolerance:g}",
            flaw.severity,
            _yes(flaw.quarantined),
        ]
        for name, flaw in FLAWS.items()
    )
    return part(
        "Flaws of a row",
        "The keys of `validation.tolerances`, `validation.severities` and `validation.keep`. The "
        "tolerance is the share of rows that may have a flaw; above it the flaw's severity counts. A row "
        "in quarantine is not trained on.",
        table(("flaw", "rows that have", "tolerance", "severity", "quarantine"), rows),
    )


def dataset_expectations() -> str:
    return part(
        "Expectations on a whole dataset",
        "Further keys of `validation.severities`. An expectation is left out where its limit is empty.",
        table(
            ("expectation", "expected", "limit", "measure", "severity", "only with"),
            (_dataset_expectation(*item) for item in DATASET_EXPECTATIONS.items()),
        ),
    )


def _dataset_expectation(name: str, declared: DatasetExpectation) -> list[str]:
    return [
        f"`{name}`",
        _named(declared.title, limit=declared.setting),
        f"`validation.{declared.setting}`",
        f"`{declared.measure}`",
        declared.severity,
        f"`validation.{declared.needs}`" if declared.needs else "",
    ]


def gate_expectations() -> str:
    rows = (
        [gate, ", ".join(f"`{gate}.{name}`" for name in names)]
        for gate, names in EXPECTATIONS.items()
        if names
    )
    return part(
        "Expectations of the other gates",
        "The keys of `gates.severities`, `critical` by default where gates.md says nothing else. What "
        "each demands is in [gates.md](gates.md#what-each-gate-expects). Further ones of conform depend "
        "on the base model; each is `conform.` and the name of a check, in lower case with underscores. "
        "A training that diverged has no output: train has no key.",
        table(("gate", "keys"), rows),
    )


def default_gates() -> str:
    limits = list(QuantGate.model_fields)
    rows = (
        [str(bits), *(f"{getattr(gate, name):g}" for name in limits)]
        for bits, gate in DEFAULT_GATES.items()
    )
    return part(
        "Default gates of GGUF files",
        "By the bits of a method: the first line that is not below them. `quantization.gates` changes "
        "single limits of a method.",
        table(("bits", *(f"`{name}`" for name in limits)), rows),
    )


def methods() -> str:
    return part(
        "Quantization methods",
        "What `quantization.methods` may name; those that take the most CPU time come first. The bits "
        "per weight are those of a whole file of an 8B Llama 3. The importance matrix is the one of "
        "`quantization.imatrix: auto`; a method that needs one cannot be made with `never`.",
        table(
            ("method", "bits", "bits per weight", "importance matrix", "by default"),
            map(_method, METHODS.values()),
        ),
    )


def _method(method: Method) -> list[str]:
    default = Quantization()
    return [
        f"`{method.name}`",
        str(method.bits),
        f"{method.bits_per_weight:.2f}",
        "needed" if method.needs_imatrix else _yes(default.uses_imatrix(method.name)),
        _yes(method.name in default.methods),
    ]


def measures() -> str:
    return part(
        "Measures",
        "What stages measure. In MLflow a measure stands below its stage, as in `merge/kl_divergence`; "
        "what follows a further slash says of what it was taken, as in `evaluate/loss/tuned`. Shares are "
        "0 to 1.",
        table(
            ("measure", "in words", "unit", "better"),
            (
                [f"`{name}`", measure.title, _unit(measure), measure.better or ""]
                for name, measure in MEASURES.items()
            ),
        ),
    )


def _unit(measure: Measure) -> str:
    return "share" if measure.spec.endswith("%") else measure.unit


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _named(title: str, **settings: str) -> str:
    """Return the words of a flaw or an expectation with the settings' names where values would be."""

    def name(placeholder: re.Match[str]) -> str:
        word = placeholder[1].removeprefix("config.")
        return f"`{settings.get(word, word)}`"

    return re.sub(r"\{([\w.]+)[^}]*\}", name, title)


# Markdown.


def part(title: str, words: str, body: str) -> str:
    return f"## {title}\n\n{fill(words, 110, break_on_hyphens=False)}\n\n{body}"


def table(head: Iterable[str], rows: Iterable[list[str]]) -> str:
    lines = [list(head)]
    lines += [["---"] * len(lines[0]), *rows]
    return "".join(f"| {' | '.join(map(_cell, cells))} |\n" for cells in lines)


def _cell(text: str) -> str:
    """Return a cell in which nothing outside of code looks like HTML, and nothing ends the cell."""
    pieces = text.split("`")
    pieces[::2] = (piece.replace("<", "&lt;").replace(">", "&gt;") for piece in pieces[::2])
    return "`".join(pieces).replace("|", r"\|")


if __name__ == "__main__":
    main()
