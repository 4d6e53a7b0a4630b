"""A tiny model with the tokenizer to be trained with went the way to llama.cpp, and is compared."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import BaseModel

from retune import llamacpp
from retune.control_texts import control_texts
from retune.records import Check
from tasks.conform.readings import PromptCase, TokenReading
from tasks.conform.texts import PER_KIND

SHOWN = 20  # differing texts in the report
# For a handful of prompts of a tiny model. llama.cpp's own template engine has no limits.
ANSWER_SECONDS = 120
ANSWER_MEMORY = 8 << 30  # bytes
# For each text its token ids in training and by llama.cpp.
Readings: TypeAlias = list[tuple[list[int], list[int]]]


class Difference(BaseModel):
    """A text that the two read as different token ids."""

    kind: str
    text: str
    hugging_face: list[int]
    llama_cpp: list[int]

    def __str__(self) -> str:
        return (
            f"{self.text!r} is {self.hugging_face} in Hugging Face's tokenizer and {self.llama_cpp} "
            f"in llama.cpp's"
        )


class Parity(BaseModel):
    """How many texts of each kind were compared, how many of them differ, and the first that do.

    `decomposed` counts texts that differ only because llama.cpp does not compose characters.
    """

    texts: dict[str, int]
    differing_texts: dict[str, int]
    differing: list[Difference]
    decomposed: int


def gguf_checks(
    gguf: Path, trained: TokenReading, probes: Sequence[llamacpp.TokenProbe] = ()
) -> tuple[list[Check], Parity]:
    """Return what is to be known from a GGUF with the tokenizer that reads texts as `trained` says, and
    how llama.cpp reads them.

    Raises ConversionFailed if it reads a control token of `probes` otherwise, LlamaCppFailed.
    """
    with ThreadPoolExecutor(2) as pool:  # llama.cpp answers while it reads here
        prompts = pool.submit(copy_context().run, _prompts, gguf, trained.cases)
        quantized = pool.submit(copy_context().run, quantizable, gguf)
        # All at once: each start of llama.cpp loads the vocabulary.
        texts = [*(probe["text"] for probe in probes), *trained.texts]
        theirs = llamacpp.tokenize(gguf, texts, add_special=False)
        llamacpp.require_same_tokens(probes, theirs[: len(probes)])
        readings = list(zip(trained.ids.rows(), theirs[len(probes) :], strict=True))
        words = trained.words_like_control
        control = _control_texts(words, readings[: len(words)])
        same_tokens, parity = _same_tokens(
            trained.samples, readings[len(words) :], trained.composes
        )
        asked = [prompts.result(), control, same_tokens, quantized.result()]
        return [*header_checks(gguf, trained), *asked], parity


def quantizable(gguf: Path) -> Check:
    """Ask for the size of a quant: without llama.cpp's own quantizer few architectures have one."""
    try:
        outcome = f"{llamacpp.quantized_size(gguf, 'q8_0'):,} bytes by q8_0"
    except llamacpp.LlamaCppFailed as error:
        # The last line says that it failed, and the one before why.
        outcome, passed = "; ".join(str(error).splitlines()[-2:]), False
    else:
        passed = True
    return Check(
        name="llama.cpp can quantize the model",
        passed=passed,
        seen=f"{outcome} ({llamacpp.locate()})",
        fix="choose a model.base that llama.cpp supports, or do what is said to be missing",
    )


def header_checks(gguf: Path, trained: TokenReading) -> list[Check]:
    """Compare what programs read in the file before they ask it anything."""
    fields = llamacpp.header(gguf).fields

    def value(name: str) -> Any:
        return fields[name].contents() if name in fields else None

    template, eos = value("tokenizer.chat_template"), value("tokenizer.ggml.eos_token_id")
    return [
        Check(
            name="the GGUF carries the chat template",
            passed=template == trained.template,
            seen="the tokenizer's" if template == trained.template else f"{template!r:.200}",
            fix="save chat_template.jinja beside tokenizer.json before converting",
        ),
        Check(
            name="the GGUF's EOS is the tokenizer's",
            passed=eos == trained.eos_id,
            seen=f"{eos}; the tokenizer's is {trained.eos_id} ({trained.eos!r})",
            fix="set eos_token_id in the base's config.json to the tokenizer's",
        ),
    ]


def _prompts(gguf: Path, cases: Sequence[PromptCase]) -> Check:
    """Load the model and ask it: llama.cpp's own template engine must make the trained prompts.

    It says how many tokens it made of each. A program that is given the text adds BOS by itself.
    """
    name = "llama.cpp makes the prompts that are trained"
    fix = (
        "if llama.cpp speaks of the template, simplify chat_template; else choose a model.base that it "
        "supports, or set merging.save_method=lora: then there are no GGUF files"
    )
    if not cases:
        return Check(name=name, passed=False, seen="the template renders none", fix=fix)
    try:
        answered = llamacpp.answers(
            gguf,
            [case.chat for case in cases],
            max_tokens=1,
            threads=1,
            seconds=ANSWER_SECONDS,
            memory=ANSWER_MEMORY,
            prompts=[case.text for case in cases],
        )
    except llamacpp.LlamaCppFailed as error:
        return Check(name=name, passed=False, seen=str(error), fix=fix)
    counts = [answer.prompt_tokens for answer in answered.answers]
    for case, count, parsed in zip(cases, counts, answered.prompt_ids, strict=True):
        text, ids = case.text, case.ids
        if count != len(ids):
            difference = f"{count} tokens instead of {len(ids)} for the conversation of {text!r}"
            return Check(name=name, passed=False, seen=difference, fix=fix)
        if parsed != ids:
            difference = f"{text!r} is read as {parsed}, in training as {ids}"
            fix = "look at BOS: add_bos_token in tokenizer_config.json, bos_token in the template"
            return Check(name=name, passed=False, seen=difference, fix=fix)
    return Check(name=name, passed=True, seen=f"the same tokens in {len(cases)} conversations")


def _control_texts(words: Sequence[str], readings: Readings) -> Check:
    """Find words, by the readings of texts with them, that llama.cpp takes for control tokens.

    Those of `retune.control_texts` are a flaw of the rows that hold them; there must be no others.
    """
    taken = [word for word, (ours, theirs) in zip(words, readings, strict=True) if ours != theirs]
    known = control_texts(taken)
    unknown = sorted(set(taken) - set(known))
    observed = f"of {len(words):,} that look like one, {' '.join(known) or 'none'}"
    return Check(
        name="llama.cpp takes no text for a control token that is none",
        passed=not unknown,
        seen=f"{' '.join(unknown[:SHOWN])} as well" if unknown else observed,
        fix="choose a model.base whose tokenizer llama.cpp supports",
    )


def _same_tokens(
    samples: Sequence[tuple[str, str]], readings: Readings, composes: bool
) -> tuple[Check, Parity]:
    """Compare the token ids of varied texts, odd on purpose: what differs is told and refuses nothing.
    How many rows of a dataset differ is counted when they are known (`tasks.conform.rows`).

    llama.cpp leaves out a normalizer that `composes` characters (Qwen's NFC): with one of these a text
    that is not composed is compared and counted, but not held against the tokenizer.
    """
    differing = [
        Difference(kind=kind, text=text, hugging_face=ours, llama_cpp=theirs)
        for (kind, text), (ours, theirs) in zip(samples, readings, strict=True)
        if ours != theirs
    ]
    decomposed = [d for d in differing if composes and not unicodedata.is_normalized("NFC", d.text)]
    wrong = [difference for difference in differing if difference not in decomposed]
    by_kind = Counter(difference.kind for difference in wrong)
    kinds = ", ".join(f"{kind} {count}" for kind, count in by_kind.most_common())
    check = Check(
        name="llama.cpp reads odd texts as training does",
        passed=not wrong,
        seen=f"{len(wrong):,} of {len(samples):,} differ"
        + (f" ({kinds}, of {PER_KIND} each), e.g. {wrong[0]}" if wrong else ""),
        fix="see to it that the dataset has few such texts; quantization.max_differing_rows limits them",
        severity="warning",
    )
    return check, Parity(
        texts=Counter(kind for kind, _ in samples),
        differing_texts=by_kind,
        differing=wrong[:SHOWN],
        decomposed=len(decomposed),
    )
