"""The run form: Prefect's pages build it from the JSON schema of the flow's parameters.

What a person changes is a box of its own, the most usual first; what is rarely changed stands in one
box per section, `more`, as JSON. Nothing is lost by that: a setting may be given under its own name as
well, in a deployment's parameters or by the form's "Use JSON Input", and Prefect's server judges both
by the same schema, before a run is made. `recipe_of` puts the two together.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, WithJsonSchema

from retune.recipe import DATASET_EXPECTATIONS, FLAWS, Recipe
from retune.recipe.methods import METHODS, SOURCE
from retune.recipe.repairs import REPAIRS

MORE = "more"  # the box of a section's other settings; no setting has this name
# The boxes of each section, in their order; the sections stand in the order of the flow's signature.
BOXES = {
    "dataset": ("source", "split", "subset", "revision", "columns", "roles"),
    "model": ("base", "revision", "max_length", "load_in_4bit"),
    "training": (
        *("epochs", "max_steps", "learning_rate", "r", "alpha", "batch_size"),
        *("gradient_accumulation", "method", "train_on", "lr_scheduler", "warmup_steps"),
        *("target_modules", "optimizer", "packing", "seed"),
        *("price_per_hour", "max_gpu_hours", "max_cost"),
    ),
    "quantization": ("methods", "imatrix", "gates"),
    "publishing": ("enabled", "repo", "private", "artifacts", "token_secret"),
    "validation": (
        *("min_rows", "max_quarantined_share", "score_required", "score_mean_min"),
        *("score_mean_max", "keep_score_min", "keep_top_share", "keep", "repairs", "languages"),
        *("tolerances", "severities"),
    ),
    "formatting": ("held_out_share",),
    "evaluation": (
        *("loss_rows", "generation_rows", "max_new_tokens", "battery", "battery_rows"),
        *("incidents", "max_loss_ratio"),
    ),
    "merging": ("save_method", "onto", "base_16bit"),
    "promotion": ("mode", "wins", "margins", "floors", "budget", "ollama", "webhooks"),
    "tracking": ("experiment", "upload_models"),
    "gates": ("severities",),
    "schedule": ("skip_unchanged", "force"),
    "infra": ("resources",),
}
# By path; others are called as in YAML. Of a name that two sections have, each says whose it is.
TITLES = {
    "training.r": "r (LoRA rank)",
    "training.alpha": "alpha (LoRA)",
    "dataset.revision": "revision (of the dataset)",
    "model.revision": "revision (of the base model)",
    "quantization.gates": "gates (of single GGUF files)",
    "validation.severities": "severities (of the data gate)",
    "gates.severities": "severities (of the other gates)",
}
# Entries of lists and keys of mappings of which there are so many and no more.
CHOICES = {
    "quantization.methods": METHODS,
    "quantization.gates": (*METHODS, SOURCE),
    "validation.keep": FLAWS,
    "validation.repairs": REPAIRS,
    "validation.severities": (*FLAWS, *DATASET_EXPECTATIONS),
}
# Those of the families that most bases are of; a base may have others, which can be given all the same.
SUGGESTED = {
    "training.target_modules": (
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        *("qkv_proj", "gate_up_proj", "out_proj", "in_proj", "fc1", "fc2"),
    )
}
MOST_OTHERS = 100  # entries of such a list that may be no suggested ones

Schema = dict[str, Any]


def boxes(section: str) -> WithJsonSchema:
    """Return the schema of a section of the recipe as the form is to show it."""
    kind = _section(Recipe, section)
    assert kind is not None, section
    schema = kind.model_json_schema()
    settings = {
        name: _inlined(setting, schema.get("$defs", {}))
        for name, setting in schema["properties"].items()
    }
    shown = BOXES[section]
    properties = {
        name: _box(f"{section}.{name}", settings.pop(name), position)
        for position, name in enumerate(shown)
    }
    if settings:
        properties[MORE] = _more(section, settings, len(shown))
    return WithJsonSchema(
        {
            "title": section,
            "type": "object",
            "description": " ".join((kind.__doc__ or "").split()),
            "properties": properties,
            "required": [name for name in schema.get("required", []) if name in properties],
            "patternProperties": _by_name(settings),
            "additionalProperties": False,
        }
    )


def recipe_of(values: Mapping[str, Any]) -> Recipe:
    """Return the recipe of a run's parameters, given by its sections or as the form gives them.

    Raises RecipeError, with a line for each mistake.
    """
    return Recipe.parse({name: _merged(name, value) for name, value in values.items()}, "recipe")


def _merged(name: str, value: Any) -> Any:
    """Return a section with what its box `more` says in the places where it belongs."""
    if not isinstance(value, Mapping) or not isinstance(value.get(MORE, {}), Mapping):
        return value
    kind = _section(Recipe, name)
    given = {key: setting for key, setting in value.items() if key != MORE}
    return _updated(kind, given, value.get(MORE, {})) if kind else value


def _updated(kind: type[BaseModel], given: Mapping[str, Any], more: Mapping[str, Any]) -> Any:
    result = dict(given)
    for name, value in more.items():
        inner, before = _section(kind, name), given.get(name)
        both = inner and isinstance(value, Mapping) and isinstance(before, Mapping)
        result[name] = _updated(inner, before, value) if inner and both else value  # type: ignore[arg-type]
    return result


def _section(kind: type[BaseModel], name: str) -> type[BaseModel] | None:
    """Return the section that a setting is; None if it is no section."""
    field = kind.model_fields.get(name)
    inner = field.annotation if field else None
    return inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None


# One setting.


def _box(path: str, schema: Schema, position: int) -> Schema:
    """Return a setting as a box: empty where nothing is set, and a choice where there is one."""
    name = path.rpartition(".")[2]
    box = _plain(schema) | {"title": TITLES.get(path, name), "position": position}
    if path in CHOICES:
        _limit(box, list(CHOICES[path]))
    if path in SUGGESTED:
        for option in box.get("anyOf", [box]):
            if option.get("type") == "array":
                _suggest(option, list(SUGGESTED[path]))
    return _as_json(box) if "properties" in box else box


def _plain(schema: Schema) -> Schema:
    """Return an optional setting without the tab "None": Prefect's server takes null for a setting
    that has no default."""
    options = [one for one in schema.get("anyOf", []) if one.get("type") != "null"]
    if len(options) != 1 or schema.get("default") is not None:
        return schema
    words = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
    return options[0] | words


def _limit(box: Schema, choices: list[str]) -> None:
    if box["type"] == "array":
        box["items"] = {"type": "string", "enum": choices}
    else:
        box["propertyNames"] = {"enum": choices}


def _suggest(box: Schema, names: list[str]) -> None:
    """Let the form offer names, and the server take any: the first entries are judged apart."""
    box["prefixItems"] = [box["items"]] * MOST_OTHERS
    box["items"] = {"type": "string", "enum": names}
    box["title"] = "by name"


def _more(section: str, settings: Mapping[str, Schema], position: int) -> Schema:
    """Return the box of all settings that have none of their own."""
    return {
        "title": f"more settings of {section}, as JSON",
        "description": 'Such as {"name": value}; what is left out stays as it is. Names: '
        f"{', '.join(settings)}. What each does is in docs/settings.md.",
        "type": "object",
        "patternProperties": _by_name(settings),
        "additionalProperties": False,
        "position": position,
    }


def _as_json(box: Schema) -> Schema:
    """Return a section within a section as one box of JSON: the form has one for what has no
    properties. It begins empty: all defaults would be forty lines."""
    words = ("properties", "required", "default")
    kept = {key: value for key, value in box.items() if key not in words}
    return kept | {"patternProperties": _by_name(box["properties"])}


def _by_name(settings: Mapping[str, Schema]) -> Schema:
    """Return settings as patterns of names: judged like properties, and no boxes of the form."""
    words = ("title", "description", "default")  # nobody would see them
    return {
        f"^{name}$": {key: value for key, value in setting.items() if key not in words}
        for name, setting in settings.items()
    }


def _inlined(schema: Any, definitions: Mapping[str, Schema]) -> Any:
    """Return a schema with every reference replaced by what it refers to."""
    if isinstance(schema, list):
        return [_inlined(one, definitions) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        target = definitions[schema["$ref"].rpartition("/")[2]]
        schema = target | {key: value for key, value in schema.items() if key != "$ref"}
    return {key: _inlined(value, definitions) for key, value in schema.items()}
