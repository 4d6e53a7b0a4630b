"""The plan of a run: for every stage, what determines its output and where that will lie.

Knowing only the recipe and the pinned inputs, it says which outputs exist already. The flow gives
each task its step; `retune plan` prints them.
"""

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from retune.config import Recipe
from retune.flaws import OVERSIZED
from retune.llamacpp import locate
from retune.records import Pins
from retune.workspace import Step, digest, sha256

# Settings of training that say how it runs and what it may cost, not what comes out.
RUNNING = {
    "batch_size",
    "gradient_accumulation",
    "gradient_checkpointing",
    "memory",
    "processes",
} | {
    *("logging_steps", "checkpoint_steps", "checkpoint_minutes", "max_loss_rise"),
    *("max_gradient_norm", "price_per_hour", "max_gpu_hours", "max_cost"),
}


class Plan(BaseModel):
    """One step per stage; `quantize` has one per method, in the recipe's order."""

    model_config = ConfigDict(frozen=True)

    conform: Step
    fetch: Step
    validation: Step
    formatting: Step
    train: Step
    evaluate: Step
    merge: Step | None  # and what follows from it: none if the recipe wants the adapter only
    convert: Step | None
    calibrate: Step | None
    quantize: tuple[Step, ...]
    publish: Step | None

    def steps(self) -> list[Step]:
        """Return every step in the order of the line."""
        data = [self.fetch, self.validation, self.formatting]
        before = [self.conform, *data, self.train, self.evaluate]
        after = [self.merge, self.convert, self.calibrate, *self.quantize, self.publish]
        return [*before, *(step for step in after if step)]

    def digest(self, recipe: Recipe) -> str:
        """Return what stands for a run of `recipe` with all its settings by this plan."""
        return digest([recipe.model_dump(), *(step.fingerprint for step in self.steps())])


def make_plan(recipe: Recipe, pins: Pins) -> Plan:
    """Return the steps of this recipe on these inputs.

    A step's key holds its inputs' fingerprints, the settings that change its output (not, say, the
    number of threads), the source of its code and the versions of its libraries. Raises
    LlamaCppNotFound: better now than when the GPU's work is done.
    """
    model = {"pin": pins.model, **recipe.model.model_dump(exclude={"base", "revision"})}
    with_models = ("retune.models", "retune.embeddings", "torch", "transformers", "peft")
    loading = ("retune.loaders", "transformers", "tokenizers")
    merging = recipe.merging.save_method != "lora"
    conform = _step(
        "conform",
        {
            "model": pins.model,
            "chat_tokens": recipe.model.chat_tokens,
            "trust_remote_code": recipe.model.trust_remote_code,
            "gguf": merging,
            "llama.cpp": locate().root.name,
        },
        *("retune.chat", "retune.templates", "retune.inspection", "retune.folders", *loading),
        *("retune.llamacpp", "gguf"),
    )
    masked_with = (  # what is quoted of rows that cannot be read
        *("expectations.masking", "expectations.credentials", "expectations.personal"),
        *("expectations.candidates", "detect-secrets"),
    )
    budget = {"max_row_bytes", "max_row_values", "max_row_depth"}
    dataset = recipe.dataset.model_dump(include={"source", "subset", "split", *budget})
    fetch = _step(
        "fetch",
        {"pin": pins.dataset, "oversized": OVERSIZED, **dataset},
        *("retune.sources", "datasets", "pyarrow", *masked_with),
    )
    gate = {
        "rows": fetch.fingerprint,
        "model": pins.model,
        "chat_tokens": recipe.model.chat_tokens,
        "trust_remote_code": recipe.model.trust_remote_code,
        "prompts": recipe.evaluation.prompts,
        "benchmarks": pins.benchmarks,
        **recipe.validation.model_dump(),
    }
    gated_with = (
        *("expectations", "retune.chat", "retune.flaws", "great-expectations", "polars", "rensa"),
        *("retune.escaping", "detect-secrets", "ftfy", "phonenumbers", "py3langid", *loading),
    )
    validation = _step("validate", {**gate, "reference": pins.accepted}, *gated_with)
    # What the scores are compared with decides whether the rows pass, not which they are.
    sound = _step("validate", gate, *gated_with)
    formatting = _step(
        "format",
        {"rows": sound.fingerprint, "model": model, **recipe.formatting.model_dump()},
        "retune.chat",
        "retune.templates",
        "expectations.features",
        *loading,
    )
    train = _step(
        "train",
        {
            "chats": formatting.fingerprint,
            "model": model,
            "effective_batch": recipe.training.batch_size * recipe.training.gradient_accumulation,
            **recipe.training.model_dump(exclude=RUNNING),
        },
        *("retune.child", "trl", "unsloth", "liger-kernel"),
        *(*with_models, *loading),
    )
    evaluate = _step(
        "evaluate",
        {"adapter": train.fingerprint, **recipe.evaluation.model_dump(exclude={"batch_size"})},
        *("retune.held_out", "retune.chat", "retune.templates", *with_models, *loading),
    )
    merge = _step(
        "merge",
        {
            "adapter": train.fingerprint,
            "base_16bit": pins.base_16bit,
            **recipe.merging.model_dump(exclude={"base_16bit", "base_16bit_revision"}),
        },
        *(*with_models, *loading),
    )
    quantization, methods = recipe.quantization, recipe.quantization.methods
    llamacpp = {"name": recipe.name, "llama.cpp": locate().root.name}
    code = (
        *("retune.held_out", "retune.llamacpp", "retune.loaders", "retune.modelfile"),
        "retune.templates",
    )
    # What every file is measured by; the source is compared with what evaluate saw.
    measured = quantization.model_dump(include={"context", "perplexity_rows", "answer_rows"})
    measured["calibrates"] = quantization.calibrates
    convert = _step(
        "convert",
        {
            "merged": merge.fingerprint,
            "scores": evaluate.fingerprint,
            "gate": quantization.gate("bf16").model_dump(),
            **llamacpp,
            **measured,
        },
        *code,
    )
    calibrate = _step(
        "calibrate",
        {"source": convert.fingerprint, "rows": quantization.imatrix_rows, **llamacpp},
        *code,
    )
    quantize = tuple(
        _step(
            "quantize",
            {
                "source": convert.fingerprint,
                "imatrix": calibrate.fingerprint if quantization.uses_imatrix(method) else None,
                "method": method,
                "gate": quantization.gate(method).model_dump(),
                **llamacpp,
            },
            *code,
        )
        for method in methods
    )
    shipped = [evaluate, *([merge, *quantize] if merging else [train])]
    publish = _step(
        "publish",
        {"parts": [step.fingerprint for step in shipped], **recipe.publishing.model_dump()},
        *("retune.escaping", "retune.documents", "retune.modelfile", "huggingface-hub"),
    )
    return Plan(
        conform=conform,
        fetch=fetch,
        validation=validation,
        formatting=formatting,
        train=train,
        evaluate=evaluate,
        merge=merge if merging else None,
        convert=convert if merging else None,
        calibrate=calibrate if merging and quantization.calibrates else None,
        quantize=quantize if merging else (),
        publish=publish if recipe.publishing.enabled else None,
    )


def _step(stage: str, settings: dict[str, Any], *made_with: str) -> Step:
    """Return a step whose key names its settings and the version of everything it is made with.

    `made_with` are modules of this project (`retune.chat`; the stage's own is always one) and
    installed packages (`torch`).
    """
    module = "quantize" if stage in ("convert", "calibrate") else stage
    versions = {name: _version(name) for name in (f"tasks.{module}", *made_with)}
    return Step(stage=stage, key=settings | {"made with": versions})


def _version(name: str) -> str:
    """Return an installed package's version, or the hash of a module of this project."""
    package = name.partition(".")[0]
    if package not in ("tasks", "expectations", "retune"):
        return version(name)
    spec = find_spec(name)
    assert spec is not None, name
    if not spec.submodule_search_locations:
        return sha256(Path(spec.origin or ""))[:16]
    sources = sorted(Path(spec.submodule_search_locations[0]).rglob("*.py"))
    return digest([sha256(source) for source in sources])
