"""Requests in OpenAI's format, out of files of JSON lines: foreign text, of which nothing is trusted."""

import glob
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from flows.harvesting.records import (
    Field,
    Record,
    Unread,
    consents,
    moment,
    opinion,
    person,
)
from flows.logged_chats import parsed
from retune.harvesting.ledger import HarvestError
from retune.harvesting.settings import Harvest

_CUT = ("length", "content_filter", "max_tokens", "error")  # how an answer ends that is none
_TIMES = ("created_at", "created")
_SKIPPED = 1 << 20  # bytes that are skipped at a time of a line that is too long


def log_files(source: str, into: Path) -> list[Path]:
    """Return the files that a path, a folder or a pattern names, but for those in the folder `into`.

    Raises HarvestError if there are none, and for what is packed.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        found = [one for suffix in ("jsonl", "ndjson") for one in path.rglob(f"*.{suffix}")]
    elif path.exists():
        found = [path]
    else:
        found = [Path(one) for one in glob.glob(str(path), recursive=True)]  # noqa: PTH207  (absolute too)
    files = [one for one in sorted(found) if one.is_file() and not _is_inside(one, into)]
    if not files:
        raise HarvestError(
            f"no file is at {source!r:.200} (looked in {Path.cwd()}); give a file of JSON lines, a "
            f"folder or a pattern of them, or mlflow:EXPERIMENT"
        )
    for file in files:
        if file.suffix.lower() in (".gz", ".zst", ".bz2", ".xz", ".zip"):
            raise HarvestError(f"{file} is packed; unpack it first")
    return files


def _is_inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def log_records(
    files: Iterable[Path], settings: Harvest, now: datetime
) -> Iterator[Record | Unread]:
    """Yield what each line of the files is, in order."""
    from tasks.fetch.values import Unreadable, parse_json

    for file in files:
        for number, line in _lines(file, settings.max_line_bytes):
            place = f"{file.name} line {number:,}"
            if line is None:
                limit = f"{settings.max_line_bytes:,} bytes (max_line_bytes)"
                yield Unread(place, f"the line has more than {limit}")
                continue
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if text.strip():
                    yield _record(parse_json(text, "the line"), place, settings, now)
            except UnicodeDecodeError:
                yield Unread(place, "the line is not UTF-8")
            except Unreadable as problem:
                yield Unread(place, str(problem))
            except RecursionError:
                yield Unread(place, "the line is nested too deeply")


def _lines(file: Path, limit: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield the lines of a file with their numbers from 1; None for one that is too long."""
    number = 0
    with file.open("rb") as opened:
        while piece := opened.readline(limit + 1):
            number += 1
            is_whole = len(piece) <= limit or piece.endswith(b"\n")
            while len(piece) > limit and not piece.endswith(b"\n"):
                piece = opened.readline(max(_SKIPPED, limit + 1)) or b"\n"
            yield number, piece if is_whole else None


def _record(row: Any, place: str, settings: Harvest, now: datetime) -> Record:
    """Return the record of a row. Raises Unreadable."""
    from tasks.fetch.values import Unreadable, kind_of

    if not isinstance(row, dict):
        raise Unreadable(f"the line is {kind_of(row)}, not an object")
    request, response = _request(row), _response(row)
    field = _fields(row, request)
    names = (*settings.feedback_fields, *settings.edit_fields)
    said = opinion(((name, field(name)) for name in names), settings)
    inner = response if isinstance(response, dict) else {}
    times = (field(settings.time_field), *(field(name) for name in _TIMES), inner.get("created"))
    known = (moment(time, now) for time in times if time is not None)
    return Record(
        place=place,
        name="",
        request=request,
        response=response,
        time=next((time for time in known if time is not None), None),
        user=person(field(settings.user_field)),
        consents=consents(field, settings),
        verdict=said.verdict,
        unclear=said.unclear,
        edit=said.edit,
        failed=_failed(response),
    )


def _request(row: dict[str, Any]) -> Any:
    request = parsed(row.get("request"))
    if isinstance(request, dict) and isinstance(request.get("body"), dict):
        return request["body"]
    return row if request is None else request


def _response(row: dict[str, Any]) -> Any:
    response = parsed(row.get("response"))
    if response is None:
        return (
            {"choices": row["choices"], "created": row.get("created")} if "choices" in row else None
        )
    if isinstance(response, dict) and "body" in response:
        return {**_object(response["body"]), "status_code": response.get("status_code")}
    return response


def _failed(response: Any) -> bool:
    """Tell whether a response is an error, or was cut off."""
    if not isinstance(response, dict):
        return False
    status = response.get("status_code")
    if response.get("error") or (isinstance(status, int) and status >= 400):
        return True
    choices = response.get("choices")
    return isinstance(choices, list) and any(
        _object(choice).get("finish_reason") in _CUT for choice in choices
    )


def _fields(row: dict[str, Any], request: Any) -> Field:
    """Return how fields are looked up: in the row, its metadata, the request and its metadata."""
    inner = _object(request)
    places = (row, _object(row.get("metadata")), inner, _object(inner.get("metadata")))

    def field(name: str) -> Any:
        return next((place[name] for place in places if place.get(name) is not None), None)

    return field


def _object(value: Any) -> dict[str, Any]:
    value = parsed(value)
    return value if isinstance(value, dict) else {}
