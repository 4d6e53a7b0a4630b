"""A wrong recipe is told apart from a right one, in words that say what to change."""

import pytest

from retune.config import Recipe, RecipeError, flat, set_value

GOOD = {"name": "r", "model": {"base": "a/b"}, "dataset": {"source": "c/d"}}


def error(**changes) -> str:
    with pytest.raises(RecipeError) as caught:
        Recipe.parse(GOOD | changes, "r.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"training": {"learning_rate": -1}},
            "training.learning_rate: should be greater than 0 (got -1)",
        ),
        ({"training": {"r": "many"}}, "training.r: should be a valid integer"),
        (
            {"training": {"learning_rat": 1}},
            "'training.learning_rat'; did you mean 'learning_rate'?",
        ),
        ({"trainin": {}}, "unknown key 'trainin'; did you mean 'training'?"),
        (
            {"quantization": {"methods": ["q4_k_n"]}},
            "'q4_k_n' is not a quantization method; did you mean",
        ),
        ({"quantization": {"methods": ["q6_k", "q6_k"]}}, "named twice"),
        (
            {"validation": {"score_min": 4, "score_max": 3}},
            "score_min (4.0) is above score_max (3.0)",
        ),
        (
            {"validation": {"score_mean_min": 4, "score_mean_max": 3}},
            "score_mean_min (4.0) is above",
        ),
        (
            {"publishing": {"artifacts": ["merged"]}, "merging": {"save_method": "lora"}},
            "merging.save_method=lora; change these, or name only adapter (got",
        ),
        (
            {"publishing": {"artifacts": ["merged_4bit"]}},
            "publishing.artifacts: merged_4bit is not made with training.method=lora and merging",
        ),
        ({"training": {"method": "full"}}, "set model.load_in_4bit=false"),
        (
            {"training": {"master_weights": "bfloat16"}},
            "master_weights=bfloat16 belongs to method=full",
        ),
        (
            {
                "training": {"method": "full"},
                "model": {"base": "a/b", "load_in_4bit": False},
                "merging": {"save_method": "lora"},
            },
            "training.method=full makes no adapter; use merged_16bit",
        ),
        (
            {
                "model": {"base": "a/b", "load_in_4bit": False},
                "merging": {"base_16bit": "c/d"},
            },
            "merging.base_16bit is for adapters trained on 4-bit weights; leave it empty",
        ),
        ({"publishing": {"enabled": True}}, "enabled is true but repo is empty"),
        ({"dataset": {}}, "dataset.source is missing; add it"),
        ({"dataset": {"source": "a", "split": "train[10"}}, "dataset.split: String should match"),
        (
            {"formatting": {"held_out_share": 1}},
            "formatting.held_out_share: should be less than 1 (got 1)",
        ),
    ],
)
def test_each_mistake_is_one_line_with_the_value_seen(changes, expected):
    message = error(**changes)
    assert expected in message
    assert message.startswith("r.yaml: ")
    assert "\n" not in message


def test_every_mistake_is_named_at_once():
    message = error(training={"r": 0, "alpha": 0})
    assert "training.r" in message.splitlines()[0]
    assert "training.alpha" in message.splitlines()[1]


@pytest.mark.parametrize("values", [None, [], "text"])
def test_a_recipe_must_be_a_tree(values):
    with pytest.raises(RecipeError, match="expected sections"):
        Recipe.parse(values)


def test_set_changes_one_value_and_leaves_the_rest():
    values = {"training": {"r": 8, "alpha": 8}}
    changed = set_value(values, "training.learning_rate=1e-4")
    assert Recipe.parse(GOOD | changed).training.learning_rate == 1e-4
    assert changed["training"]["r"] == 8
    assert values == {"training": {"r": 8, "alpha": 8}}


@pytest.mark.parametrize("assignment", ["training.r", "=3", "training..r=3"])
def test_set_needs_a_key_and_a_value(assignment):
    with pytest.raises(RecipeError, match=r"expected section\.key=value"):
        set_value({}, assignment)


def test_the_defaults_are_the_articles():
    training = Recipe.parse(GOOD).training
    expected = {
        "r": 16, "alpha": 16, "dropout": 0.0, "use_rslora": True, "learning_rate": 3e-4,
        "lr_scheduler": "linear", "batch_size": 8, "gradient_accumulation": 2, "epochs": 1.0,
        "optimizer": "adamw_8bit", "weight_decay": 0.01, "warmup_steps": 10, "packing": True, "seed": 0,
    }  # fmt: skip
    assert {name: getattr(training, name) for name in expected} == expected
    assert len(training.target_modules) == 7


def test_every_setting_has_a_description():
    recipe = Recipe.parse(GOOD)
    bare = [
        f"{section}.{name}"
        for section in Recipe.model_fields
        if section != "name"
        for name, field in type(getattr(recipe, section)).model_fields.items()
        if not field.description
    ]
    assert bare == []


def test_flat_names_every_setting():
    names = flat(Recipe.parse(GOOD))
    assert names["training.learning_rate"] == 3e-4
    assert names["model.base"] == "a/b"
