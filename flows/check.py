"""`retune validate` and `retune scaffold-suite`: the data gate alone, without any server.

For a dataset repository's own CI, and for writing a recipe's thresholds.
"""

import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from expectations import formatting
from expectations.data.judgement import reference
from expectations.data.messages import Rules
from expectations.data.report import Report
from expectations.data.suite import import_library
from expectations.verdicts import Verdict, ranked
from flows.recipes import load
from retune.data_files import names_data
from retune.escaping import terminal, visible
from retune.files import write_whole
from retune.pinning import pin_dataset, pin_reference
from retune.recipe import Model, Recipe, Validation, set_value
from retune.recipe.address import without_secrets
from retune.records import Pins
from retune.report_folder import replacing
from retune.sources import pin
from retune.tracking import last_accepted

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text
    from transformers import PreTrainedTokenizerBase

    from expectations.data.judgement import Judged

_NO_MODEL = "none"  # of a dataset file that is judged without a recipe
# Who sets one of these below `validation` means to have scores.
SCORE_SETTINGS = frozenset(
    name for name in Validation.model_fields if name.startswith(("score_", "keep_", "classifier"))
) - {"keep"} | {"max_below_threshold_share", "min_distinct_scores"}


def check(name: str, assignments: list[str], folder: Path) -> Report:
    """Judge the dataset of a recipe, or a dataset file by the default recipe; write into `folder`.

    What the gate leaves (see `tasks.validate.gate`) replaces the report that is in `folder`;
    nothing else may be there. With a base model the token ids are proven and counted as well, and
    format's verdicts are in the report. If the classifier's Hub does not answer, scores are not
    judged. Raises SourceError and RecipeError for what cannot be judged, and NotOurs for a folder of
    something else; what is rejected is in the report.
    """
    from tasks.validate.gate import judge_rows

    recipe = _recipe(name, assignments)
    with replacing(folder, name) as new, _fetched(recipe) as (rows, version):
        if names_data(name):
            recipe = _with_what_it_has(recipe, rows)
        tokenizer = _tokenizer(recipe)
        rules = _rules(recipe, tokenizer)
        pins = Pins(
            dataset=version,
            model="",
            reference=pin_reference(recipe),
            accepted=last_accepted(recipe, version),
        )
        compared = reference(recipe, pins)
        judged = judge_rows(
            rows, rules, new, compared, _say, recipe.dataset.acknowledged, offline=True
        )
        if tokenizer and not judged.report.failed:
            judged = _with_tokens(judged, new / "rows.parquet", tokenizer, recipe)
        judged.write(new)
    return judged.report


def _with_what_it_has(recipe: Recipe, rows: Path) -> Recipe:
    """Return the recipe of a dataset file; where no row has a score and nothing is asked of scores,
    it does not ask for them."""
    import polars as pl

    scores = pl.scan_parquet(rows).select(pl.col("score").is_not_null().any())
    if recipe.validation.model_fields_set & SCORE_SETTINGS or scores.collect().item():
        return recipe
    _say(
        "no row has a score: what is expected of scores is not judged "
        "(--set validation.score_required=true asks the classifier)"
    )
    validation = recipe.validation.model_copy(update={"score_required": False})
    return recipe.model_copy(update={"validation": validation})


def _with_tokens(
    judged: "Judged", rows: Path, tokenizer: "PreTrainedTokenizerBase", recipe: Recipe
) -> "Judged":
    """Render and tokenise the accepted rows, as format would; add its verdicts, and what of some rows
    is learned."""
    from expectations.data.charts import histogram
    from expectations.data.page import Figure
    from tasks.format.chats import learned, token_statistics, write_chats
    from tasks.format.preview import STYLE, TITLE, fragment, preview

    config, train_on, longest = recipe.formatting, recipe.training.train_on, recipe.model.max_length
    with tempfile.TemporaryDirectory() as folder:
        formatted = write_chats(rows, tokenizer, config.held_out_share, Path(folder))
        train = Path(folder) / "train.parquet"
        unlearned, _ = learned(train, tokenizer, train_on, longest)
        shown = fragment(preview(train, tokenizer, train_on, longest), train_on)
    metrics = token_statistics(formatted.lengths, longest)
    metrics |= formatted.effects.metrics() | {"unlearned_share": unlearned}
    of_format = formatting.judged(metrics, len(formatted.lengths), recipe)
    chart = histogram(formatted.lengths, longest, f"cut at {longest:,}")
    judged = judged.with_verdicts([*judged.report.verdicts, *of_format.verdicts])
    return judged._replace(
        figures=(Figure("Tokens of each training row", chart),),
        sections=(Figure(TITLE, shown, STYLE),),
    )


def scaffold(name: str, assignments: list[str], profile: Path | None = None) -> str:
    """Return the YAML of a section `validation` with thresholds from a dataset known to be good; its
    profile is written into the file `profile`, if one is named, and the section names it.

    Raises Implausible for one that is not: what it has too much of is named, not allowed.
    """
    import polars as pl
    import yaml

    from expectations.data.features import with_scores
    from expectations.data.profile.looks import looks
    from expectations.data.scaffold import record_of, require_plausible, thresholds
    from expectations.data.tables import count
    from tasks.validate.quarantine import EXCERPTS
    from tasks.validate.repairs.repair import repair
    from tasks.validate.screening import screen

    recipe = _recipe(name, assignments)
    with _fetched(recipe) as (rows, _), tempfile.TemporaryDirectory() as folder:
        rules = _rules(recipe, _tokenizer(recipe))
        repaired, _ = repair(rows, rules.config.repairs, Path(folder))
        screened, seen = screen(repaired, rules, Path(folder)), looks(Path(folder))
        examples = pl.read_parquet(Path(folder) / EXCERPTS)
        require_plausible(screened, examples, seen, rules.config)
        table = with_scores(screened.drop("disposition", "sound_score"), rules.config)
        section, rows_seen = {"validation": thresholds(table)}, count(table)
        if profile:
            write_whole(profile, record_of(seen).model_dump_json())
            section["validation"]["reference"] = str(profile)
    return f"# from {visible(recipe.dataset.title)}, {rows_seen:,} rows\n" + yaml.safe_dump(
        section, sort_keys=False, allow_unicode=True
    )


def shown(report: Report) -> "Group":
    """Return the verdict and the expectations with what was seen, the failed ones first, for a
    terminal of any width."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    clean = [verdict for verdict in report.verdicts if verdict.passed and verdict.seen == "none"]
    table = Table.grid(padding=(0, 2, 0, 0))
    judged = ranked(v for v in report.verdicts if v.judged and v not in clean)
    for verdict in (verdict for verdict in judged if verdict.failed):
        table.add_row(_mark(verdict), _words(verdict))
    for why in dict.fromkeys(verdict.seen for verdict in report.unjudged):
        names = ", ".join(verdict.name for verdict in report.unjudged if verdict.seen == why)
        table.add_row("[yellow]not judged[/]", Text(visible(why)).append(f"\n{names}", "dim"))
    for verdict in (verdict for verdict in judged if verdict.passed):
        table.add_row("[green]ok[/]", _words(verdict))
    if clean:
        many = "expectation" if len(clean) == 1 else "expectations"
        table.add_row("[green]ok[/]", f"{len(clean)} more {many}: nothing found")
    style = "bold red" if report.failed else "bold green"
    advice = report.judgement().what_to_do if report.failed else []
    below = [Text(visible(sentence)) for sentence in advice]
    padded = Padding(table, (1, 0, 1, 0))
    return Group(Text(report.headline, style), Text(report.counts), padded, *below)


def _mark(verdict: Verdict) -> str:
    return "[bold red]FAILED[/]" if verdict.blocks else f"[yellow]{verdict.severity}[/]"


def _words(verdict: Verdict) -> "Text":
    from rich.text import Text

    words = Text(visible(verdict.expected))
    words.append(f"\n{visible(verdict.seen)}", "bold" if verdict.failed else "dim")
    if verdict.failed and verdict.setting:
        words.append(f"\n{verdict.setting}", "dim")
    return words


def _recipe(name: str, assignments: list[str]) -> Recipe:
    if not names_data(name):
        return load(name, assignments)
    values: dict[str, Any] = {"dataset": {"source": name}, "model": {"base": _NO_MODEL}}
    words = re.sub(r"[^a-z0-9._-]+", "-", Path(name).stem.lower())
    values["name"] = words[:60].strip("-._") or "dataset"
    for assignment in assignments:
        values = set_value(values, assignment)
    return Recipe.parse(values, visible(without_secrets(name)))


@contextmanager
def _fetched(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    """Yield the dataset's rows in a temporary Parquet file, and its version."""
    from tasks.fetch.guarded import fetch_rows

    dataset = recipe.dataset
    version, mix = pin_dataset(dataset)
    with tempfile.TemporaryDirectory() as folder:
        # Seconds, in which another process reads the rows.
        Thread(target=import_library, name="import of the judge").start()
        fetch_rows(dataset, version, Path(folder), mix, _say)
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
    from retune.suites.cases import cases
    from retune.suites.files import pin_suites
    from tasks.validate.prompts import evaluation_prompts

    tokens = control_tokens(tokenizer) if tokenizer else ()
    asked = cases(recipe, pin_suites(recipe))
    return Rules(recipe.validation, tokens, evaluation_prompts(recipe), asked)


def _say(sentence: str) -> None:
    print(terminal(sentence), file=sys.stderr)
