"""quantize: one conversion of the merged model to GGUF, then one quantization per method.

Every file is measured and answers held-out questions. The 16-bit one must answer as the model that
was evaluated did, or nothing ships; each quant must stay near the 16-bit one, or it does not ship.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect import get_run_logger

from retune import held_out, llamacpp
from retune.config import Quantization, Recipe
from retune.loaders import load_tokenizer
from retune.machine import cores
from retune.modelfile import modelfile
from retune.records import Chats, Gguf, Imatrix, Merged, Scores
from retune.workspace import Build, Step, building, require_space, sha256, size
from tasks.quantize.fidelity import (
    GgufMismatch,
    differing,
    pair_up,
    require_answers,
    require_end_of_turn,
    require_prompts,
)
from tasks.quantize.measures import answer, measure, size_of, summed_up, threads
from tasks.quantize.report import report
from tasks.quantize.verdict import verdict
from tasks.stage import stage

__all__ = ["GgufMismatch", "calibrate", "convert", "quantize", "report"]

SOURCE_METHOD = "bf16"  # f16 would change weights that bf16 training can reach
LOGITS = "logits.bin"
TEXT = "held_out.txt"
ANSWERS = "differing_answers.json"


@stage(name="convert")
def convert(merged: Merged, chats: Chats, scores: Scores, recipe: Recipe, step: Step) -> Gguf:
    """Convert the merged checkpoint once; it must answer as evaluated. The quants' yardstick.

    Raises GgufMismatch, or TextTooShort if there is too little to measure on.
    """
    config = recipe.quantization
    with building(step) as build:
        require_space_to_convert(merged, chats, config, build.path)
        out = build.path / f"{recipe.name}-{SOURCE_METHOD.upper()}.gguf"
        llamacpp.convert(merged.path, out, dtype=SOURCE_METHOD, name=recipe.name)
        asked = held_out.questions(chats.held_out, config.answer_rows)
        given = answer(out, asked, recipe)
        tokenizer = load_tokenizer(chats.tokenizer)
        require_end_of_turn(out, tokenizer)
        metrics = {"same_prompts": require_prompts(tokenizer, asked, given.answers)}
        if pairs := pair_up(asked, given.answers, scores):
            metrics["same_answers"] = require_answers(pairs, config.gate(SOURCE_METHOD))
        table = json.dumps(differing(pairs), indent=1, ensure_ascii=False)
        (build.path / ANSWERS).write_text(table, encoding="utf-8")
        most = held_out.measured_rows(chats.held_out, config)
        (build.path / TEXT).write_text(held_out.text(chats.held_out, 0, most), encoding="utf-8")
        with naming_settings("perplexity_rows"):
            perplexity = llamacpp.perplexity(
                out, build.path / TEXT, config.context, threads(config), build.path / LOGITS
            )
        if ollama := modelfile(out.name, tokenizer):
            modelfile_of(out).write_text(ollama, encoding="utf-8")
        metrics |= size_of(out) | {"perplexity": perplexity} | summed_up(asked, given)
        return finish(build, out, SOURCE_METHOD, metrics, files=(ANSWERS,))


def require_space_to_convert(
    merged: Merged, chats: Chats, config: Quantization, folder: Path
) -> None:
    """Raise NoSpaceLeft unless there is room for the GGUF and its logits (often the larger part)."""
    most = held_out.measured_rows(chats.held_out, config)
    tokens = held_out.token_count(chats.held_out, most)
    # Models of several parts name it deeper; of them only the GGUF itself is counted.
    vocabulary = json.loads((merged.path / "config.json").read_text()).get("vocab_size", 0)
    logits = llamacpp.KeptLogits(config.context, vocabulary, tokens // config.context)
    what = f"the 16-bit GGUF with its logits on {tokens:,} held-out tokens"
    require_space(folder, size(merged.path) + logits.size, what, "quantization.perplexity_rows")


@stage(name="calibrate")
def calibrate(source: Gguf, chats: Chats, recipe: Recipe, step: Step) -> Imatrix:
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
    source: Gguf, imatrix: Imatrix | None, chats: Chats, method: str, recipe: Recipe, step: Step
) -> Gguf:
    """Quantize by one method, measure against the 16-bit GGUF, and answer held-out questions."""
    config = recipe.quantization
    with building(step) as build:
        out = build.path / f"{recipe.name}-{method.upper()}.gguf"
        weights = imatrix.path if imatrix and config.uses_imatrix(method) else None
        # All cores: llama-quantize's threads wait for none, and the last method has the machine alone.
        llamacpp.quantize(source.path, out, method, cores(), weights)
        metrics, reason = judge(out, source, chats, method, recipe)
        get_run_logger().info(
            "%s: %.1f MB, by llama.cpp %s%s",
            method,
            out.stat().st_size / 1e6,
            llamacpp.locate(),
            reason and f", not shipped: {reason}",
        )
        pattern = modelfile_of(source.path)
        if pattern.exists():
            text = pattern.read_text(encoding="utf-8").replace(source.file, out.name)
            modelfile_of(out).write_text(text, encoding="utf-8")
        return finish(build, out, method, metrics, reason)


def judge(
    gguf: Path, source: Gguf, chats: Chats, method: str, recipe: Recipe
) -> tuple[dict[str, float], str]:
    """Return what was measured of a quant, and why it must not ship, if so.

    A file that llama.cpp cannot load or compute with is such a file. Raises LlamaCppStopped: then
    nothing is known of the file.
    """
    asked = held_out.questions(chats.held_out, recipe.quantization.answer_rows)
    try:
        metrics = measure(gguf, source.folder / LOGITS, recipe.quantization)
        given = answer(gguf, asked, recipe)
    except llamacpp.LlamaCppStopped:
        raise
    except llamacpp.LlamaCppFailed as error:
        return {"bytes": gguf.stat().st_size}, f"it does not load: {error}"
    metrics |= summed_up(asked, given)
    return metrics, verdict(metrics, source.metrics, recipe.quantization, method)


def finish(
    build: Build,
    out: Path,
    method: str,
    metrics: dict[str, float],
    reason: str = "",
    files: tuple[str, ...] = (),
) -> Gguf:
    """Return the record of a GGUF and its Modelfile, if it has one."""
    ollama = (modelfile_of(out).name,) if modelfile_of(out).exists() else ()
    return build.finish(
        Gguf,
        method=method,
        file=out.name,
        bytes=out.stat().st_size,
        sha256=sha256(out),
        ships=not reason,
        reason=reason,
        metrics=metrics,
        params={"method": method, "llama.cpp": str(llamacpp.locate())}
        | ({"not_shipped": reason} if reason else {}),
        files=(*files, *ollama),
        models=(out.name,),
    )


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
