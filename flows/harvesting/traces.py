"""Requests out of MLflow's traces, with the assessments that people gave them."""

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from flows.harvesting.records import Record, Unread, consents, moment, opinion, person
from flows.logged_chats import parsed
from retune.harvesting.ledger import HarvestError
from retune.harvesting.settings import Harvest

if TYPE_CHECKING:
    from mlflow.entities import Trace

PREFIX = "mlflow:"
PAGE = 100  # traces that are asked for at a time
_HUMAN = "HUMAN"  # the source of an assessment by a person; others are by code or a model


class Experiment(NamedTuple):
    """An experiment of an MLflow store."""

    id: str
    store: str


def experiment(name: str) -> Experiment:
    """Return an experiment by its name, in the store that is set. Raises HarvestError."""
    from flows import local
    from retune.tracking import client, exists, tracking_uri

    local.configure()
    found = client().get_experiment_by_name(name) if name and exists() else None
    if found is None or found.lifecycle_stage != "active":
        raise HarvestError(
            f"MLflow ({tracking_uri()}) has no experiment {name!r:.200}; name the one that your service "
            f"writes its traces to, or set MLFLOW_TRACKING_URI"
        )
    return Experiment(found.experiment_id, tracking_uri())


def trace_records(
    of: Experiment, since: int, settings: Harvest, now: datetime
) -> Iterator[tuple[int, Record | Unread]]:
    """Yield the time of each trace since a time (milliseconds since 1970), and what it is, in order."""
    from retune.tracking import client

    token = None
    while True:
        page = client().search_traces(
            locations=[of.id],
            filter_string=f"timestamp_ms >= {since}",
            order_by=["timestamp_ms ASC"],
            max_results=PAGE,
            page_token=token,
        )
        for trace in page:
            yield trace.info.request_time, _read(trace, settings, now)
        token = page.token
        if not token:
            return


def _read(trace: "Trace", settings: Harvest, now: datetime) -> Record | Unread:
    try:
        return _record(trace, settings, now)
    except RecursionError:
        return Unread(f"trace {trace.info.trace_id}", "the trace is nested too deeply")


def _record(trace: "Trace", settings: Harvest, now: datetime) -> Record:
    info = trace.info

    def field(name: str) -> Any:
        return info.tags.get(name, info.trace_metadata.get(name))

    # MLflow lists them by the time of their making; one that was overridden is not valid.
    by_people = [
        (one.name, one.value)
        for one in sorted(info.assessments, key=lambda one: one.last_update_time_ms or 0)
        if one.valid is not False and one.source.source_type == _HUMAN and hasattr(one, "value")
    ]
    wanted = (*settings.feedback_fields, *settings.edit_fields)
    tags = [(name, field(name)) for name in wanted]
    said = opinion([*tags, *(pair for pair in by_people if pair[0] in wanted)], settings)
    return Record(
        place=f"trace {info.trace_id}",
        name=info.trace_id,
        request=parsed(trace.data.request),
        response=parsed(trace.data.response),
        time=moment(info.request_time, now),
        user=person(field(settings.user_field) or field("mlflow.trace.user")),
        consents=consents(field, settings),
        verdict=said.verdict,
        unclear=said.unclear,
        edit=said.edit,
        failed=info.state in ("ERROR", "IN_PROGRESS"),
    )
