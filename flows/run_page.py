"""One page per run on Prefect's pages, the artifact `summary`, however the run ended: the verdict first,
what changed, five numbers, a picture, what it cost, and where to look further.

The same three numbers stand in the message of the run's state, which is what notifications send.
"""

import base64
import logging
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from flows.estimate_error import EXPECTED, TAKEN
from flows.in_service import key_of, sentence
from flows.replaced import replace
from flows.run_names import shown_name
from flows.run_times import Times, of_this_run
from retune import registry
from retune.escaping import code, markdown, terminal
from retune.home import home
from retune.measures import format_duration, measure
from retune.notes import (
    CHANGED,
    before,
    compared,
    compared_with,
    files_table,
    has_evidence,
    next_step,
    numbers_table,
    settings_lists,
    short_name,
    since,
    title_of,
    warnings,
    without_gpu,
)
from retune.pages import mlflow_pages
from retune.retention import STEP
from retune.saved_view import NAME, evidence_link, link, run_link
from retune.temporary import temporary_folder
from retune.tracking import Run, artifacts, client
from tasks.stage import show as show_in_prefect

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun

KEY = "summary"
WAITS = ("Suspended", "AwaitingApproval")
MARKS = {
    "Promoted": "✓",
    **dict.fromkeys(("Rejected", "Failed", "Barred", "Crashed"), "✗"),
    "Cancelled": "⊘",
    **dict.fromkeys(WAITS, "…"),
    "Undecided": "?",
}
OTHER_MARK = "="
# The first three that a run has are told where there is room for no more.
TOLD = (
    *("evaluate/loss/tuned", "evaluate/exact_match/tuned", "train/cost", "train/gpu_hours"),
    *("validate/accepted", "validate/quarantined_share", "fetch/rows", "train/final_loss"),
)
MOST_TOLD = 3
TIME = "train/seconds"
SPENT = ("train/gpu_hours", "train/cost", "train/energy_kwh")
PICTURES = ("quantize/size_and_quality.png", "format/lengths.png")  # the first that there is
LARGEST_PICTURE = 400_000  # bytes; an artifact lies in Prefect's database

AFTER_WAIT = (
    "After the wait Prefect's graph shows each stage once more: what is Cached there was used as it "
    "was, and not made or trained again."
)
WORDS = (
    "What the stages do: pin_inputs notes the exact versions of what goes in; conform compares "
    "tokenizer and chat template with what will serve; rehearse tries the whole line on a tiny model; "
    "fetch reads the dataset; screen looks at each row; validate scores and accepts rows; format writes "
    "them as the model reads them; parity compares that with what will serve; train, evaluate, merge, "
    "convert and quantize make and measure the model; champion asks the version that serves the "
    "same, and anchor measures both on the rows that it was judged by; publish uploads what serves."
)
# The run of this flow run in MLflow, once there is one.
CURRENT: ContextVar[Run | None] = ContextVar("CURRENT", default=None)


def show(ending: str, reason: str, grids: str = "") -> None:
    """Make the page of this flow run; `grids` are further tables in Markdown.

    Never raises: the page of a run must not take the place of what the run says.
    """
    try:
        text = page(ending, reason, CURRENT.get(), grids)
        described = f"{shown_name()}: {ending}"
        show_in_prefect(replace, key=KEY, markdown=text, description=described)
    except Exception:
        logging.getLogger(__name__).warning("the run's page was not made", exc_info=True)


def told(run: Run | None) -> str:
    """Return three numbers of a run in a line, "" if it has none (or cannot be asked)."""
    if run is None:
        return ""
    try:
        metrics = without_gpu(client().get_run(run.id))
    except Exception:
        logging.getLogger(__name__).warning("MLflow was not asked for numbers", exc_info=True)
        return ""
    return three_numbers(metrics)


def three_numbers(metrics: Mapping[str, float]) -> str:
    """Return the first three numbers that tell most: `loss 0.80 nats per token (base 6.89); …`."""
    parts = []
    for name in [name for name in TOLD if name in metrics][:MOST_TOLD]:
        spec = measure(name.partition("/")[2])
        base = metrics.get(name.replace("/tuned", "/base")) if "/tuned" in name else None
        beside = f" (base {spec.number(base)})" if base is not None else ""
        parts.append(f"{title_of(name)} {spec.text(metrics[name])}{beside}")
    return "; ".join(parts)


def page(ending: str, reason: str, run: Run | None, grids: str = "") -> str:
    """Return the page in Markdown. `reason` may quote data: its lines are shown as text."""
    first, *further = terminal(reason).strip().split("\n")
    parts = [f"# {MARKS.get(ending, OTHER_MARK)} {ending}", f"**{_with_code(first)}**"]
    parts += ["\n".join(_line(line) for line in further if line.strip())] if further else []
    if run is None:
        return "\n\n".join([*parts, grids or "It ended before anything was made."])
    made = client().get_run(run.id)
    recipe = made.data.params.get("name", "")
    earlier = before(run.id, run.experiment_id, recipe)
    parts += [*_serving(recipe), *next_step(made), *compared(made), *_evidence(made)]
    if note := made.data.params.get("note", ""):
        parts.append(f"Note: {markdown(note)}")
    parts += [*_changed(made, earlier), *numbers_table(made, earlier), *_cost(made, ending)]
    parts += [*_picture(made), *files_table(made), *warnings(made), *_links(made)]
    return "\n\n".join([*parts, *([grids] if grids else []), WORDS])


def _with_code(line: str) -> str:
    """Return a line with what stands between backticks as code."""
    parts = line.split("`")
    if len(parts) % 2 == 0:  # one of them is a text's own
        return markdown(line)
    return "".join(
        code(part) if number % 2 else markdown(part) for number, part in enumerate(parts)
    )


def _evidence(run: "MlflowRun") -> list[str]:
    """Return the address of all of the evidence on the candidate, if MLflow's pages show it."""
    address = mlflow_pages()
    if not address or not has_evidence(run.info.run_id):
        return []
    page = evidence_link(address, run.info.experiment_id, run.info.run_id)
    return [f"[All of the evidence]({page})"]


def _line(line: str) -> str:
    """Return a line of a message as an entry of a list; verdicts begin with a dash already."""
    return f"- {markdown(line.strip().removeprefix('- '))}"


def _serving(recipe: str) -> list[str]:
    """Return which version of the recipe serves now, with the page of it."""
    serving = registry.serving(recipe)
    if serving is None:
        return ["No version serves yet."]
    page = f"[in service](/v2/artifacts/key/{key_of(recipe)})"
    return [f"{sentence(serving, registry.history(recipe))} More: {page}."]


def _changed(run: "MlflowRun", earlier: "MlflowRun | None") -> list[str]:
    if not earlier:
        return ["The first run of this recipe."]
    words, champion = run.data.tags.get(CHANGED, "") or "nothing", compared_with(run)
    whose, other = since(run, earlier)
    return [
        f"Changed since the {whose}, {markdown(short_name(other))}: {markdown(words)}",
        *settings_lists(run, earlier, champion),
    ]


def _cost(run: "MlflowRun", ending: str) -> list[str]:
    """Return what the run itself spent; what it reused cost nothing anew."""
    metrics = without_gpu(run)
    spent = [
        f"{title_of(name)} {measure(name.partition('/')[2]).text(metrics[name])}"
        for name in SPENT
        if name in metrics
    ]
    stages = [
        v for key, v in run.data.tags.items() if key.count(".") == 1 and v in ("ran", "reused")
    ]
    took = f"trained for {format_duration(metrics[TIME])}" if TIME in metrics else "nothing trained"
    words = "; ".join(spent or [took])
    ran, reused = stages.count("ran"), stages.count("reused")
    made = f"{ran} stages ran, {_reused(reused)} (single files aside)"
    taken = of_this_run()
    if taken and ending in WAITS:  # the wait has only begun
        taken = taken._replace(waited=0)
    lines = [f"Cost: {words}; {made}{_time(metrics, taken)}."]
    if taken and taken.waited:
        lines += [AFTER_WAIT]
    return lines


def _reused(number: int) -> str:
    return f"{number} {'was' if number == 1 else 'were'} reused"


def _time(metrics: Mapping[str, float], taken: Times | None) -> str:
    """Return how long a run worked and waited, and what it took until its decision, beside what was
    expected; "" before it."""
    words = f"; {taken}" if taken else ""
    if TAKEN not in metrics:
        return words
    beside = f", {format_duration(metrics[EXPECTED])} were expected" if EXPECTED in metrics else ""
    return f"{words}; up to the decision {format_duration(metrics[TAKEN])} of work{beside}"


def _picture(run: "MlflowRun") -> list[str]:
    """Return a picture of the run as part of the text: Prefect's page loads nothing from elsewhere."""
    folders = {path.partition("/")[0] for path in PICTURES}
    there = {
        file.path: file.file_size or 0
        for folder in folders
        for file in artifacts(run.info.run_id, folder)
    }
    for path in PICTURES:
        if 0 < there.get(path, 0) <= LARGEST_PICTURE:
            with temporary_folder() as folder:
                file = Path(client().download_artifacts(run.info.run_id, path, str(folder)))
                data = base64.b64encode(file.read_bytes()).decode()
            return [f"![{path.rpartition('/')[2]}](data:image/png;base64,{data})"]
    return []


def _folders(run: "MlflowRun") -> list[str]:
    """Return the folders of what the run made or reused, by stage, below the work folder."""
    steps = {
        key.removeprefix(STEP): of for key, of in run.data.tags.items() if key.startswith(STEP)
    }
    return sorted(f"{stage}/{fingerprint}" for stage, fingerprint in steps.items())


def _links(run: "MlflowRun") -> list[str]:
    lines = []
    if address := mlflow_pages():
        of_run = run_link(address, run.info.experiment_id, run.info.run_id)
        lines += [f"- [This run in MLflow]({of_run})"]
        lines += [f"- [{NAME}]({link(address, run.info.experiment_id)})"]
    else:
        lines += [f"- In MLflow: run {code(run.info.run_id)}"]
    made = ", ".join(code(name) for name in _folders(run))
    lines += [f"- Its files: below {code(home() / 'work')}{f': {made}' if made else ''}"]
    return ["\n".join(lines)]
