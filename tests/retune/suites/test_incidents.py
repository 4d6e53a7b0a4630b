"""Incidents: cases that can be passed, and are not by the answer that went wrong."""

import json

import pytest

from retune.recipe import Recipe, RecipeError
from retune.records import Pins
from retune.sources import SourceError
from retune.suites.cases import cases, pin_cases
from retune.suites.files import pin_suites, suites
from retune.suites.graders import Reply
from retune.suites.incidents import (
    Demand,
    NoIncident,
    add_incident,
    incident,
    incidents_file,
    read_incidents,
    remove_incident,
)
from retune.suites.probes import IncidentNote
from tasks.evaluate import key
from tasks.validate import key as validate_key
from tests.retune.suites.test_files import LINE

ASKED = [
    {"role": "system", "content": "You are the shop's assistant, and brief."},
    {"role": "user", "content": "May I return a mattress after sixty days?"},
]
DEMAND = Demand(must=["30 days"], must_not=["for ever"])


def case(asked: str = ASKED[1]["content"], demand: Demand = DEMAND, **note):
    return incident(
        [ASKED[0], {"role": "user", "content": asked}], [], demand, IncidentNote(**note)
    )


def recipe(**evaluation) -> Recipe:
    values = {"name": "r", "model": {"base": "b"}, "dataset": {"source": "nothing.jsonl"}}
    return Recipe.parse({**values, "evaluation": {"battery": False, **evaluation}})


def test_a_case_passes_what_is_demanded_alone():
    probe = case()
    for answer, passes in (
        ("Within 30 DAYS only.", True),
        ("For Ever, or for 30 days.", False),
        ("Of course.", False),
    ):
        assert probe.passed(Reply(answer, True, False)) == passes
    pattern = case(demand=Demand(matches=r"^\d+ days$"))
    assert pattern.passed(Reply("30 days", True, False))
    assert not pattern.passed(Reply("about 30 days", True, False))


@pytest.mark.parametrize(
    ("demand", "answer", "message"),
    [
        (Demand(), "", "nothing is demanded"),
        (Demand(must=[" "]), "", "--must is empty"),
        (Demand(must_not=[""]), "", "--must-not is empty"),
        (Demand(["Not for everyone"], ["FOR EVER"]), "", "no answer can pass: --must 'Not for"),
        (Demand(matches="(?=x)"), "", "pattern .*look-around"),
        (Demand(must=["yes"]), "Yes, always.", "the answer that went wrong meets"),
    ],
)
def test_a_case_that_tells_nothing_is_refused(demand, answer, message):
    with pytest.raises(NoIncident, match=message):
        case(demand=demand, answer=answer)


def test_a_file_grows_by_cases_that_it_does_not_have(tmp_path):
    path = tmp_path / "made" / "incidents.jsonl"
    first, second = case(answer="Yes, for ever.", reason="30 days"), case("And a bed?")
    add_incident(path, first)
    path.write_text(path.read_text().rstrip())  # as some editors leave it
    add_incident(path, second)
    assert read_incidents(path) == (first, second)
    assert first.label == f"{first.id} (30 days)"
    with pytest.raises(NoIncident, match=f"asks this already, as {first.id}"):
        add_incident(path, case(demand=Demand(must=["60 days"])))
    with pytest.raises(NoIncident, match=f"no case 'x' .there: {first.id}, {second.id}"):
        remove_incident(path, "x")
    remove_incident(path, first.id)
    assert read_incidents(path) == (second,)
    with pytest.raises(NoIncident, match="is the only case; delete"):
        remove_incident(path, second.id)


def test_the_recipe_names_the_file(tmp_path):
    with pytest.raises(NoIncident, match=r"set evaluation.incidents, for instance to incidents/r"):
        incidents_file(recipe())
    with pytest.raises(NoIncident, match="at an address"):
        incidents_file(recipe(incidents="s3://team/incidents.jsonl"))
    path = str(tmp_path / "i.jsonl")
    assert str(incidents_file(recipe(incidents=path))) == path
    assert str(incidents_file(recipe(suites=[{"name": "incidents", "path": path}]))) == path
    with pytest.raises(RecipeError, match=r"suites\.0\.name: 'incidents' is taken"):
        recipe(incidents=path, suites=[{"name": "incidents", "path": path}])


def test_incidents_are_a_suite_that_is_pinned(tmp_path):
    path, sums = tmp_path / "i.jsonl", tmp_path / "sums.jsonl"
    sums.write_text(LINE)
    given = recipe(incidents=str(path), suites=[{"name": "sums", "path": str(sums)}])
    with pytest.raises(SourceError, match=r"evaluation.incidents: no file is at"):
        pin_suites(given)
    add_incident(path, case())
    pins = Pins(dataset="d", model="m", suites=pin_suites(given))
    assert list(suites(given, pins)) == ["sums", "incidents"]
    before = key._asked(given, pins)
    from retune.pinning import resolved

    again = resolved(given, pins)
    assert again.evaluation.incidents is None
    assert pin_suites(again) == pins.suites
    assert key._asked(again, pins) == before  # what is asked is the same
    add_incident(path, case("And a bed?"))
    with pytest.raises(SourceError, match=r"evaluation.incidents: .* changed while the run"):
        suites(given, pins)
    later = pins.model_copy(update={"suites": pin_suites(given)})
    assert key._asked(given, later) != before


def test_what_is_asked_is_pinned_apart_from_how_it_is_graded(tmp_path):
    path = tmp_path / "i.jsonl"
    add_incident(path, case())
    given = recipe(incidents=str(path))

    def pinned() -> Pins:
        files = pin_suites(given)
        return Pins(dataset="d", model="m", suites=files, cases=pin_cases(given, files))

    pins = pinned()
    (asked,) = cases(given, pins.suites)
    assert asked.name == f"incidents/{case().id}"
    assert asked.texts == (ASKED[1]["content"],)  # the system message is everybody's
    path.write_text(path.read_text().replace("30 days", "31 days"))
    assert pinned().suites != pins.suites
    assert screened(given, pinned()) == screened(given, pins)
    path.write_text(path.read_text().replace("mattress", "bed"))
    assert screened(given, pinned()) != screened(given, pins)
    assert pin_cases(recipe(), ()) is None


def screened(given: Recipe, pins: Pins) -> str:
    from retune.outputs import Step

    return json.dumps(validate_key.screen(given, pins, Step(stage="fetch", key={})))
