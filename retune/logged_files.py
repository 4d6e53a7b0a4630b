"""GGUF files as models in MLflow: a table of them that can be sorted, over all runs."""

import re
from pathlib import Path

from retune.records import Gguf
from retune.tracking import Run, client

KIND = "GGUF"


def log_file(run: Run, gguf: Gguf, ships: bool) -> str:
    """Log a GGUF file as an output of `run`, with its measures, and return the model's id.

    The same file is one model, which several runs may give. Its bytes stay where they are.
    """
    model_id = _known(run, gguf.sha256) or _new(run, gguf)
    client().set_logged_model_tags(model_id, {"retune.ships": str(ships).lower()})
    run.log_output_model(model_id)
    return model_id


def _known(run: Run, sha256: str) -> str | None:
    """Return the id of the model that is this file in the experiment, None if it is new there."""
    models = client().search_logged_models(
        [run.experiment_id], f"tags.`retune.sha256` = '{sha256}'", max_results=1
    )
    return models[0].model_id if models else None


def _new(run: Run, gguf: Gguf) -> str:
    """Make the model of a file: the output of the run of its quantization, whose measures it has."""
    from mlflow.entities import Metric

    child = run.child(gguf.method)
    assert child, f"{gguf.method} was logged before"
    name = re.sub(r"[^\w-]", "-", Path(gguf.file).stem)[:100]  # MLflow refuses . / : and others
    model_id = (
        client()
        .create_logged_model(
            run.experiment_id,
            name,
            source_run_id=child.id,
            tags={"retune.sha256": gguf.sha256, "retune.path": gguf.uri(gguf.file)},
            params={"method": gguf.method, "file": gguf.file},
            model_type=KIND,
        )
        .model_id
    )
    ended = round(gguf.ended.timestamp() * 1000)
    metrics = [
        Metric(f"{gguf.step.stage}/{name}", value, ended, 0, model_id=model_id)
        for name, value in gguf.metrics.items()
    ]
    client().log_batch(child.id, metrics)
    return client().finalize_logged_model(model_id, "READY").model_id
