"""The judge of conform on the adapter: names of another architecture are said, or refused."""

from expectations.conform import GATE, adapter
from retune.architecture import Architecture, Layer
from retune.recipe import Recipe
from retune.recipe.gates import EXPECTATIONS

FUSED = Architecture(
    layers=(
        Layer(path="model.layers.0.attn.qkv_proj", weights=30),
        Layer(path="model.layers.0.attn.o_proj", weights=10),
        Layer(path="model.layers.0.mlp.gate_up_proj", weights=60),
    )
)
MIXTURE = Architecture(
    layers=(
        Layer(path="model.layers.0.attn.q_proj", weights=10),
        Layer(path="model.layers.0.experts.up", weights=90, is_expert=True, barred="one tensor"),
    )
)


def verdicts(model, names="auto", **severities):
    recipe = Recipe.parse(
        {
            "name": "r",
            "model": {"base": "b"},
            "dataset": {"source": "s"},
            "training": {"target_modules": names},
            "gates": {"severities": {f"{GATE}.{key}": value for key, value in severities.items()}},
        }
    )
    judged = {verdict.name: verdict for verdict in adapter(model, recipe)}
    assert tuple(judged) == EXPECTATIONS[GATE]
    return judged


def test_auto_passes_and_says_what_it_leaves():
    assert all(verdict.passed for verdict in verdicts(FUSED).values())
    judged = verdicts(MIXTURE)
    assert not any(verdict.blocks for verdict in judged.values())
    told = judged["untrained_layers"]
    assert told.severity == "warning"
    assert told.seen == "90.0% of the weights get none: experts.up (one tensor)"


def test_names_that_reach_less_than_half_are_refused_with_the_way_out():
    judged = verdicts(FUSED, ["q_proj", "o_proj"])
    refused = judged["trained_share"]
    assert refused.blocks
    assert refused.seen == (
        "10.0% by q_proj, o_proj; the model has attn.qkv_proj, attn.o_proj, mlp.gate_up_proj"
    )
    assert "training.target_modules=auto" in refused.fix
    assert "gates.severities={conform.trained_share: warning}" in refused.fix
    unknown = judged["target_modules"]
    assert not unknown.passed
    assert not unknown.blocks
    assert unknown.seen == "none is named q_proj"
    assert "attn.qkv_proj, mlp.gate_up_proj" in judged["untrained_layers"].seen


def test_the_attention_alone_may_be_meant():
    chosen = ["qkv_proj", "o_proj"]
    assert verdicts(FUSED, chosen)["trained_share"].blocks
    allowed = verdicts(FUSED, chosen, trained_share="warning")
    assert not any(verdict.blocks for verdict in allowed.values())
    assert verdicts(FUSED, ["gate_up_proj"])["trained_share"].passed


def test_a_model_without_linear_layers_has_no_adapter():
    nothing = Architecture(layers=MIXTURE.layers[1:])
    assert verdicts(nothing)["trained_share"].blocks
