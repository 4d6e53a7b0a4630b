"""How the runs of this home ended, a line each: also of those that MLflow never heard of, because they
were skipped or refused. `retune status` reads it, without any server."""

import json
from datetime import UTC, datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from retune.escaping import visible
from retune.home import home, make_home

FILE = "ends.jsonl"
LARGEST = 2_000_000  # bytes; then the older half of the lines goes
LONGEST = 300  # characters of a reason


class End(BaseModel):
    """How a run ended: the recipe, the name of Prefect's state and its reason."""

    model_config = ConfigDict(frozen=True)

    at: AwareDatetime
    recipe: str
    ending: str
    reason: str = ""
    run_id: str = ""


def note_end(recipe: str, ending: str, reason: str, run_id: str = "") -> None:
    """Add a line. Raises OSError."""
    make_home()
    path = home() / FILE
    end = End(
        at=datetime.now(UTC),
        recipe=recipe,
        ending=ending,
        reason=visible(reason.strip().partition("\n")[0], LONGEST),
        run_id=run_id,
    )
    if path.is_file() and path.stat().st_size > LARGEST:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join(lines[len(lines) // 2 :]), encoding="utf-8")
    with path.open("a", encoding="utf-8") as file:
        file.write(end.model_dump_json() + "\n")  # one write: lines of two runs do not mix


def ends() -> list[End]:
    """Return all ends, the newest last; a line that cannot be read is left out."""
    path = home() / FILE
    if not path.is_file():
        return []
    known = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            known.append(End.model_validate(json.loads(line)))
        except (ValueError, ValidationError):
            continue
    return known
