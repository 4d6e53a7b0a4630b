"""Finished candidates in a real MLflow store, without training any."""

from retune import registry, tracking
from retune.building import building
from retune.files import sha256
from retune.outputs import Step
from retune.recipe import Recipe
from retune.records import Adapter, Gguf, Pins, Rows, Scores
from retune.registry import Candidate, register_candidate

PINS = Pins(dataset="d" * 40, model="b" * 40)
EVIDENCE = {"held_out/loss": [0.1, 0.2]}


def made(stage: str, key: str, kind, content: str = "", **fields):
    """Return a finished output, made once."""
    step = Step(stage=stage, key={"k": key})
    if step.done:
        return kind.model_validate_json((step.folder / "output.json").read_text())
    with building(step) as build:
        (build.path / "adapter").mkdir()
        (build.path / "adapter" / "adapter_model.safetensors").write_text(content or key)
        if kind is Gguf:
            (build.path / fields["file"]).write_text(key)
            modelfile = fields["file"].replace(".gguf", ".Modelfile")
            (build.path / modelfile).write_text(f"FROM ./{fields['file']}")
            fields |= {"bytes": len(key), "sha256": sha256(build.path / fields["file"])}
        return build.finish(kind, **fields)


def candidate(key: str, loss: float = 1.5, methods=("q4_k_m",), **parts) -> Candidate:
    files = tuple(
        made("quantize", f"{key} {method}", Gguf, method=method, file=f"{method}.gguf")
        for method in methods
    )
    outputs = {
        "rows": made("validate", "rows", Rows, metrics={"accepted": 90.0, "rows": 100.0}),
        "adapter": made("train", key, Adapter, parts.pop("weights", "")),
        "selection": None,
        "scores": made(
            "evaluate", f"{key} {loss}", Scores, metrics={"loss/base": 2.0, "loss/tuned": loss}
        ),
        "merged": None,
        "files": files,
    }
    return Candidate(**(outputs | parts))


def registered(recipe: Recipe, key: str, **fields) -> registry.RegisteredVersion:
    with tracking.start_run(recipe, f"{recipe.name} {key}", {}) as run:
        return register_candidate(run, recipe, PINS, candidate(key, **fields))


def served(recipe: Recipe, *keys: str) -> None:
    """Register a candidate for each key and promote them one after the other."""
    for key in keys:
        version = registered(recipe, key)
        serving = registry.champion(recipe.name)
        registry.promote(
            recipe.name, version.number, "test", key, EVIDENCE, serving and serving.version
        )
