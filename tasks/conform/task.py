"""conform: base model, tokenizer and chat template fit each other and llama.cpp, before any GPU time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from prefect import get_run_logger
from prefect.artifacts import create_table_artifact
from pydantic import BaseModel

from retune import llamacpp
from retune.chat import chatml_tokenizer
from retune.config import Model
from retune.escaping import markdown, table, visible
from retune.inspection import inspect_base
from retune.loaders import admit
from retune.records import Conformance, Pins
from retune.sources import unchanged
from retune.workspace import Step, building
from tasks.conform.checks import Check, tokenizer_checks
from tasks.conform.parity import Parity, gguf_checks, save_tiny
from tasks.stage import stage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ConformanceError(ValueError):
    """What would be trained could not be served as it was trained; the message names every case."""


class Report(BaseModel):
    """Everything that was checked; `parity` is None if there was no GGUF to compare with."""

    base: str
    chat_tokens: str
    tokenizer: str
    checks: list[Check]
    parity: Parity | None

    @property
    def failed(self) -> list[Check]:
        return self._not_passed("critical")

    @property
    def warnings(self) -> list[Check]:
        return self._not_passed("warning")

    def _not_passed(self, severity: str) -> list[Check]:
        return [c for c in self.checks if not c.passed and c.severity == severity]


@stage(name="conform")
def conform(model: Model, pins: Pins, step: Step, gguf: bool = True) -> Conformance:
    """Prove that what this recipe trains can be asked and served as it is trained; no weights needed.

    Without `gguf` files to come, llama.cpp has no say.
    """
    inspect_base(model, pins.model, weights=False)
    with building(step) as build, unchanged(model.base, pins.model, "model.base"):
        report = examine(model, pins.commit(pins.model), gguf)
        (build.path / "report.json").write_text(report.model_dump_json(indent=1))
        _show(report)
        require_passed(report)
        metrics = {"checks": len(report.checks)}
        if report.parity:
            metrics["texts"] = sum(report.parity.texts.values())
            metrics["texts/decomposed_differ"] = report.parity.decomposed
        code = model.trust_remote_code or "none"
        return build.finish(
            Conformance, metrics=metrics, params={"custom_code": code}, files=("report.json",)
        )


def examine(model: Model, revision: str | None, gguf: bool) -> Report:
    """Check tokenizer and template of `model`, and if there will be a `gguf`, a tiny one with them.

    Raises ChatFormatError for a base that cannot be brought into ChatML at all.
    """
    admit(model, revision)
    tokenizer = chatml_tokenizer(model.base, revision, model.chat_tokens)
    checks = [*tokenizer_checks(tokenizer, model.chat_tokens)]
    parity = None
    if gguf:
        found, parity = _in_llamacpp(model, revision, tokenizer)
        checks += found
    return Report(
        base=model.base,
        chat_tokens=model.chat_tokens,
        tokenizer=type(tokenizer).__name__,
        checks=checks,
        parity=parity,
    )


def _in_llamacpp(
    model: Model, revision: str | None, tokenizer: "PreTrainedTokenizerBase"
) -> tuple[list[Check], Parity | None]:
    try:
        with _tiny_gguf(model, revision, tokenizer) as gguf:
            found, parity = gguf_checks(gguf, tokenizer)
            return [_converted(passed=True, seen="converts"), *found], parity
    except llamacpp.ConversionFailed as error:
        reason = str(error).splitlines()[-1]  # before it the converter says more than helps
        return [_converted(passed=False, seen=f"the tokenizer of {model.base}: {reason}")], None


@contextmanager
def _tiny_gguf(
    model: Model, revision: str | None, tokenizer: "PreTrainedTokenizerBase"
) -> Iterator[Path]:
    with TemporaryDirectory(prefix="retune-conform-") as scratch:
        folder, gguf = Path(scratch, "tiny"), Path(scratch, "tiny.gguf")
        save_tiny(model, revision, tokenizer, folder)
        llamacpp.convert(folder, gguf)
        yield gguf


def _converted(passed: bool, seen: str) -> Check:
    return Check(
        name="llama.cpp's converter knows model and tokenizer",
        passed=passed,
        seen=seen,
        fix="choose a model.base that llama.cpp supports, or set merging.save_method=lora: then there "
        "are no GGUF files",
    )


def require_passed(report: Report) -> None:
    """Raise ConformanceError that names every failed check with what was seen and the fix."""
    if report.failed:
        lines = "\n".join(f"- {_told(check)}" for check in report.failed)
        raise ConformanceError(
            f"{visible(report.base)} cannot be trained and served as the recipe wants: "
            f"{len(report.failed)} of {len(report.checks)} checks failed\n{lines}"
        )


def _told(check: Check) -> str:
    """Return a check in words, what the base's files say as what it is: no line of ours."""
    seen = "\n  ".join(map(visible, check.seen.splitlines()))
    return str(check.model_copy(update={"seen": seen}))


def _outcome(check: Check) -> str:
    if check.passed:
        return "passed"
    return "FAILED" if check.severity == "critical" else check.severity


def _show(report: Report) -> None:
    create_table_artifact(
        key="conformance",
        table=table(
            {"result": _outcome(check), "check": check.name, "seen": check.seen}
            for check in sorted(report.checks, key=lambda check: check.passed)
        ),
        # A description is Markdown to Prefect, a cell is text.
        description=f"Tokenizer and chat template of {markdown(report.base)}",
    )
    logger = get_run_logger()
    passed = len(report.checks) - len(report.failed)
    compared = sum(report.parity.texts.values()) if report.parity else 0
    logger.info(
        "%d of %d checks of tokenizer and chat template passed, %s texts compared with llama.cpp",
        *(passed, len(report.checks), f"{compared:,}"),
    )
    for check in report.warnings:
        logger.warning("%s", _told(check))
    if report.parity and report.parity.decomposed:
        logger.warning(
            "llama.cpp does not compose characters as this tokenizer does: %s texts with accents "
            "written apart from their letters are read differently",
            f"{report.parity.decomposed:,}",
        )
