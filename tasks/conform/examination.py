"""The examination of a base model: all that can be known before anything is trained."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from pydantic import BaseModel

from retune import llamacpp
from retune.architecture import Architecture
from retune.child import ChildFailed, Event, run_child
from retune.recipe import Model
from retune.records import Check
from tasks.conform.base_child import TINY, BaseJob
from tasks.conform.parity import Parity, gguf_checks
from tasks.conform.readings import TokenReading

OF_BASE, OF_GGUF = (Path(__file__).with_name(name) for name in ("base_child.py", "gguf_child.py"))
Result = TypeVar("Result")


class ExaminationReport(BaseModel):
    """Everything that was checked; `parity` is None if there was no GGUF to compare with.

    Which of the layers are trained is the recipe's matter, and judged with it.
    """

    base: str
    chat_tokens: str
    tokenizer: str
    checks: list[Check]
    parity: Parity | None
    architecture: Architecture


def examine(
    model: Model,
    revision: str | None,
    gguf: Path | None,
    train_on: str = "all",
    folder: Path | None = None,
) -> ExaminationReport:
    """Check tokenizer and template of `model`, and with a path `gguf`, a tiny one made there of them.

    The model is a stranger's: it is looked at by children. A `folder` keeps their logs, and in `twin/`
    what a rehearsal takes, unless the base brings code. `train_on` is the recipe's (see
    `retune.labels.labels_of`).

    Raises ChildRefused for a base that cannot be brought into ChatML at all.
    """
    with TemporaryDirectory(prefix="retune-conform-") as scratch:
        tiny = Path(scratch, "tiny") if gguf else None
        twin = folder / "twin" if folder and not model.trust_remote_code else None
        job = BaseJob(model=model, revision=revision, train_on=train_on, tiny=tiny, twin=twin)
        logs = folder or Path(scratch)

        def converted() -> tuple[list[Check], Parity | None]:
            assert gguf
            assert tiny
            return _in_llamacpp(model, tiny, gguf)

        hub = revision is not None
        with _begun_by(TINY, converted) as (on_event, results):
            found = run_child(OF_BASE, job, logs / "base.log", on_event, hub=hub, forked=True)
            in_llamacpp = [result.result() for result in results]
        checks = [Check.model_validate(check) for check in found["checks"]]
        parity = None
        for gguf_results, compared in in_llamacpp:
            checks += gguf_results
            parity = compared
    return ExaminationReport(
        base=model.base,
        chat_tokens=model.chat_tokens,
        tokenizer=found["tokenizer"],
        checks=checks,
        parity=parity,
        architecture=Architecture.model_validate(found["architecture"]),
    )


@contextmanager
def _begun_by(
    name: str, work: Callable[[], Result]
) -> Iterator[tuple[Callable[[Event], None], list[Future[Result]]]]:
    """Give what begins `work` when it hears the event `name`, and the list that its result is then in.

    It goes on beside what the child has left to do, within the same time limit, and is waited for.
    """
    results: list[Future[Result]] = []
    with ThreadPoolExecutor(1) as pool:

        def on_event(event: Event) -> None:
            if event["event"] == name:
                results.append(pool.submit(copy_context().run, work))

        yield on_event, results


def _in_llamacpp(model: Model, tiny: Path, gguf: Path) -> tuple[list[Check], Parity | None]:
    """Return what comes of the tiny model in llama.cpp."""
    results: list[tuple[list[Check], Parity]] = []

    def prove(partial: Path, found: Event) -> None:
        if "reading" not in found:
            raise ChildFailed(f"conform failed: {found['failure']}")
        trained = TokenReading.model_validate(found["reading"])
        results.append(gguf_checks(partial, trained, found["probes"]))

    try:
        llamacpp.convert(tiny, gguf, prove=prove, converter=OF_GGUF)
    except llamacpp.ConversionFailed as error:
        reason = str(error).splitlines()[-1]  # before it the converter says more than helps
        return [_converted(passed=False, seen=f"the tokenizer of {model.base}: {reason}")], None
    ((checks, parity),) = results
    return [_converted(passed=True, seen="converts"), *checks], parity


def _converted(passed: bool, seen: str) -> Check:
    return Check(
        name="llama.cpp's converter knows model and tokenizer",
        passed=passed,
        seen=seen,
        fix="choose a model.base that llama.cpp supports, or set merging.save_method=lora: then there "
        "are no GGUF files",
    )
