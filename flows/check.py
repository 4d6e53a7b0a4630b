"""`retune validate` and `retune scaffold-suite`: the data gate alone, without any server.

For a dataset repository's own CI, and for writing a recipe's thresholds.
"""

import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expectations import formatting
from expectations.data.judgement import reference
from expectations.data.messages import Rules
from expectations.data.report import Report
from expectations.verdicts import ranked, require
from flows.recipes import load
from retune.escaping import terminal, visible
from retune.recipe import Model, Recipe, set_value
from retune.records import Pins
from retune.report_folder import replacing
from retune.sources import DATA_FORMATS, pin
from retune.tracking import last_accepted

if TYPE_CHECKING:
    from rich.table import Table
    from transformers import PreTrainedTokenizerBase

_NO_MODEL = "none"  # of a dataset file that is judged without a recipe
_MARKS = {"passed": "[green]ok[/]", "not judged": "[yellow]not judged[/]"}


def check(name: str, assignments: list[str], folder: Path) -> Report:
    """Judge the dataset of a recipe, or a dataset file by the default recipe; write into `folder`.

    What the gate leaves (see `tasks.validate.gate`) replaces the report that is in `folder`;
    nothing else may be there. With a base model the token ids are proven and counted as well. Raises
    SourceError and RecipeError for what cannot be judged, NotOurs for a folder of something else,
    Rejected for too many long rows; what the gate itself rejects is in the report.
    """
    from tasks.format.chats import token_statistics, write_chats
    from tasks.validate.gate import gate

    recipe = _recipe(name, assignments)
    formatted = None
    with replacing(folder, name) as new, _fetched(recipe) as (rows, version):
        tokenizer = _tokenizer(recipe)
        pins = Pins(dataset=version, model="", accepted=last_accepted(recipe, version))
        report = gate(rows, _rules(recipe, tokenizer), new, reference(pins), _say)
        if tokenizer and not report.failed:
            with tempfile.TemporaryDirectory() as chats:
                formatted = write_chats(
                    new / "rows.parquet",
                    tokenizer,
                    recipe.formatting.held_out_share,
                    Path(chats),
                )
    if formatted:
        metrics = token_statistics(formatted.lengths, recipe.model.max_length)
        metrics |= formatted.effects.metrics()
        require(formatting.judged(metrics, len(formatted.lengths), recipe))
    return report


def scaffold(name: str, assignments: list[str]) -> str:
    """Return the YAML of a section `validation` with thresholds from a dataset known to be good."""
    import yaml

    from expectations.data.features import features, with_scores
    from expectations.data.scaffold import thresholds

    recipe = _recipe(name, assignments)
    with _fetched(recipe) as (rows, _):
        rules = _rules(recipe, _tokenizer(recipe))
        table = with_scores(features(rows, rules), rules.config)
    section = {"validation": thresholds(table)}
    return f"# from {visible(recipe.dataset.source)}, {len(table):,} rows\n" + yaml.safe_dump(
        section, sort_keys=False, allow_unicode=True
    )


def shown(report: Report) -> "Table":
    """Return the expectations with what was seen, the failed ones first, as a table for a terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table(
        "", "severity", "expected", "seen",
        title=f"{report.accepted:,} of {report.rows:,} rows accepted, suite {report.suite}",
        title_justify="left", title_style="bold", box=None, pad_edge=False,
    )  # fmt: skip
    clean = [verdict for verdict in report.verdicts if verdict.passed and verdict.seen == "none"]
    listed = [verdict for verdict in report.verdicts if verdict not in clean]
    for verdict in ranked(listed):
        mark = _MARKS.get(verdict.outcome, "[red]FAILED[/]")
        words = (Text(visible(words)) for words in (verdict.expected, verdict.seen))
        table.add_row(mark, verdict.severity, *words)
    table.add_row("[green]ok[/]", "", f"{len(clean)} more expectations", "nothing found")
    return table


def _recipe(name: str, assignments: list[str]) -> Recipe:
    if Path(name).suffix.lower() not in DATA_FORMATS:
        return load(name, assignments)
    values: dict[str, Any] = {"dataset": {"source": name}, "model": {"base": _NO_MODEL}}
    words = re.sub(r"[^a-z0-9._-]+", "-", Path(name).stem.lower())
    values["name"] = words[:60].strip("-._") or "dataset"
    for assignment in assignments:
        values = set_value(values, assignment)
    return Recipe.parse(values, visible(name))


@contextmanager
def _fetched(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    """Yield the dataset's rows in a temporary Parquet file, and its version."""
    from tasks.fetch.guarded import fetch_rows

    dataset = recipe.dataset
    version = pin(dataset.source, dataset.revision, "dataset", "dataset.source")
    with tempfile.TemporaryDirectory() as folder:
        fetch_rows(dataset, version, Path(folder))
        yield Path(folder) / "rows.parquet", version


def _tokenizer(recipe: Recipe) -> "PreTrainedTokenizerBase | None":
    from retune.chat import chatml_tokenizer
    from retune.inspection import inspect_base
    from retune.loaders import admit

    model: Model = recipe.model
    if model.base == _NO_MODEL:
        _say("no base model is named (--set model.base=…): token ids are not checked")
        return None
    version = pin(model.base, model.revision, "model", "model.base")
    commit = None if version.startswith("sha256:") else version
    inspect_base(model, version, weights=False)
    admit(model, commit)
    return chatml_tokenizer(model.base, commit, model.chat_tokens)


def _rules(recipe: Recipe, tokenizer: "PreTrainedTokenizerBase | None") -> Rules:
    from retune.control_texts import control_tokens
    from tasks.validate.prompts import evaluation_prompts

    tokens = control_tokens(tokenizer) if tokenizer else ()
    return Rules(recipe.validation, tokens, evaluation_prompts(recipe))


def _say(sentence: str) -> None:
    print(terminal(sentence), file=sys.stderr)
