"""quantize: one conversion of the merged model to GGUF, then one quantization per method.

Every file is measured and answers held-out questions. `expectations.gguf_files` judges: the 16-bit one
must answer as the model that was evaluated did, or nothing ships; each quant must stay near the
16-bit one, or it does not ship.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from prefect import get_run_logger

from retune import held_out, llamacpp
from retune.building import Build, building
from retune.child import run_child
from retune.disk_space import require_space
from retune.files import sha256, size
from retune.machine import cores
from retune.measures import format_bytes
from retune.outputs import Step
from retune.recipe import Quantization, Recipe
from retune.recipe.methods import SOURCE
from retune.records import Chats, Gguf, Imatrix, Merged, Pins
from tasks.quantize.child import FidelityJob
from tasks.quantize.fidelity import by_row
from tasks.quantize.measures import answer, measure, size_of, summed_up, threads
from tasks.stage import stage

CHILD = Path(__file__).with_name("child.py")
LOGITS = "logits.bin"
TEXT = "held_out.txt"
ANSWERS = "answers.json"  # for the judges; as it quotes rows, it stays in the output's folder


@stage(name="convert")
def convert(merged: Merged, chats: Chats, recipe: Recipe, pins: Pins, step: Step) -> Gguf:
    """Convert the merged checkpoint once, and let it answer as it was evaluated. The quants' yardstick.

    Raises TextTooShort if there is too little to measure on.
    """
    config = recipe.quantization
    with building(step) as build:
        require_space_to_convert(merged, chats, config, build.path)
        out = build.path / f"{recipe.name}-{SOURCE.upper()}.gguf"
        llamacpp.convert(merged.path, out, dtype=SOURCE, name=recipe.name)
        questions = asked(chats, recipe)
        answered = answer(out, questions, recipe)
        fidelity = compared(out, chats, recipe, answered.answers, build)
        params = fidelity["ends"] | {"prompts": fidelity["fault"]} | answered_by(answered)
        rows = held_out.measured_rows(chats.held_out, config)
        (build.path / TEXT).write_text(held_out.text(chats.held_out, 0, rows), encoding="utf-8")
        with naming_settings("perplexity_rows"):
            perplexity = llamacpp.perplexity(
                out, build.path / TEXT, config.context, threads(config), build.path / LOGITS
            )
        if fidelity["modelfile"]:
            modelfile_of(out).write_text(fidelity["modelfile"], encoding="utf-8")
        metrics = {"same_prompts": fidelity["share"], "perplexity": perplexity} | size_of(out)
        metrics |= summed_up(questions, answered)
        write_answers(build.path, by_row(questions, answered.answers))
        return finish(build, out, SOURCE, metrics, params)


def asked(chats: Chats, recipe: Recipe) -> list[held_out.Question]:
    """Return the questions that every file is asked."""
    rows = recipe.quantization.answer_rows
    return held_out.questions(chats.held_out, rows, recipe.model.max_length)


def compared(
    gguf: Path, chats: Chats, recipe: Recipe, answers: Sequence[llamacpp.Answer], build: Build
) -> dict[str, Any]:
    """Return what the tokenizer that was trained with says of the GGUF (see `tasks.quantize.child`)."""
    job = FidelityJob(
        gguf=gguf,
        tokenizer=chats.tokenizer,
        held_out=chats.held_out,
        answer_rows=recipe.quantization.answer_rows,
        max_length=recipe.model.max_length,
        prompt_tokens=[answer.prompt_tokens for answer in answers],
    )
    return run_child(CHILD, job, build.path / "fidelity.log", forked=True)


def require_space_to_convert(
    merged: Merged, chats: Chats, config: Quantization, folder: Path
) -> None:
    """Raise NoSpaceLeft unless there is room for the GGUF and its logits (often the larger part)."""
    rows = held_out.measured_rows(chats.held_out, config)
    tokens = held_out.token_count(chats.held_out, rows)
    vocabulary = llamacpp.embeddings(merged.path) or 0
    logits = llamacpp.KeptLogits(config.context, vocabulary, tokens // config.context)
    subject = f"the 16-bit GGUF with its logits on {tokens:,} held-out tokens"
    require_space(folder, size(merged.path) + logits.size, subject, "quantization.perplexity_rows")


@stage(name="calibrate")
def calibrate(source: Gguf, chats: Chats, recipe: Recipe, pins: Pins, step: Step) -> Imatrix:
    """Make the importance matrix, of held-out conversations that no quant is measured on."""
    config = recipe.quantization
    with building(step) as build:
        first = held_out.measured_rows(chats.held_out, config)
        text = build.path / TEXT
        text.write_text(held_out.text(chats.held_out, first, config.imatrix_rows), encoding="utf-8")
        imatrix = build.path / "imatrix.gguf"
        with naming_settings("imatrix_rows"):
            chunks = llamacpp.calibrate(source.path, text, imatrix, config.context, threads(config))
        metrics = {"chunks": chunks, "tokens": chunks * config.context}
        return build.finish(Imatrix, metrics=metrics, models=(imatrix.name,))


@stage(name="quantize", task_run_name="quantize {method}")
def quantize(
    source: Gguf,
    imatrix: Imatrix | None,
    chats: Chats,
    method: str,
    recipe: Recipe,
    pins: Pins,
    step: Step,
) -> Gguf:
    """Quantize by one method, measure against the 16-bit GGUF, and answer held-out questions."""
    config = recipe.quantization
    with building(step) as build:
        out = build.path / f"{recipe.name}-{method.upper()}.gguf"
        weights = imatrix.path if imatrix and config.uses_imatrix(method) else None
        # All cores: llama-quantize's threads wait for none, and the last method has the machine alone.
        llamacpp.quantize(source.path, out, method, cores(), weights)
        metrics, answers, failure, params = measured_quant(out, source, chats, recipe)
        get_run_logger().info(
            "%s: %s, by llama.cpp %s%s",
            *(
                method,
                format_bytes(out.stat().st_size),
                llamacpp.locate(),
                failure and f"; {failure}",
            ),
        )
        pattern = modelfile_of(source.path)
        if pattern.exists():
            text = pattern.read_text(encoding="utf-8").replace(source.file, out.name)
            modelfile_of(out).write_text(text, encoding="utf-8")
        write_answers(build.path, answers)
        return finish(build, out, method, metrics, params, failure)


def measured_quant(
    gguf: Path, source: Gguf, chats: Chats, recipe: Recipe
) -> tuple[dict[str, float], list[dict[str, Any]], str, dict[str, str]]:
    """Return what was measured of a quant, its answers, why llama.cpp cannot use it, if so, and what
    answered.

    Raises LlamaCppStopped: then nothing is known of the file.
    """
    questions = asked(chats, recipe)
    try:
        perplexity = source.metrics["perplexity"]
        metrics = measure(gguf, source.folder / LOGITS, perplexity, recipe.quantization)
        answered = answer(gguf, questions, recipe)
    except llamacpp.LlamaCppStopped:
        raise
    except llamacpp.LlamaCppFailed as error:
        return {"bytes": gguf.stat().st_size}, [], f"it does not load: {error}", {}
    metrics |= summed_up(questions, answered, source)
    return metrics, by_row(questions, answered.answers), "", answered_by(answered)


def answered_by(answered: llamacpp.Answered) -> dict[str, str]:
    """Return what answered, by which tokens per second are to be read."""
    return {"answered_by": "GPU" if answered.on_gpu else "CPU"}


def finish(
    build: Build,
    out: Path,
    method: str,
    metrics: dict[str, float],
    params: Mapping[str, str] = MappingProxyType({}),
    failure: str = "",
) -> Gguf:
    """Return the record of a GGUF and its Modelfile, if it has one."""
    ollama = (modelfile_of(out).name,) if modelfile_of(out).exists() else ()
    digest = sha256(out)
    return build.finish(
        Gguf,
        hashed={out.name: digest},
        method=method,
        file=out.name,
        bytes=out.stat().st_size,
        sha256=digest,
        failure=failure,
        metrics=metrics,
        params={"method": method, "llama.cpp": str(llamacpp.locate()), **params},
        files=ollama,
        models=(out.name,),
    )


def write_answers(folder: Path, answers: list[dict[str, Any]]) -> None:
    text = json.dumps(answers, indent=1, ensure_ascii=False)
    (folder / ANSWERS).write_text(text, encoding="utf-8")


def modelfile_of(gguf: Path) -> Path:
    return gguf.with_suffix(".Modelfile")


@contextmanager
def naming_settings(rows: str) -> Iterator[None]:
    """Say which settings make a text longer, if it is too short."""
    try:
        yield
    except llamacpp.TextTooShort as error:
        raise llamacpp.TextTooShort(
            f"{error} (quantization.{rows}, quantization.context; formatting.held_out_share says how "
            f"many conversations are held out, with an importance matrix half of them are measured)"
        ) from error
