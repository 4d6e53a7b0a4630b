"""Every finished candidate as a version of the registered model, with all that made it."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from retune.bases import selected
from retune.escaping import markdown
from retune.files import digest
from retune.measures import format_bytes, measure, side_by_side, title
from retune.outputs import Output
from retune.recipe import Recipe
from retune.records import Adapter, AnchorFile, Gguf, Merged, Pins, Rows, Scores, Selection
from retune.registry.versions import (
    ANCHOR,
    CHALLENGER,
    RegisteredVersion,
    registered,
    version,
    versions,
)
from retune.store.place import store
from retune.tracking import DECISION, DIGEST_LIMIT, OUTCOME, Run, client
from retune.version import this_version

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel

WEIGHTS = "retune.weights"  # tag of a version: what tells its weights from others'
FILE = "retune.file."  # tag of a version, by method: a GGUF file that may ship
READABLE = ("s3://", "gs://")  # of the stores that retune writes to, those that MLflow reads
SOURCE = "retune.source"  # tag of a version that was published: the Hub's commit
MODEL_TYPE = "candidate"
REGISTERED_AS = "retune.registered"  # tag of a run: the version that it made, or came to again
PLACE = "▶ "  # how the paragraph begins that says whether a version serves
DECIDED = "**"  # how a version's description begins once somebody has decided about it
REGISTERED = "mlflow.modelVersions"  # by which MLflow's pages lead from a model to its version
PLAIN = re.compile(r"\w+/(base|tuned|champion)|\w+")  # a measure of the whole


class Candidate(NamedTuple):
    """What a run has made: `rows` are those it learnt, `files` the GGUF files that may ship."""

    rows: Rows
    adapter: Adapter
    selection: Selection | None
    scores: Scores
    merged: Merged | None
    files: tuple[Gguf, ...]


def register_candidate(
    run: Run, recipe: Recipe, pins: Pins, candidate: Candidate
) -> RegisteredVersion:
    """Return the version of the candidate, which the alias `challenger` then names unless it is barred.

    The same weights keep their version, so that a run which reuses its outputs adds none; what was
    made of them since (other files, another evaluation) is what its tags then say.
    """
    name = recipe.name
    _require_model(name)
    tags = _tags(recipe, pins, candidate)
    known = next(
        (one for one in versions(name) if one.tags.get(WEIGHTS) == tags[WEIGHTS]),
        None,
    )
    logged = _logged_model(run, recipe, candidate, tags[WEIGHTS])
    description = _description(recipe, candidate)
    if known:
        number = str(known.number)
        for key in known.tags.keys() - tags.keys():
            if key.startswith(FILE):
                client().delete_model_version_tag(name, number, key)
        for key, value in tags.items():
            if known.tags.get(key) != value:
                client().set_model_version_tag(name, number, key, value)
        client().update_model_version(name, number, _placed(name, number, description))
    else:
        # A server takes no source of another host; what the run logged of the training is the model's.
        made = client().create_model_version(
            name,
            _source(run, candidate.adapter),
            run.id,
            tags=tags,
            description=description,
        )
        number = made.version
    of_model = [{"name": name, "version": number}]
    client().set_logged_model_tags(logged.model_id, {REGISTERED: json.dumps(of_model)})
    if known is None or known.barred is None:
        client().set_registered_model_alias(name, CHALLENGER, number)
    registered_as = version(name, int(number))
    run.set_tags({REGISTERED_AS: str(registered_as)})
    return registered_as


def published_as(version: RegisteredVersion, source: str, tags: Mapping[str, str]) -> None:
    """Note where a version was published: at the URL `source`; `tags` are further facts."""
    for key, value in {**tags, SOURCE: source}.items():
        client().set_model_version_tag(version.name, str(version.number), key, value)


def decided_as(version: RegisteredVersion, run_id: str, name: str, reason: str) -> None:
    """Note with a version, and with the run that asked about it, what became of it: `name` is that of
    Prefect's state."""
    text, number = f"{name}: {reason}"[:1000], str(version.number)
    # The version first: its run may have been deleted.
    client().set_model_version_tag(version.name, number, DECISION, text)
    head = f"{DECIDED}{markdown(text.partition(chr(10))[0])}**"
    _describe(version.name, number, head, DECIDED)
    for key, value in ((DECISION, text), (OUTCOME, name)):
        client().set_tag(run_id, key, value)


def placed_as(version: RegisteredVersion, sentence: str) -> None:
    """Let the description of a version begin with whether it serves, in a `sentence` of Markdown."""
    _describe(version.name, str(version.number), f"{PLACE}{sentence}", PLACE)


def _describe(name: str, number: str, head: str, mark: str) -> None:
    """Let a version's description have the paragraph `head` in the place of that which begins with
    `mark`: whether it serves comes first, then what was decided."""
    described = client().get_model_version(name, number).description or ""
    parts = [part for part in described.split("\n\n") if not part.startswith(mark)]
    heads = [head, *(part for part in parts if part.startswith((PLACE, DECIDED)))]
    heads.sort(key=lambda part: not part.startswith(PLACE))
    rest = [part for part in parts if not part.startswith((PLACE, DECIDED))]
    client().update_model_version(name, number, "\n\n".join([*heads, *rest]))


def _placed(name: str, number: str, description: str) -> str:
    """Return a new description of a version with what the old one says of whether it serves."""
    old = client().get_model_version(name, number).description or ""
    places = [part for part in old.split("\n\n") if part.startswith(PLACE)]
    return "\n\n".join([*places, description])


def keep_anchor(version: RegisteredVersion, file: AnchorFile) -> None:
    """Note with a version which rows its successors are judged by."""
    client().set_model_version_tag(
        version.name, str(version.number), ANCHOR, file.model_dump_json()
    )


def _require_model(name: str) -> None:
    from mlflow.exceptions import MlflowException

    if registered(name):
        return
    try:
        client().create_registered_model(name)
    except MlflowException as error:  # another run was faster
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _tags(recipe: Recipe, pins: Pins, candidate: Candidate) -> dict[str, str]:
    """Return what made the candidate, and how good it is."""
    original = selected(candidate.selection, recipe, pins)
    code = this_version()
    weights = [
        candidate.adapter.entry("adapter").sha256,
        pins.model,
        original and original.model_dump(),
    ]
    tags = {
        WEIGHTS: digest(weights),
        "retune.base": recipe.model.base,
        "retune.load_in_4bit": json.dumps(recipe.model.load_in_4bit),
        "retune.dataset": pins.dataset,
        "retune.dataset.digest": candidate.rows.step.fingerprint[:DIGEST_LIMIT],
        "retune.version": code.number,
        **_fingerprints(candidate),
        **{f"retune.pin.{name}": pin for name, pin in pins.named().items()},
        **{f"{FILE}{file.method}": _file(file) for file in candidate.files},
        **{
            f"retune.measure.{name}": measure(name).number(value)
            for name, value in candidate.scores.metrics.items()
            if PLAIN.fullmatch(name)  # of the parts of a dataset there may be hundreds
        },
    }
    if original:
        tags["retune.original"] = original.model_dump_json()
    if store():
        tags["retune.uri"] = candidate.adapter.uri("adapter")
        tags["retune.sha256"] = candidate.adapter.entry("adapter").sha256
    if code.commit:
        tags["retune.git.commit"] = code.commit
        tags["retune.git.dirty"] = str(code.dirty).lower()
    return tags


def _source(run: Run, adapter: Adapter) -> str:
    """Return where MLflow's own programs find the weights: in a store that they can read, if they are
    there, else below what the run logged of the training."""
    uri = adapter.uri("adapter")
    return uri if uri.startswith(READABLE) else f"runs:/{run.id}/{adapter.step.stage}"


def _fingerprints(candidate: Candidate) -> dict[str, str]:
    """Return the fingerprint of each output by its tag; `retune.adapter` is that of train."""
    outputs: dict[str, Output | None] = {
        "adapter": candidate.adapter,
        "select": candidate.selection,
        "evaluate": candidate.scores,
        "merge": candidate.merged,
    }
    return {f"retune.{name}": out.step.fingerprint for name, out in outputs.items() if out}


def _file(file: Gguf) -> str:
    """Return where a GGUF file lies below the work folder, and what tells it from others."""
    place = {"folder": file.step.name, "file": file.file, "bytes": file.bytes}
    if store():
        place["uri"] = file.uri(file.file)
    return json.dumps(place | {"sha256": file.sha256})


def _logged_model(run: Run, recipe: Recipe, candidate: Candidate, weights: str) -> "LoggedModel":
    """Return MLflow's model of the candidate, an output of the run, with its metrics and dataset."""
    from mlflow.entities import Metric

    label = re.sub(r"[^\w-]", "-", recipe.name)  # MLflow refuses . / : and others
    known = client().search_logged_models(
        [run.experiment_id], f"tags.`{WEIGHTS}` = '{weights}'", max_results=1
    )
    if known:
        model = known[0]
    else:
        made = client().create_logged_model(
            run.experiment_id,
            label,
            source_run_id=run.id,
            tags={WEIGHTS: weights, "retune.recipe": recipe.name},
            params=_params(candidate),
            model_type=MODEL_TYPE,
        )
        model = client().finalize_logged_model(made.model_id, "READY")
    rows, scores = candidate.rows, candidate.scores
    then = round(scores.ended.timestamp() * 1000)
    metrics = [
        Metric(
            f"evaluate/{name}",
            value,
            then,
            0,
            model_id=model.model_id,
            dataset_name=recipe.dataset.title,
            dataset_digest=rows.step.fingerprint[:DIGEST_LIMIT],
            run_id=run.id,
        )
        for name, value in scores.metrics.items()
    ]
    run.log_of_model(metrics)
    run.log_output_model(model.model_id)
    return model


def _params(candidate: Candidate) -> dict[str, str]:
    return {
        f"{output.step.stage}.{name}": value
        for output in (candidate.adapter, candidate.scores)
        for name, value in output.params.items()
    } | _fingerprints(candidate)


def _description(recipe: Recipe, candidate: Candidate) -> str:
    """Return what a reader of the registry is told, in Markdown; names and measures are data."""
    return "\n".join(_lines(recipe, candidate))


def _lines(recipe: Recipe, candidate: Candidate) -> Iterator[str]:
    accepted = candidate.rows.metrics.get("accepted")
    rows = f", {accepted:,.0f} rows accepted" if accepted is not None else ""
    yield (
        f"{markdown(recipe.model.base)} on {markdown(recipe.dataset.title)}{rows}; "
        f"retune {markdown(str(this_version()))}"
    )
    yield from _scores(candidate.scores.metrics)
    if candidate.files:
        yield from ("", "| file | size | SHA-256 |", "|---|---:|---|")
        for file in candidate.files:
            yield f"| {markdown(file.file)} | {format_bytes(file.bytes)} | {file.sha256[:12]}… |"


def _scores(metrics: Mapping[str, float]) -> Iterator[str]:
    # No table: where MLflow shows a description in one line, the cells would run into one another.
    paired = side_by_side(metrics)
    if paired:
        yield from ("", "On its held-out rows:", "")
    for name, (base, tuned) in paired.items():
        entry = measure(name)
        yield f"- {markdown(title(name))}: {entry.text(tuned)} (base: {entry.number(base)})"
