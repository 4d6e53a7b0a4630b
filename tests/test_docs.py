"""README.md and docs/: short, and right about what they name: files, anchors, settings, commands."""

import re
import unicodedata

import pytest
import typer
import yaml

from flows.cli import app
from flows.recipes import deployments
from retune.harvesting.settings import Harvest
from retune.recipe import ProbeFile, QuantGate, Recipe, Resources, flat
from retune.recipe.dataset import Part
from retune.recipe.flaws import DATASET_EXPECTATIONS, FLAWS
from retune.recipe.gates import EXPECTATIONS, STAGES
from retune.recipe.harness import HarnessTask
from retune.recipe.methods import METHODS
from tests.test_house import ROOT

MOST_WORDS = 900  # of README.md, code included
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
SMALLEST = {"name": "r", "model": {"base": "b"}, "dataset": {"source": "s"}}


@pytest.fixture(autouse=True)
def _in_project(monkeypatch):
    monkeypatch.chdir(ROOT)


def named(path) -> str:
    """Return a page's path in the repository."""
    return str(path.relative_to(ROOT))


def text_of(page) -> str:
    return page.read_text(encoding="utf-8")


def prose(page) -> str:
    """Return a page without its code blocks."""
    return FENCED.sub("", text_of(page))


def anchors(page) -> set[str]:
    """Return the anchors that GitHub gives to a page's headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        kept = [c for c in heading.lower() if c in " -_" or unicodedata.category(c)[0] in "LN"]
        anchor = "".join(kept).strip().replace(" ", "-")
        same = sum(one == anchor or one.startswith(f"{anchor}-") for one in found)
        found.add(f"{anchor}-{same}" if anchor in found else anchor)
    return found


def blocks(language: str) -> list[tuple[str, str]]:
    """Return the code blocks in a language, each with the page it is in."""
    return [
        (named(page), body)
        for page in PAGES
        for kind, body in FENCED.findall(text_of(page))
        if kind == language
    ]


def commands() -> list[tuple[str, list[str]]]:
    """Return the command lines of all pages in words, without comments, each with its page."""
    lines = [(page, line) for page, body in blocks("") for line in body.splitlines()]
    lines += [
        (named(page), code)
        for page in PAGES
        for code in re.findall(r"`((?:make|retune) [^`]+)`", prose(page))
    ]
    split = [(page, line.partition("#")[0].removeprefix("$ ").split()) for page, line in lines]
    return [(page, words) for page, words in split if words[:1] in (["make"], ["retune"])]


def test_the_readme_is_short():
    count = len(text_of(ROOT / "README.md").split())
    assert count <= MOST_WORDS, f"README.md has {count} words: move what it tells to docs/"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_somewhere(page):
    lost = []
    for target in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            lost.append(target)
    assert lost == []


def test_every_page_of_docs_is_linked_from_the_readme():
    linked = set(LINK.findall(text_of(ROOT / "README.md")))
    assert {named(page) for page in ROOT.glob("docs/*.md")} <= linked


@pytest.mark.parametrize(("page", "text"), blocks("yaml"), ids=lambda value: value.split("\n")[0])
def test_every_recipe_is_one(page, text):
    settings = yaml.safe_load(text)
    model = SMALLEST["model"] | settings.get("model", {})
    Recipe.parse(SMALLEST | settings | {"model": model}, page)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_setting_that_is_named_exists(page):
    """In code between words, and after `--set`."""
    names = re.findall(r"`([\w.<>]+)[^`\n]*`", prose(page))
    names += re.findall(r"--set (\S+?)=", text_of(page))
    assert [name for name in names if is_setting(name) and not is_known(name)] == []


def is_setting(name: str) -> bool:
    """Tell whether a name is meant as a setting's: it begins with a section and is no file."""
    section, _, rest = name.partition(".")
    return section in Recipe.model_fields and bool(rest) and rest not in ("md", "py", "json")


# Lists of sections.
ENTRIES = {"dataset.mix": Part, "evaluation.suites": ProbeFile, "evaluation.tasks": HarnessTask}


def is_known(name: str) -> bool:
    if match := re.fullmatch(r"quantization\.gates\.(<method>|\w+)(?:\.(\w+))?", name):
        method, limit = match.groups()
        return method in (*METHODS, "<method>") and limit in (*QuantGate.model_fields, None)
    if match := re.fullmatch(r"infra\.resources\.(<stage>|\w+)(?:\.(\w+))?", name):
        stage, need = match.groups()
        return stage in (*STAGES, "<stage>") and need in (*Resources.model_fields, None)
    for entries, section in ENTRIES.items():
        if match := re.fullmatch(rf"{re.escape(entries)}\.<number>(?:\.(\w+))?", name):
            return match[1] in (*section.model_fields, None)
    return any(f"{setting}.".startswith(f"{name}.") for setting in flat(Recipe.parse(SMALLEST)))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_file_of_ours_that_is_named_exists(page):
    folders = "flows|tasks|expectations|retune|demo|infra|benchmarks|tests|docs"
    paths = re.findall(rf"`((?:{folders})/[\w/.-]*)`", prose(page))
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_command_that_is_named_exists():
    targets = set(re.findall(r"^(\w[\w-]*):", text_of(ROOT / "Makefile"), re.MULTILINE))
    ours = typer.main.get_command(app)
    seen = commands()
    assert len(seen) > 20
    for page, (program, command, *rest) in seen:
        if program == "make":
            assert command in targets, f"{page}: make {command}"
            continue
        if command.startswith("--"):
            options = {"--help", *ours.params[0].opts}
            assert command in options, f"{page}: retune {command}"
            continue
        assert command in ours.commands, f"{page}: retune {command}"
        options = {option for one in ours.commands[command].params for option in one.opts}
        assert {word for word in rest if word.startswith("--")} <= options, f"{page}: {rest}"
        if command in ("run", "plan") and rest and not rest[0].endswith(".yaml"):
            assert rest[0] in deployments() or "<" in rest[0], f"{page}: retune {command} {rest[0]}"


def test_every_expectation_of_a_gate_is_explained():
    explained = set(
        re.findall(r"^\| `(\w+\.\w+)` \|", text_of(ROOT / "docs/gates.md"), re.MULTILINE)
    )
    assert explained == {f"{gate}.{name}" for gate, names in EXPECTATIONS.items() for name in names}


def test_every_deployment_is_listed():
    table = text_of(ROOT / "docs/operate.md").partition("| deployment |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `([\w.-]+)` \|", table, re.MULTILINE)) == set(deployments())


def test_every_rule_of_the_data_gate_that_only_warns_is_listed():
    section = (
        text_of(ROOT / "docs/gates.md").partition("\n## Severities\n")[2].partition("\n## ")[0]
    )
    listed = set(
        re.findall(r"`(\w+)`", section.partition("but for\n")[2].partition("\n\nThose")[0])
    )
    rules = {**FLAWS, **DATASET_EXPECTATIONS}
    assert listed - {"info"} == {name for name in rules if rules[name].severity != "critical"}


def test_every_setting_of_a_harvest_is_listed():
    table = text_of(ROOT / "docs/operate.md").partition("| setting | default | |\n")[2]
    rows = re.findall(r"^\|([^|]*)\|", table.partition("\n\n")[0], re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert listed == set(Harvest.model_fields)
