"""The file of incidents: cases of answers that went wrong, which every later candidate has to pass.

It is a file of probes among the user's own, and git keeps its versions.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from retune.errors import RetuneError
from retune.outcomes import example_name
from retune.recipe import Recipe
from retune.recipe.address import is_address
from retune.recipe.evaluation import INCIDENTS
from retune.refusals import refusing
from retune.suites.graders import Reply, spoken
from retune.suites.probes import IncidentNote, SuiteProbe, parse_probe, read_probes

SETTING = "evaluation.incidents"


class NoIncident(RetuneError):
    """What cannot be an incident, or is one already."""


class Demand(NamedTuple):
    """What an answer must say, all of it, must not say, any of it (in any case), and a pattern that it
    must match."""

    must: Sequence[str] = ()
    must_not: Sequence[str] = ()
    matches: str = ""

    def graders(self) -> list[dict[str, Any]]:
        """Return the graders. Raises NoIncident for demands that no answer meets, or none."""
        self._require_possible()
        graders: list[dict[str, Any]] = []
        if self.must:
            graders.append(
                {"type": "contains", "text": list(self.must), "all": True, "ignore_case": True}
            )
        if self.must_not:
            graders.append(
                {"type": "not_contains", "text": list(self.must_not), "ignore_case": True}
            )
        if self.matches:
            graders.append({"type": "regex", "pattern": self.matches})
        return graders

    def _require_possible(self) -> None:
        if not (self.must or self.must_not or self.matches):
            raise NoIncident("nothing is demanded; give --must, --must-not or --matches")
        for option, texts in (("--must", self.must), ("--must-not", self.must_not)):
            if any(not text.strip() for text in texts):
                raise NoIncident(f"{option} is empty; give the words that it is about")
        for wanted in self.must:
            for unwanted in self.must_not:
                if unwanted.casefold() in wanted.casefold():
                    raise NoIncident(
                        f"no answer can pass: --must {wanted!r:.80} holds --must-not {unwanted!r:.80}; "
                        f"change one"
                    )


def incident(
    messages: Sequence[dict[str, Any]],
    tools: Sequence[dict[str, Any]],
    demand: Demand,
    note: IncidentNote,
) -> SuiteProbe:
    """Return the case of a conversation up to the answer that went wrong.

    Raises NoIncident for demands that no answer meets, for a conversation that cannot be asked, and if
    the answer that went wrong meets the demands.
    """
    asked = {"messages": list(messages), "tools": list(tools)}
    line = {
        "id": f"incident-{example_name(list(messages), list(tools))[:10]}",
        **{name: value for name, value in asked.items() if value},
        "grade": demand.graders(),
        "incident": note.model_dump(exclude_defaults=True),
    }
    probe, mistakes = parse_probe(json.dumps(line))
    if probe is None:
        raise NoIncident(f"this cannot be an incident: {'; '.join(mistakes)}")
    if note.answer and probe.passed(_reply(note.answer)):
        raise NoIncident(
            "the answer that went wrong meets what is demanded of the next ones; say by --must, "
            "--must-not or --matches what is wrong with it"
        )
    return probe


def _reply(answer: str) -> Reply:
    text = spoken(answer)
    return Reply(text, True, refusing([text])[0])


def incidents_file(recipe: Recipe) -> Path:
    """Return the recipe's file of incidents. Raises NoIncident if it names none on this disk."""
    named = [file.path for file in recipe.evaluation.probe_files if file.name == INCIDENTS]
    if not named:
        raise NoIncident(
            f"{recipe.name} names no file of incidents; set {SETTING}, for instance to "
            f"incidents/{recipe.name}.jsonl, a file that need not be there yet"
        )
    if is_address(named[0]):
        raise NoIncident(
            f"{SETTING} of {recipe.name} is at an address, where nothing is written; name a copy of it "
            f"by --file, and put that there"
        )
    return Path(named[0]).expanduser()


def read_incidents(path: Path) -> tuple[SuiteProbe, ...]:
    """Return the cases of a file, none if it is not there. Raises SourceError."""
    has_cases = path.is_file() and path.stat().st_size
    return read_probes(path, SETTING) if has_cases else ()


def add_incident(path: Path, case: SuiteProbe) -> None:
    """Append a case to a file. Raises NoIncident if one of its cases asks the same."""
    for known in read_incidents(path):
        if (known.chat, known.tools) == (case.chat, case.tools):
            raise NoIncident(
                f"{path} asks this already, as {known.id}; change what is demanded there, or remove it"
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    end = "" if not text or text.endswith("\n") else "\n"
    with path.open("a", encoding="utf-8") as file:  # in place: it keeps its mode and links
        file.write(f"{end}{_line(case)}\n")


def remove_incident(path: Path, name: str) -> None:
    """Remove the case with the id `name` from a file. Raises NoIncident if there is none, or no other:
    a suite has probes."""
    ids = [case.id for case in read_incidents(path)]
    if name not in ids:
        known = ", ".join(str(one) for one in ids[:10]) or "none"
        raise NoIncident(f"{path} has no case {name!r:.80} (there: {known}); name one of them")
    if len(ids) == 1:
        raise NoIncident(
            f"{name} is the only case; delete {path} and empty {SETTING} of the recipes that name it"
        )
    lines = [line for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    kept = [line for line, id_ in zip(lines, ids, strict=True) if id_ != name]
    path.write_text("\n".join(kept) + "\n", encoding="utf-8")


def _line(case: SuiteProbe) -> str:
    values = case.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return json.dumps(values, ensure_ascii=False)
