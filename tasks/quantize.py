"""quantize: one conversion of the merged model to GGUF, then one quantization per method."""

from pathlib import Path

from prefect import get_run_logger

from retune import held_out, llamacpp
from retune.config import Quantization
from retune.records import Chats, Gguf, Merged
from retune.workspace import Step, building, sha256
from tasks.stage import stage

SOURCE_METHOD = "bf16"  # f16 would change weights that bf16 training can reach
LOGITS = "logits.bin"
TEXT = "held_out.txt"


@stage(name="convert")
def convert(merged: Merged, chats: Chats, name: str, config: Quantization, step: Step) -> Gguf:
    """Convert the merged checkpoint once; measure it on held-out text as the quants' yardstick."""
    with building(step) as build:
        out = build.path / f"{name}-{SOURCE_METHOD.upper()}.gguf"
        llamacpp.convert(merged.path, out, dtype=SOURCE_METHOD, name=name)
        text = held_out.text(chats.held_out, config.perplexity_rows)
        (build.path / TEXT).write_text(text, encoding="utf-8")
        measured = llamacpp.perplexity(
            out, build.path / TEXT, config.context, config.threads, build.path / LOGITS
        )
        metrics = {"bytes": out.stat().st_size, "perplexity": measured.value}
        return build.finish(
            Gguf,
            method=SOURCE_METHOD,
            file=out.name,
            bytes=out.stat().st_size,
            sha256=sha256(out),
            metrics=metrics,
            models=(out.name,),
        )


@stage(name="quantize", task_run_name="quantize {method}")
def quantize(
    source: Gguf, chats: Chats, name: str, method: str, config: Quantization, step: Step
) -> Gguf:
    """Quantize by one method, measure against the 16-bit GGUF, and answer held-out questions."""
    with building(step) as build:
        out = build.path / f"{name}-{method.upper()}.gguf"
        llamacpp.quantize(source.path, out, method, config.threads)
        metrics = measure(out, source, config) | answer(out, chats.held_out, config)
        reason = verdict(metrics, config)
        get_run_logger().info(
            "%s: %.1f MB, perplexity %.3f%s",
            *(method, metrics["bytes"] / 1e6, metrics["perplexity"], reason and f"; {reason}"),
        )
        return build.finish(
            Gguf,
            method=method,
            file=out.name,
            bytes=out.stat().st_size,
            sha256=sha256(out),
            ships=not reason,
            reason=reason,
            metrics=metrics,
            params={"method": method},
            models=(out.name,),
        )


def measure(gguf: Path, source: Gguf, config: Quantization) -> dict[str, float]:
    """Return size (bytes, bits per weight), perplexity and divergence (nats) from the source."""
    facts = llamacpp.facts(gguf)
    seen = llamacpp.divergence(gguf, source.folder / LOGITS, config.context, config.threads)
    return {
        "bytes": facts.size,
        "bits_per_weight": facts.bits_per_weight,
        "perplexity": seen.perplexity,
        "perplexity_ratio": seen.perplexity_ratio,
        "kl_divergence": seen.mean,
        "same_top_token": seen.same_top,
    }


def answer(gguf: Path, rows: Path, config: Quantization) -> dict[str, float]:
    """Answer held-out questions through llama.cpp; return exact match and the share that ended.

    An answer that does not end by itself within `answer_tokens` counts as not stopped.
    """
    questions = held_out.questions(rows, config.answer_rows)
    given = llamacpp.answers(
        gguf, [question.prompt for question in questions], config.answer_tokens, config.threads
    )
    matches = [q.matches(a.text) for q, a in zip(questions, given, strict=True)]
    stopped = [a.finish_reason == "stop" for a in given]
    return {
        "exact_match": sum(matches) / len(matches),
        "stopped": sum(stopped) / len(stopped),
    }


def verdict(metrics: dict[str, float], config: Quantization) -> str:
    """Return why this quant must not ship, or nothing."""
    ratio = metrics["perplexity_ratio"]
    if ratio > config.max_perplexity_ratio:
        return (
            f"not shipped: its perplexity is {ratio:.3f} × the 16-bit model's, at most "
            f"{config.max_perplexity_ratio:g} × is allowed (quantization.max_perplexity_ratio)"
        )
    return ""
