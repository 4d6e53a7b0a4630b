"""What a run says of itself on MLflow's pages: a name that tells what changed, and a note.

The note stands at every run, however it ended: how it ended, what differs from the recipe's run
before it, five numbers, its files, and links.
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from retune.escaping import code, markdown, visible
from retune.measures import MEASURES, format_bytes, measure, title
from retune.placement import CLUSTER
from retune.recipe import Recipe, flat
from retune.saved_view import EVIDENCE, LOSS, run_link
from retune.tracking import PARAM_LIMIT, TABLES_TAG, artifacts, client, download_json, setting_text

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun

NOTE, RUN_NAME = "mlflow.note.content", "mlflow.runName"
CHANGED = "retune.changed"
CHANGED_SINCE = "retune.changed_since"  # `champion/<id>` or `run before/<id>` of MLflow
NEXT_STEP = "retune.next_step"  # what a person would do now, once a candidate is decided about
COMPARED = "retune.compared"  # how a candidate differs from its opponent, in a sentence
PINS = "provenance/pins.json"  # what a run started from
# Settings of these come first where few are named: they make another model.
_TELLING = ("model", "dataset", "training", "formatting", "validation", "merging")
# Where a run is kept and when it runs is no change of what it makes.
_SILENT = ("name", "note", "tracking.", "schedule.")
_NAMED = 2  # settings in a run's name
_MOST = 20  # settings in a note
_WARNINGS = 8  # in a note
_LONGEST_SEEN = 300  # characters of what a warning saw
_LONGEST = 28  # characters of a value in a name
TO_DO = "**What to do now**"
SEPARATOR = " · "  # in a run's name, between what it changes and recipe and time
VERDICTS = "verdicts.json"
WARNED = "failed"  # the result of a verdict that blocks nothing
GGUF_FILES = "quantize/gguf_files.json"
ANSWERED = "evaluate/answered"
NUMBERS = (
    LOSS,
    "evaluate/exact_match/tuned",
    "validate/accepted",
    "train/total_tokens",
    "train/seconds",
)


class SettingChange(NamedTuple):
    """A setting that two runs do not share; None where a run does not have it."""

    setting: str
    before: str | None
    after: str | None

    def brief(self) -> str:
        """Return the setting without its section, and what it is now; of a path its last part."""
        value = self.after or ""
        if value.startswith(("/", "~", ".")):
            value = value.rstrip("/").rpartition("/")[2] or value
        after = "unset" if value in ("", "null") else visible(value, _LONGEST)
        return f"{self.setting.rpartition('.')[2]} {after}"


def settings(recipe: Recipe) -> dict[str, str]:
    """Return every setting as the text that MLflow keeps of it."""
    return {name: setting_text(value)[:PARAM_LIMIT] for name, value in flat(recipe).items()}


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[SettingChange]:
    """Return the settings that differ, the telling ones first; both are parameters of runs."""
    names = [
        name
        for name in {**before, **after}
        if before.get(name) != after.get(name) and not name.startswith(_SILENT)
    ]
    return sorted(
        (SettingChange(name, before.get(name), after.get(name)) for name in names),
        key=lambda change: (_rank(change.setting), change.setting),
    )


def _rank(setting: str) -> int:
    section = setting.partition(".")[0]
    return _TELLING.index(section) if section in _TELLING else len(_TELLING)


def changed(differing: Sequence[SettingChange], rows: str, is_first: bool) -> str:
    """Return in few words what a run changes: at most two settings, else what `rows` says."""
    if is_first:
        return "first run"
    count = len(differing) - _NAMED
    more = f" and {count} more setting{'s' if count > 1 else ''}" if count > 0 else ""
    named = ", ".join(change.brief() for change in differing[:_NAMED]) + more
    return "; ".join(filter(None, (named, rows))) or "same again"


def before(run_id: str, experiment_id: str, recipe: str) -> "MlflowRun | None":
    """Return the run of a recipe that began before the run `run_id` did, however it ended; None if that
    is the first."""
    began = client().get_run(run_id).info.start_time
    runs = client().search_runs(
        [experiment_id],
        # A recipe's name has no quotes. One that waited and goes on is older than others by then.
        f"params.name = '{recipe}' AND attributes.start_time <= {began}",
        max_results=2,
        order_by=["attributes.start_time DESC"],
    )
    return next((run for run in runs if run.info.run_id != run_id), None)


def note(run_id: str, outcome: str, earlier: "MlflowRun | None", links: Mapping[str, str]) -> str:
    """Return the note of a run in Markdown; `outcome` is one sentence, `links` addresses by text."""
    run = client().get_run(run_id)
    # MLflow's pages fold a note after some five lines.
    champion = compared_with(run)
    parts = [f"**{markdown(outcome)}**", *_brief(run, earlier), *next_step(run), *compared(run)]
    parts += [*_since(run, earlier), *numbers_table(run, earlier), *files_table(run)]
    parts += settings_lists(run, earlier, champion)
    parts += [*warnings(run), *_links(run, earlier, links)]
    return "\n\n".join(parts)


def renew(run_id: str, outcome: str, step: str) -> None:
    """Let a run that has ended say what became of it since: `outcome` is one sentence, `step` what a
    person would do now."""
    text = client().get_run(run_id).data.tags.get(NOTE, "")
    _, *rest = text.split("\n\n")
    kept = [part for part in rest if not part.startswith(TO_DO)]
    parts = [f"**{markdown(outcome)}**", f"{TO_DO} {step}", *kept]
    for key, value in ((NEXT_STEP, step), (NOTE, "\n\n".join(parts))):
        client().set_tag(run_id, key, value)


def _brief(run: "MlflowRun", earlier: "MlflowRun | None") -> list[str]:
    """Return the first of the numbers in a line: `loss **0.8041** (base 6.8876, run before 0.6310)`."""
    before, now = (earlier.data.metrics if earlier else {}), run.data.metrics
    told = []
    for name in NUMBERS[:2]:
        if name in now:
            spec = measure(name.partition("/")[2])
            others = {
                "base": now.get(name.replace("/tuned", "/base")),
                "run before": before.get(name),
            }
            beside = [f"{key} {spec.number(of)}" for key, of in others.items() if of is not None]
            told.append(f"{title_of(name)} **{spec.number(now[name])}** ({', '.join(beside)})")
    return [" · ".join(told)] if told else []


def next_step(run: "MlflowRun") -> list[str]:
    """Return what a person would do now, as a paragraph in Markdown; nothing before the decision."""
    words = run.data.tags.get(NEXT_STEP, "")
    return [f"{TO_DO} {words}"] if words else []


def compared(run: "MlflowRun") -> list[str]:
    """Return how the candidate differs, as a paragraph in Markdown; nothing before the decision."""
    words = run.data.tags.get(COMPARED, "")
    return [markdown(words)] if words else []


def without_gpu(run: "MlflowRun") -> dict[str, float]:
    """Return the metrics of a run, without GPU-hours of a machine that has none."""
    metrics = dict(run.data.metrics)
    if run.data.tags.get("retune.machine.gpu") == "none" and not os.environ.get(CLUSTER):
        metrics.pop("train/gpu_hours", None)
    return metrics


def has_evidence(run_id: str) -> bool:
    """Tell whether a run has a page of evidence on its candidate."""
    files = artifacts(run_id, EVIDENCE.partition("/")[0])
    return any(file.path == EVIDENCE for file in files)


def short_name(run: "MlflowRun") -> str:
    """Return a run's name where its changes are of no interest: recipe and time, or a person's name."""
    return str(run.info.run_name).rpartition(SEPARATOR)[2]


def stored_run(run_id: str) -> "MlflowRun | None":
    """Return a run, None if somebody deleted it for good."""
    from mlflow.exceptions import MlflowException

    try:
        return client().get_run(run_id)
    except MlflowException:
        return None


def compared_with(run: "MlflowRun") -> "MlflowRun | None":
    """Return the run of the champion that a run was compared with, None without one."""
    champion = (download_json(run.info.run_id, PINS) or {}).get("champion")
    if not champion or champion["run_id"] == run.info.run_id:
        return None
    return stored_run(champion["run_id"])


def since(run: "MlflowRun", earlier: "MlflowRun") -> "tuple[str, MlflowRun]":
    """Return against which run a run tells its changes, and whose that is in words: the champion's as it
    began, else that of the run before."""
    whose, _, run_id = run.data.tags.get(CHANGED_SINCE, "").partition("/")
    if not run_id or run_id == earlier.info.run_id:
        return whose or "run before", earlier
    return whose, stored_run(run_id) or earlier


def _since(run: "MlflowRun", earlier: "MlflowRun | None") -> list[str]:
    if not earlier:
        return ["The first run of this recipe."]
    whose, other = since(run, earlier)
    address = run_link("", other.info.experiment_id, other.info.run_id)
    words = markdown(run.data.tags.get(CHANGED, "")) or "nothing"
    return [f"Changed since the {whose}, [{markdown(short_name(other))}]({address}): {words}"]


def settings_lists(
    run: "MlflowRun", earlier: "MlflowRun | None", champion: "MlflowRun | None"
) -> list[str]:
    """Return the settings that differ from those of the champion, and from those of the run before where
    the few words on what was changed had no room for all of them."""
    lists = settings_list(run, champion, "champion")
    others = _differing(run, earlier) if earlier else []
    is_another = earlier and not (champion and champion.info.run_id == earlier.info.run_id)
    if is_another and (len(others) > _NAMED or not lists):
        lists += settings_list(run, earlier, "run before")
    return lists


def settings_list(run: "MlflowRun", earlier: "MlflowRun | None", whose: str) -> list[str]:
    """Return the settings that differ from those of another run, `whose` it is in words, as a list in
    Markdown."""
    if not earlier:
        return []
    lines = [
        f"- {code(change.setting)}: {code(change.before or '')} → {code(change.after or '')}"
        for change in _differing(run, earlier)
    ]
    if not lines:
        return []
    head = f"Settings that differ from those of the {whose}, {markdown(short_name(earlier))}:"
    return [head, "\n".join(lines)]


def _differing(run: "MlflowRun", earlier: "MlflowRun") -> list[SettingChange]:
    """Return the settings that differ, the first of them; what stages add to the parameters are none."""
    sections = set(Recipe.model_fields)
    known = {
        name
        for name in set(run.data.params) & set(earlier.data.params)
        if name.partition(".")[0] in sections
    }
    before, after = ({name: of.data.params[name] for name in known} for of in (earlier, run))
    return changes(before, after)[:_MOST]


def differing_settings(run: "MlflowRun") -> str:
    """Return in a line which settings of a run differ from the champion's; "" for none or no champion."""
    champion = compared_with(run)
    return "; ".join(
        f"{change.setting}: {change.before or 'nothing'} → {change.after or 'nothing'}"
        for change in (_differing(run, champion) if champion else [])
    )


def beside_the_evidence(run: "MlflowRun") -> list[str]:
    """Return what a person who is asked about the candidate of a run should know besides how it does, as
    paragraphs in Markdown: the settings that differ from the champion's, and which files do not ship."""
    words = run.data.params.get("note", "")
    said = [f"Note: {markdown(words)}"] if words else []
    differing = settings_list(run, compared_with(run), "champion")
    return [*said, *differing, *_withheld(_judged_files(run))]


def numbers_table(run: "MlflowRun", earlier: "MlflowRun | None") -> list[str]:
    """Return five numbers beside the base's, those of the champion that it was compared with and those
    of the run before, as a table in Markdown."""
    now = run.data.metrics
    names = [name for name in NUMBERS if name in now]
    if not names:
        return []
    others = _others(earlier, compared_with(run))
    heads = ["", "this run", "base", *others]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for name in names:
        of_base = now.get(f"{name.removesuffix('/tuned')}/base") if "/tuned" in name else None
        values = (now[name], of_base, *(one.data.metrics.get(name) for one in others.values()))
        cells = [_row_title(name, now), *(_text(name, value) for value in values)]
        lines.append(f"| {' | '.join(cells)} |")
    if others:
        lines.append(
            "\nLoss and match of a column are on that run's own held-out rows; how both do on the same "
            "rows is what “Against …” says."
        )
    if run.data.tags.get("retune.train") == "reused":
        lines.append(f"\nTraining was reused: {run.data.tags.get('retune.reused.train', '')}.")
    return ["\n".join(lines)]


def _others(earlier: "MlflowRun | None", champion: "MlflowRun | None") -> "dict[str, MlflowRun]":
    """Return what a run's numbers stand beside, by the head of the column."""
    if earlier and champion and earlier.info.run_id == champion.info.run_id:
        return {"champion, the run before": champion}
    found = {"champion": champion, "run before": earlier}
    # One that ended before it had any numbers would be an empty column.
    return {
        head: one for head, one in found.items() if one and set(NUMBERS) & set(one.data.metrics)
    }


def _row_title(name: str, metrics: Mapping[str, float]) -> str:
    """Return a metric in words, with the number of answers that a share is of."""
    answers = metrics.get(ANSWERED) if name == "evaluate/exact_match/tuned" else None
    return title_of(name) + (f" of {answers:,.0f} answers" if answers else "")


def title_of(name: str) -> str:
    """Return a metric of a run in words, its stage only where that is not clear."""
    stage, _, metric = name.partition("/")
    words = title(metric.removesuffix("/tuned"))
    return f"{words} ({stage})" if metric == "seconds" else words


def _text(name: str, value: float | None) -> str:
    return "" if value is None else measure(name.partition("/")[2]).text(value)


def files_table(run: "MlflowRun") -> list[str]:
    """Return size and quality of the GGUF files, the smallest first, as a table in Markdown."""
    metrics = run.data.metrics
    prefix = "quantize/bytes/"
    methods = [name.removeprefix(prefix) for name in metrics if name.startswith(prefix)]
    if not methods:
        return []
    measures = ("kl_divergence", "same_top_token", "exact_match")
    heads = [MEASURES[name].title for name in measures]
    judged = {row["method"]: row for row in _judged_files(run)}
    lines = [
        f"| file | ships | size | {' | '.join(heads)} |",
        "|---|---|---:|" + "---:|" * len(heads),
    ]
    for method in sorted(methods, key=lambda method: metrics[prefix + method]):
        cells = [metrics.get(f"quantize/{name}/{method}") for name in measures]
        texts = [
            "" if cell is None else MEASURES[name].number(cell)
            for name, cell in zip(measures, cells, strict=True)
        ]
        size, ships = format_bytes(metrics[prefix + method]), judged.get(method, {}).get("ships")
        told = "" if ships is None else "yes" if ships else "no"
        lines.append(f"| {method} | {told} | {size} | {' | '.join(texts)} |")
    return ["\n".join(lines), *_withheld(list(judged.values()))]


def _judged_files(run: "MlflowRun") -> "list[dict[str, Any]]":
    """Return what a run says of its files, `ships` and `reason` of each among it; none of old ones."""
    return cast("list[dict[str, Any]]", download_json(run.info.run_id, GGUF_FILES) or [])


def _withheld(judged: "Sequence[Mapping[str, Any]]") -> list[str]:
    """Return why files do not ship, and what is served if none does."""
    lines = [
        f"- {one['method']} does not ship: {markdown(one['reason'])}"
        for one in judged
        if one.get("ships") is False
    ]
    if lines and not any(one.get("ships") for one in judged):
        lines.append("- No file ships: if this version serves, it does with its adapter alone.")
    return ["\n".join(lines)] if lines else []


def verdicts_of(run_id: str) -> list[dict[str, Any]]:
    """Return the table of a run's verdicts (see `expectations.verdicts.table_row`); none before any."""
    table = download_json(run_id, VERDICTS) or {"columns": [], "data": []}
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


def warnings(run: "MlflowRun") -> list[str]:
    """Return what gates warned of, the first of it, as a list in Markdown with a head."""
    found = [one for one in verdicts_of(run.info.run_id) if one["result"] == WARNED]
    if not found:
        return []
    lines = [
        f"- {one['gate']}: expected {markdown(one['expectation'])}; seen: "
        f"{markdown(visible(one['seen'], _LONGEST_SEEN))}"
        + (f" ({code(one['setting'])})" if one["setting"] else "")
        for one in found[:_WARNINGS]
    ]
    more = f", the first {_WARNINGS} of {len(found)}" if found[_WARNINGS:] else ""
    return [f"Warnings, which block nothing{more}:", "\n".join(lines)]


def _links(run: "MlflowRun", earlier: "MlflowRun | None", links: Mapping[str, str]) -> list[str]:
    lines = [f"- [{markdown(text)}]({address})" for text, address in links.items() if address]
    if earlier:
        lines.append(f"- `retune compare {earlier.info.run_id} {run.info.run_id}`")
    tables = json.loads(run.data.tags.get(TABLES_TAG, "[]"))
    names = [entry["path"] for entry in tables]
    if names:
        lines.append(f"- Artifacts to begin with: {', '.join(map(code, names))}")
    return ["\n".join(lines)] if lines else []
