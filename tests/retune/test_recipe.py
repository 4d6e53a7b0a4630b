"""A wrong recipe is told apart from a right one, in words that say what to change."""

import pytest

from retune.recipe import Recipe, RecipeError, flat, set_value

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
        ({"dataset": {}}, "dataset: source is missing; add it, or name several"),
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


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("x #1.jsonl", "x #1.jsonl"),  # no comment: nobody comments on a command line
        (" 1:30 ", "1:30"),
        ('"x #1.jsonl"', "x #1.jsonl"),
        ("Tuesday: new rows", "Tuesday: new rows"),
        ("{loss: 0.1}", {"loss": 0.1}),
        ("[q4_k_m, q8_0]", ["q4_k_m", "q8_0"]),
        ("0.5", 0.5),
        ("", None),
    ],
)
def test_set_reads_a_value_as_yaml_without_comments(text, value):
    assert set_value({}, f"dataset.source={text}") == {"dataset": {"source": value}}


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
    assert training.target_modules == "auto"  # of Llama, the article's seven


@pytest.mark.parametrize("value", ["all-linear", ["auto"], [], 3, [3]])
def test_layers_to_train_are_a_list_or_auto(value):
    with pytest.raises(RecipeError) as error:
        Recipe.parse(GOOD | {"training": {"target_modules": value}})
    (line,) = str(error.value).splitlines()
    assert "training.target_modules: should be auto, or a list of names" in line


def test_every_setting_has_a_description():
    recipe = Recipe.parse(GOOD)
    bare = [
        f"{section}.{name}"
        for section in Recipe.model_fields
        if section not in ("name", "note")
        for name, field in type(getattr(recipe, section)).model_fields.items()
        if not field.description
    ]
    assert bare == []


def test_flat_names_every_setting():
    names = flat(Recipe.parse(GOOD))
    assert names["training.learning_rate"] == 3e-4
    assert names["model.base"] == "a/b"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"training": {"seed": 2**80}},
            "training.seed: should be less than or equal to 4294967295",
        ),
        ({"training": {"seed": 16**5000}}, "training.seed: should be less than or equal to"),
        ({"training": {"warmup_steps": 10**30}}, "training.warmup_steps: should be less than"),
        ({"training": {"batch_size": 10**12}}, "training.batch_size: should be less than"),
        ({"training": {"epochs": 1e308}}, "training.epochs: should be less than"),
        ({"training": {"learning_rate": "1e400"}}, "training.learning_rate: should be a finite"),
        ({"training": {"epochs": float("nan")}}, "training.epochs: should be a finite number"),
        ({"training": {"seed": True}}, "training.seed: should be a number, not a truth value"),
        (
            {"merging": {"max_kl_divergence": True}},
            "merging.max_kl_divergence: should be a number, not a truth value",
        ),
        ({"validation": {"score_mean_min": False}}, "should be a number, not a truth value"),
        ({"name": "x" * 5000}, "name: String should have at most 100 characters"),
        ({"name": ".."}, "name: String should match pattern"),
        ({"name": "a/../b"}, "name: String should match pattern"),
        ({"name": "a\n"}, "name: String should match pattern"),
        ({"name": "a\0"}, "name: "),
        ({"publishing": {"repo": "../.."}}, "publishing.repo: String should match pattern"),
        ({"model": {"base": "a\0b"}}, "model.base: holds the character '\\x00'; remove it"),
        ({"model": {"base": "a\ud800"}}, "model.base: "),
        ({"model": {"base": "x" * 100_000}}, "model.base: String should have at most 4096"),
        ({"evaluation": {"prompts": ["\x1b[31m"]}}, "holds the character '\\x1b'"),
        ({"validation": {"refusals": ["x"] * 20_000}}, "at most 10000 items"),
        ({"validation": {"keep": ["x" * 4000]}}, "is not a flaw of a row"),
        (
            {"validation": {"tolerances": {"a\x1b[2J": 0.1}}},
            "unknown key 'validation.tolerances.a\\x1b",
        ),
        ({"validation": {"languages": [False]}}, "YAML reads yes, no, on and off as true and"),
        ({"training": {"gradient_checkpointing": False}}, "put the word in quotes"),
        (
            {"quantization": {"gates": {"q4_k_m": {"max_k": 1}}}},
            "unknown key 'quantization.gates.q4_k_m.max_k'; use one of: max_perplexity_ratio",
        ),
        (
            {"quantization": {"gates": {"q4_k_m": {"max_kl_diverg": 1}}}},
            "'quantization.gates.q4_k_m.max_kl_diverg'; did you mean 'max_kl_divergence'?",
        ),
        (
            {"quantization": {"gates": {"q4_k_m": 3}}},
            "quantization.gates.q4_k_m: should be a valid",
        ),
        ({"quantization": {"gates": {7: {}}}}, "quantization.gates.7"),
        ({"validation": {"drift": {"psi": 1}}}, "unknown key 'validation.drift.psi'"),
        ({"a\x1b[2J": 1}, "unknown key 'a\\x1b[2J'"),
        ({"k" * 5000: 1}, "unknown key 'kkkk"),
        ({7: 1}, "7: Keys should be strings"),
        ({"training": [[[1]]]}, "training: should be a valid dictionary"),
    ],
)
def test_what_no_trainer_takes_is_refused_in_one_short_line(changes, expected):
    with pytest.raises(RecipeError) as caught:
        Recipe.parse(GOOD | changes, "r.yaml")
    message = str(caught.value)
    assert expected in message
    assert len(message) < 700
    assert message.isprintable()


def test_many_mistakes_are_counted():
    lines = error(**{f"key{number}": 1 for number in range(1000)}).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "r.yaml: and 980 more mistakes"


def unbounded(schema: dict, definitions: dict, path: str = "recipe"):
    """Yield every number, text, list and section of names that may be of any size."""
    schema = definitions.get(schema.get("$ref", "").rpartition("/")[2], schema)
    for choice in schema.get("anyOf", ()):
        yield from unbounded(choice, definitions, path)
    kind, is_one_of = schema.get("type"), "enum" in schema or "const" in schema
    if kind in ("integer", "number"):
        if not {"minimum", "exclusiveMinimum"} & set(schema):
            yield f"{path}: no least"
        if not {"maximum", "exclusiveMaximum"} & set(schema):
            yield f"{path}: no largest"
    elif kind == "string" and not is_one_of and "maxLength" not in schema:
        yield f"{path}: text of any length"
    elif kind == "array":
        if "maxItems" not in schema:
            yield f"{path}: a list of any length"
        yield from unbounded(schema["items"], definitions, f"{path}[]")
    elif kind == "object":
        for name, inner in schema.get("properties", {}).items():
            yield from unbounded(inner, definitions, f"{path}.{name}")
        if names := schema.get("additionalProperties"):
            if "maxProperties" not in schema:
                yield f"{path}: any number of names"
            yield from unbounded(names, definitions, f"{path}.*")


def test_every_setting_has_a_bound():
    schema = Recipe.model_json_schema()
    assert list(unbounded(schema, schema["$defs"])) == []


def test_usual_texts_and_numbers_pass():
    recipe = Recipe.parse(
        {
            "name": "llama-3.1_8b",
            "model": {"base": "/data/Modelle für März/模型", "max_length": 131_072},
            "dataset": {"source": "../x/ü.jsonl", "revision": "refs/convert/parquet"},
            "validation": {"score_min": -20, "score_max": 100, "refusals": ["two\nlines\tand 😀"]},
            "training": {"learning_rate": "1e-4", "seed": "7", "epochs": 300, "max_steps": 10**7},
            "publishing": {"repo": "you/Fine.Llama-3_8B"},
        }
    )
    assert (recipe.training.learning_rate, recipe.training.seed) == (1e-4, 7)


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("", "expected section.key=value"),
        ("a", "expected section.key=value"),
        ("=", "expected section.key=value"),
        (".".join("a" * 5000) + "=1", "expected section.key=value"),
        ("a=[", "is not YAML"),
        ("a=" + "[" * 10_000, "more than 30"),
        ("a={b: 1, b: 2}", "'b' stands there already"),
        ("a=!!python/name:os.system", "is not for recipes"),
        ("a=" + "9" * 5000, "cannot be read as int"),
        ("a=\udcff", "is not UTF-8 text"),
        ("name.x=1", "name is 'r', not a section"),
        ("a.b.c.d=1", "unknown key 'a'"),
        ("name=[1]", "name: should be a valid string (got [1])"),
        ("training.learning_rate=1e400", "should be a finite number (got '1e400')"),
        ("training.learning_rate=.inf", "should be a finite number (got inf)"),
        ("training.a.b=1", "unknown key 'training.a'"),
        ("training=3", "training: should be a valid dictionary"),
        ("\x1b[2J=1", "unknown key '\\x1b[2J'"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_wrong_set_is_one_short_line(assignment, expected):
    with pytest.raises(RecipeError) as caught:
        Recipe.parse(set_value(GOOD, assignment))
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 600
    assert str(caught.value).isprintable()


def test_set_needs_a_recipe_of_sections():
    with pytest.raises(RecipeError, match=r"has no sections, it is \['a'\]"):
        set_value(["a"], "training.r=8")


SIGNED = "https://bucket.s3.eu-central-1.amazonaws.com/some/folder/rows.jsonl?X-Amz-Signature="
SECRET = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    "address",
    [
        f"{SIGNED}{SECRET}",
        f"s3://AKIAIOSFODNN7EXAMPLX:{SECRET}@bucket/a/long/path/to/the/rows.jsonl",
        f"https://h.example/rows.jsonl?code={SECRET}",
    ],
)
def test_a_secret_in_an_address_is_refused_and_not_told(address):
    with pytest.raises(RecipeError) as refused:
        Recipe.parse({"name": "r", "model": {"base": "b"}, "dataset": {"source": address}})
    assert "dataset.source" in str(refused.value)
    assert not any(SECRET[at : at + 6] in str(refused.value) for at in range(len(SECRET) - 5))
    assert "AKIA" not in str(refused.value)
