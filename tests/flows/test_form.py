"""The run form: what Prefect's pages show of a recipe, and what its server refuses at once."""

import json
import re
from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from prefect.utilities.schema_tools import validate
from prefect.utilities.schema_tools.validation import ValidationError

from flows.form import BOXES, MORE, recipe_of
from flows.retrain import retrain
from retune.recipe import FLAWS, Recipe, RecipeError
from retune.recipe.methods import METHODS

ROOT = Path(__file__).parent.parent.parent
SCHEMA = retrain.parameters.model_dump_for_openapi()
SECTIONS = {name: SCHEMA["properties"][name] for name in BOXES}
SMALLEST = {"name": "r", "model": {"base": "a/b"}, "dataset": {"source": "c/d"}}


def refuses(values):
    with pytest.raises(ValidationError) as caught:
        validate(SMALLEST | values, SCHEMA, raise_on_error=True)
    return str(caught.value)


def test_what_a_person_changes_stands_on_top():
    names = sorted(SCHEMA["properties"], key=lambda name: SCHEMA["properties"][name]["position"])
    assert names[:6] == ["name", "note", "dataset", "model", "training", "quantization"]
    above = sum(len(SECTIONS[name]["properties"]) for name in ("dataset", "model"))
    assert above + 2 <= 14  # boxes before those of training, of what were 141
    training = SECTIONS["training"]["properties"]
    first = sorted(training, key=lambda name: training[name]["position"])[:4]
    assert first == ["epochs", "max_steps", "learning_rate", "r"]


def test_every_setting_is_a_box_or_may_stand_in_the_box_of_the_others():
    for name in BOXES:
        section = SECTIONS[name]
        others = {pattern.strip("^$") for pattern in section["patternProperties"]}
        boxes = section["properties"].keys() - {MORE}
        assert boxes | others == type(getattr(recipe_of(SMALLEST), name)).model_fields.keys()
        assert not boxes & others
        assert MORE not in boxes
        for box in section["properties"].values():
            assert box["description"]
            assert box["title"]


def test_a_setting_that_may_be_empty_is_an_empty_box():
    steps = SECTIONS["training"]["properties"]["max_steps"]
    assert steps["type"] == "integer"
    assert steps.keys().isdisjoint({"anyOf", "default"})
    for value in ({}, {"max_steps": None}, {"max_steps": 5}):
        validate(SMALLEST | {"training": value}, SCHEMA, raise_on_error=True)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"quantization": {"methods": ["q4_k_m", "q4_k_x"]}}, "'q4_k_x' is not one of"),
        ({"validation": {"keep": ["refusl"]}}, "'refusl' is not one of"),
        ({"validation": {"tolerances": {"refusl": 0.1}}}, "'refusl'"),
        ({"validation": {"tolerances": {"refusal": 2}}}, "2 is greater than the maximum of 1"),
        ({"validation": {"severities": {"refusl": "info"}}}, "'refusl' is not one of"),
        ({"publishing": {"artifacts": ["model"]}}, "'model' is not one of"),
        ({"training": {"learning_rat": 1}}, "'learning_rat'"),
        ({"training": {"more": {"shards": True}}}, "'shards'"),
        ({"training": {"more": {"max_loss_rise": 0.5}}}, "0.5 is less than or equal to"),
        ({"training": {"max_steps": 0}}, "0 is less than the minimum of 1"),
        ({"model": {}}, "'base' is a required property"),
        ({"seed": 1}, "'seed'"),
    ],
)
def test_prefects_server_refuses_it_before_there_is_a_run(values, words):
    if "seed" in values:  # Prefect's own schema of the parameters is an open one
        with pytest.raises(RecipeError, match="unknown key 'seed'"):
            recipe_of(SMALLEST | values)
        return
    assert words in refuses(values)


def test_the_box_of_the_others_is_the_settings_themselves():
    given = {
        "dataset": {"source": "c/d", "memory_share": 0.2, MORE: {"memory_share": 0.3}},
        "validation": {"drift": {"max_psi": 0.2}, MORE: {"drift": {"max_ks": 0.1}}},
    }
    validate(SMALLEST | given, SCHEMA, raise_on_error=True)
    before = deepcopy(given)
    recipe = recipe_of(SMALLEST | given)
    assert given == before
    plain = {
        "dataset": {"source": "c/d", "memory_share": 0.3},
        "validation": {"drift": {"max_psi": 0.2, "max_ks": 0.1}},
    }
    assert recipe == Recipe.parse(SMALLEST | plain)


@pytest.mark.parametrize("more", [7, "x", ["memory_share"], None])
def test_what_is_no_mapping_is_one_clear_error(more):
    with pytest.raises(RecipeError, match=r"recipe: unknown key 'dataset\.more'"):
        recipe_of(SMALLEST | {"dataset": {"source": "c/d", MORE: more}})


def test_every_method_and_flaw_can_be_chosen():
    assert SECTIONS["quantization"]["properties"]["methods"]["items"]["enum"] == list(METHODS)
    assert SECTIONS["validation"]["properties"]["keep"]["items"]["enum"] == list(FLAWS)
    validate(
        SMALLEST | {"training": {"target_modules": ["q_proj", "Wqkv", "re:.*proj"]}},
        SCHEMA,
        raise_on_error=True,
    )


def test_what_the_form_begins_with_is_the_default():
    """The form sends each default that it shows; that must be the recipe without them."""
    sent = {
        name: {
            key: box["default"] for key, box in section["properties"].items() if "default" in box
        }
        for name, section in SECTIONS.items()
    }
    both = {name: values | SMALLEST.get(name, {}) for name, values in sent.items()}
    assert recipe_of({"name": "r"} | both) == Recipe.parse(SMALLEST)


def test_a_recipe_with_every_setting_written_out_is_accepted():
    recipe = Recipe.parse(SMALLEST)
    for name in BOXES:
        values = getattr(recipe, name).model_dump(mode="json")
        validate(SMALLEST | {name: values}, SCHEMA, raise_on_error=True)
        assert recipe_of(SMALLEST | {name: values}) == recipe


def test_the_mappings_of_the_descriptions_can_be_typed_as_they_stand():
    """The form's boxes of mappings take JSON, and files take YAML, of which JSON is a part."""
    examples = 0
    for path, section in SECTIONS.items():
        for name, box in section["properties"].items():
            for text in re.findall(r"e\.g\. (\{.*?\}+)[;,. ]", box["description"] + " "):
                if box.get("type") == "object":
                    assert json.loads(text) == yaml.safe_load(text), f"{path}.{name}"
                    recipe_of(SMALLEST | {path: SMALLEST.get(path, {}) | {name: json.loads(text)}})
                    examples += 1
    assert examples >= 6


def test_no_two_boxes_have_one_title():
    """But for what is in several sections of the form and is the same thing in each: `enabled`."""
    titles = [
        box["title"] for section in SECTIONS.values() for box in section["properties"].values()
    ]
    assert {title for title in titles if titles.count(title) > 1} <= {"enabled"}


def test_the_form_says_what_a_slice_takes():
    split = SECTIONS["dataset"]["properties"]["split"]["description"]
    for words in ("train[:1000] is its first 1,000 rows", "train[:10%]", "validation.min_rows"):
        assert words in split
