"""The view "Which run is better" of an experiment in MLflow: columns, order and seven charts.

MLflow keeps a view that somebody shares as a tag of the experiment, in the form of its pages' own
state (`useSharedExperimentViewState` there). It is the only door: there is no call for it.
"""

import base64
import json
import time
import zlib
from typing import Any

from retune.tracking import client, exists

NAME, KEY = "Which run is better", "retune-which-run-is-better"
TAG = f"mlflow.sharedViewState.{KEY}"
LOSS = "evaluate/loss/tuned"
EVIDENCE = "promote/evidence.html"  # artifact of a run whose candidate was decided about
# A run that made a candidate, whatever became of it; the runs of single files have no such tag.
WORKFLOW = "workflowType=machine_learning"  # else MLflow's pages are those of GenAI's traces
FILTER = "tags.`retune.registered` LIKE '%'"
STANDING = "retune.place"  # tag of a run: serves, previous, served before or rolled back
# Columns with their widths in pixels: the first three are seen without scrolling on a small screen.
COLUMNS = {
    "tags.`retune.outcome`": 140,  # Promoted, Undecided, Rejected, …
    f"tags.`{STANDING}`": 100,
    f"metrics.`{LOSS}`": 150,
    "metrics.`evaluate/exact_match/tuned`": 150,
    "tags.`retune.changed`": 220,
    "metrics.`validate/accepted`": 150,
    "metrics.`train/seconds`": 130,
    "tags.`retune.decision`": 300,  # with the reason
}


def link(address: str, experiment_id: str) -> str:
    """Return where the view is on MLflow's pages at `address`; "" for links from these pages."""
    return f"{_pages(address)}experiments/{experiment_id}/runs?{WORKFLOW}&viewStateShareKey={KEY}"


def run_link(address: str, experiment_id: str, run_id: str) -> str:
    """Return where a run is on MLflow's pages at `address`; "" for links from these pages."""
    return f"{_run_page(address, experiment_id, run_id)}?{WORKFLOW}"


def evidence_link(address: str, experiment_id: str, run_id: str) -> str:
    """Return where the evidence on a run's candidate is on MLflow's pages at `address`."""
    return f"{_run_page(address, experiment_id, run_id)}/artifacts/{EVIDENCE}?{WORKFLOW}"


def _run_page(address: str, experiment_id: str, run_id: str) -> str:
    return f"{_pages(address)}experiments/{experiment_id}/runs/{run_id}"


def _pages(address: str) -> str:
    return f"{address}/#/" if address else "#/"  # they may be below a path


def describe_experiment(experiment_id: str, recipe: str) -> None:
    """Give an experiment its view, a description and its kind, unless somebody gave it others."""
    tags = {
        TAG: _shared(),
        # Else its pages open with what is for applications of language models.
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.note.content": _note(experiment_id, recipe),
    }
    existing = client().get_experiment(experiment_id).tags
    for name, value in tags.items():
        if name not in existing or (name == TAG and _is_outdated(existing[name])):
            client().set_experiment_tag(experiment_id, name, value)


def _is_outdated(text: str) -> bool:
    """Tell whether a view is one that an earlier version made, and nobody has saved anew since."""
    try:
        view = json.loads(text)
        is_ours = view["createdAt"] == view["updatedAt"] and view["name"] == NAME
        kind, _, packed = view["state"].partition(";")
        state = json.loads(zlib.decompress(base64.b64decode(packed)))
    except (ValueError, KeyError, TypeError, zlib.error):
        return False
    return is_ours and kind == "deflate" and state != _state()


def _note(experiment_id: str, recipe: str) -> str:
    return (
        f"Runs of the recipe **{recipe}**: each takes the dataset through its gates, trains, and "
        f"compares the model with the one that serves, or with its base.\n\n"
        f"- [{NAME}]({link('', experiment_id)}): the lowest held-out loss first, with charts\n"
        f"- `retune compare {recipe}@latest RUN` tells what differs between two runs\n"
        f"- the runs named after a quantization method are the files of the run above them"
    )


def _shared() -> str:
    now = round(time.time() * 1000)
    state = base64.b64encode(zlib.compress(json.dumps(_state()).encode())).decode()
    view = {"name": NAME, "createdAt": now, "updatedAt": now, "state": f"deflate;{state}"}
    return json.dumps(view)


def _state() -> dict[str, Any]:
    """Return the state of MLflow's page of runs, as its script holds it."""
    sections = {
        "better": "Which is better",
        "training": "How the training went",
        "files": "What it gives and takes",
    }
    charts = [
        _bar("loss", "better", LOSS),
        _bar("match", "better", "evaluate/exact_match/tuned"),
        _line("train-loss", "training", "train/loss"),
        _line("held-out-loss", "training", "train/held_out_loss"),
        _line("grad-norm", "training", "train/grad_norm"),
        _bar("divergence", "files", "quantize/kl_divergence/q4_k_m"),
        _bar("seconds", "files", "train/seconds"),
    ]
    return {
        "searchFilter": FILTER,
        "orderByKey": f"metrics.`{LOSS}`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(COLUMNS),
        "columnOrder": list(COLUMNS),
        "columnWidths": COLUMNS,
        "runsHiddenMode": "FIRST_10_RUNS",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "globalLineChartConfig": {
            "xAxisKey": "step",
            "lineSmoothness": 0,
            "selectedXAxisMetricKey": "",
        },
        "compareRunSections": [_section(*section) for section in sections.items()],
        "compareRunCharts": charts,
    }


def _section(uuid: str, name: str) -> dict[str, Any]:
    return {"uuid": uuid, "name": name, "display": True, "isReordered": True}


def _bar(uuid: str, section: str, metric: str) -> dict[str, Any]:
    return {
        "type": "BAR",
        "uuid": uuid,
        "metricSectionId": section,
        "metricKey": metric,
        "dataAccessKey": metric,
        "runsCountToCompare": 10,
        "deleted": False,
        "isGenerated": False,
    }


def _line(uuid: str, section: str, metric: str) -> dict[str, Any]:
    axis = {
        "scaleType": "linear",
        "xAxisKey": "step",
        "xAxisScaleType": "linear",
        "lineSmoothness": 0,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
        "range": {},
        "selectedXAxisMetricKey": "",
        "ignoreOutliers": False,
    }
    chart = _bar(uuid, section, metric) | {"type": "LINE", "selectedMetricKeys": [metric]}
    return chart | axis


def experiments(limit: int) -> list[tuple[str, str]]:
    """Return name and id of the experiments with the view that were last changed, at most `limit`."""
    if not exists():
        return []
    found = client().search_experiments(
        filter_string=f"tags.`{TAG}` LIKE '%'",
        order_by=["last_update_time DESC"],
        max_results=limit,
    )
    return [(experiment.name, experiment.experiment_id) for experiment in found]
