"""Tokenizers, configurations and models from the Hub or a folder, without running what comes with them.

One function per kind: everything else in this project loads through these. A model may bring Python
code of its own (`auto_map`); it runs only where `admit` lets it, and no library may be talked into it
by something that a file says. Weights are read from safetensors alone: a pickle is a program.
"""

import copyreg
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from retune.errors import RetuneError
from retune.probes import PROBES

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from retune.recipe import Model

# What transformers runs a model's code with, and by what it decides to.
RUNNERS = ("get_class_in_module", "get_class_from_dynamic_module", "get_cached_module_file")
RESOLVER = "resolve_trust_remote_code"
# What makes other people's libraries run code, or is the trainer's own: not part of a model.
CODE_KEYS = ("auto_map", "custom_pipelines", "custom_generate")
OF_OFFSETS = "trim_offsets"  # of a byte-level pre-tokenizer
CODE_FILES = ("*.py", "training_args.bin")

_admitting = 0  # how deep in `_admitted` this process is


class CustomCodeRefused(RetuneError):
    """A model whose own code would have to run, and may not."""


class ModelUnreadable(RetuneError):
    """A tokenizer or configuration that transformers cannot make anything of."""


def load_tokenizer(name: str | Path, revision: str | None = None) -> "PreTrainedTokenizerBase":
    """Return a tokenizer that reads text as its `tokenizer.json` says, if it has one.

    Raises ModelUnreadable or CustomCodeRefused.
    """
    return read_tokenizer(name, revision)[0]


class Departure(NamedTuple):
    """A text that transformers' class of a tokenizer reads otherwise than its `tokenizer.json` says.

    Other programs, llama.cpp among them, read as the file says.
    """

    tokenizer_class: str
    text: str
    of_class: list[int]
    of_file: list[int]

    def __str__(self) -> str:
        return (
            f"{self.tokenizer_class} reads {self.text!r} as {self.of_class}, tokenizer.json says "
            f"{self.of_file}"
        )


def read_tokenizer(
    name: str | Path, revision: str | None = None
) -> tuple["PreTrainedTokenizerBase", Departure | None]:
    """Return what `load_tokenizer` does, and where transformers' class departs from the file, None if
    nowhere."""
    read = _read(name, revision)
    return read.tokenizer, read.departure


def described_tokenizer(
    name: str | Path, revision: str | None = None
) -> tuple["PreTrainedTokenizerBase", dict[str, Any]]:
    """Return what `load_tokenizer` does, and the tokenizer as a `tokenizer.json` of it would be."""
    read = _read(name, revision)
    if read.described and _adds(read.described) == _added(read.tokenizer):
        return read.tokenizer, read.described
    return read.tokenizer, json.loads(read.tokenizer.backend_tokenizer.to_str())


def _adds(described: dict[str, Any]) -> set[tuple[int, str, bool]]:
    return {(one["id"], one["content"], one["special"]) for one in described["added_tokens"]}


def _added(tokenizer: "PreTrainedTokenizerBase") -> set[tuple[int, str, bool]]:
    tokens = tokenizer.backend_tokenizer.get_added_tokens_decoder()
    return {(id_, token.content, token.special) for id_, token in tokens.items()}


class _Read(NamedTuple):
    """A tokenizer that reads text as its file says: where transformers' class departs from the file, and
    what the file says if that has been read and the class builds it so."""

    tokenizer: "PreTrainedTokenizerBase"
    departure: Departure | None = None
    described: dict[str, Any] | None = None


def _read(name: str | Path, revision: str | None) -> _Read:
    """Return a tokenizer as its file says. Raises as `load_tokenizer`."""
    from transformers import AutoTokenizer

    def advice() -> str:
        # Mistral's own tekken.json and tokenizer.model are read by a library of its own.
        if optional_file(name, "tokenizer.json", revision):
            return _name_another()
        return "it has no tokenizer.json: name a copy of the model in transformers' format, which has one"

    with _reading(name, "tokenizer", advice), backends_uncopied(), _descriptions() as described:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
        return _compared(tokenizer, name, revision, described)


@contextmanager
def backends_uncopied() -> Iterator[None]:
    """Let a copy of a tokenizer's backend be the backend itself, for the length of a block.

    transformers copies what it has just read or is given, which with 128,000 tokens takes a core a
    second or more; here nobody else has it.
    """
    from tokenizers import Tokenizer

    before = copyreg.dispatch_table.pop(Tokenizer, None)
    # By `copyreg` a class says how it is copied; a text says: not at all.
    copyreg.pickle(Tokenizer, lambda _: "the same")
    try:
        yield
    finally:
        del copyreg.dispatch_table[Tokenizer]
        if before:  # a block around this one
            copyreg.dispatch_table[Tokenizer] = before


@contextmanager
def _descriptions() -> Iterator[dict[str, Any]]:
    """Keep what transformers reads of `tokenizer.json`, by path, for the length of a block.

    As JSON 150,000 tokens and their merges take a core half a second or more.
    """
    from transformers import tokenization_utils_tokenizers as theirs

    described: dict[str, Any] = {}

    def load(file: Any, **options: Any) -> Any:
        content = json.load(file, **options)
        described[str(getattr(file, "name", ""))] = content
        return content

    theirs.json = SimpleNamespace(**vars(json) | {"load": load})  # type: ignore[assignment]
    try:
        yield described
    finally:
        theirs.json = json


def _compared(
    tokenizer: "PreTrainedTokenizerBase",
    name: str | Path,
    revision: str | None,
    described: dict[str, Any],
) -> _Read:
    """Return what transformers' class has built, unless its file says otherwise.

    transformers 5 builds the backend of its classes from the vocabulary alone, and some (GPT2Tokenizer,
    which SmolLM2 names) leave out how the file splits text beforehand. `described` is what has been read
    of files, by path."""
    from transformers import PreTrainedTokenizerFast

    named = type(tokenizer)
    if not tokenizer.is_fast or named is PreTrainedTokenizerFast:
        return _Read(tokenizer)
    if named.__module__.startswith("transformers_modules."):
        return _Read(tokenizer)  # the recipe admits its code
    file = optional_file(name, "tokenizer.json", revision)
    if file is None:
        return _Read(tokenizer)
    says = described.get(str(file)) or json.loads(file.read_text(encoding="utf-8"))
    if _built_alike(tokenizer, says):
        return _Read(tokenizer, described=says)
    as_file_says = PreTrainedTokenizerFast.from_pretrained(
        name, revision=revision or "main", trust_remote_code=False
    )
    of_class, of_file = (
        of.backend_tokenizer.encode_batch_fast(list(PROBES), add_special_tokens=False)
        for of in (tokenizer, as_file_says)
    )
    for text, mine, theirs in zip(PROBES, of_class, of_file, strict=True):
        if mine.ids != theirs.ids:
            departure = Departure(named.__name__, text, mine.ids, theirs.ids)
            return _Read(as_file_says, departure)
    return _Read(tokenizer)


def optional_file(name: str | Path, file: str, revision: str | None = None) -> Path | None:
    """Return the path of a model's file, of the Hub or a folder, None if the model has none such."""
    from transformers.utils import cached_file

    path = cached_file(
        str(name), file, revision=revision, _raise_exceptions_for_missing_entries=False
    )
    return Path(path) if path else None


def _built_alike(tokenizer: "PreTrainedTokenizerBase", says: dict[str, Any]) -> bool:
    """Tell whether a tokenizer has the parts that its file describes; cheaper than to build it."""
    backend = tokenizer.backend_tokenizer
    for name in ("normalizer", "pre_tokenizer"):
        part = getattr(backend, name)
        built = json.loads(part.__getstate__()) if part else None
        if _without_offsets(built) != _without_offsets(says[name]):
            return False
    model = says["model"]
    flags = ("byte_fallback", "ignore_merges", "fuse_unk")
    return all(bool(getattr(backend.model, flag, None)) == bool(model.get(flag)) for flag in flags)


def _without_offsets(part: Any) -> Any:
    """Return a part of a tokenizer without what changes the offsets of its tokens alone."""
    if isinstance(part, dict):
        return {key: _without_offsets(value) for key, value in part.items() if key != OF_OFFSETS}
    return [_without_offsets(one) for one in part] if isinstance(part, list) else part


def largest(config: Any, name: str) -> int:
    """Return a number of a configuration, the largest where each layer has its own, 0 for none."""
    value = getattr(config, name, None) or 0
    return max(value) if isinstance(value, list | tuple) else value


def head_size(config: Any) -> int:
    """Return the width of an attention head, which a configuration may leave to be computed."""
    return largest(config, "head_dim") or config.hidden_size // config.num_attention_heads


def load_config(name: str | Path, revision: str | None = None) -> "PretrainedConfig":
    """Return a model's configuration. Raises ModelUnreadable or CustomCodeRefused."""
    from transformers import AutoConfig

    with _reading(name, "config.json"):
        return AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)


def load_model(name: str, revision: str | None = None, **options: Any) -> "PreTrainedModel":
    """Return a causal language model with its weights; `options` are transformers'."""
    from transformers import AutoModelForCausalLM

    forbid_custom_code()
    return AutoModelForCausalLM.from_pretrained(
        name, revision=revision, trust_remote_code=False, use_safetensors=True, **options
    )


def new_model(config: "PretrainedConfig", dtype: Any) -> "PreTrainedModel":
    """Return a causal language model of this configuration with random weights."""
    from transformers import AutoModelForCausalLM

    forbid_custom_code()
    return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)


def load_classifier(name: str, revision: str | None = None, **options: Any) -> Any:
    """Return a sequence-classification model with its weights, as transformers' `options` ask for."""
    from transformers import AutoModelForSequenceClassification

    forbid_custom_code()
    return AutoModelForSequenceClassification.from_pretrained(
        name, revision=revision, trust_remote_code=False, use_safetensors=True, **options
    )


def _name_another() -> str:
    return "name a model that transformers knows"


@contextmanager
def _reading(
    name: str | Path, subject: str, advice: Callable[[], str] = _name_another
) -> Iterator[None]:
    """Turn what transformers says of files that it cannot read into one sentence, with `advice`.

    A missing file and a Hub that does not answer stay what they are.
    """
    forbid_custom_code()
    try:
        yield
    except (OSError, CustomCodeRefused):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or "no reason is given"
        raise ModelUnreadable(
            f"the {subject} of {name} cannot be read ({type(error).__name__}: {reason:.300}); {advice()}"
        ) from error


def forbid_custom_code() -> None:
    """Let nothing in this process run the code that comes with a model, whoever asks for it, and
    nothing ask the user whether it may. `admit` alone goes past this."""
    from transformers import dynamic_module_utils as dynamic

    for name in (*RUNNERS, RESOLVER):
        theirs = getattr(dynamic, name)
        if getattr(theirs, "of_retune", False):
            continue
        ours = _never_trusting(theirs) if name == RESOLVER else _refusing(theirs)
        ours.of_retune = True  # type: ignore[attr-defined]
        # Other modules of transformers have taken the function by its name already.
        for module in list(sys.modules.values()):
            if getattr(module, "__dict__", {}).get(name) is theirs:  # None bars an import
                setattr(module, name, ours)


def _refusing(theirs: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(theirs)
    def ours(*arguments: Any, **options: Any) -> Any:
        if not _admitting:
            raise CustomCodeRefused(_refusal("a model"))
        return theirs(*arguments, **options)

    return ours


def _never_trusting(theirs: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(theirs)
    def ours(
        trust_remote_code: bool | None,
        model_name: Any,
        has_local_code: bool,
        has_remote_code: bool,
        *_: Any,
        **__: Any,
    ) -> bool:
        if _admitting and trust_remote_code:
            return True
        if has_remote_code and not has_local_code:
            raise CustomCodeRefused(_refusal(model_name))
        return False

    return ours


def _refusal(model: Any) -> str:
    return (
        f"{model} brings Python code of its own, which is not run; choose a model that transformers "
        f"knows, or read the code and allow it with model.trust_remote_code"
    )


def admit(model: "Model", revision: str | None) -> None:
    """Make the base's own classes known in this process, if the recipe allows its code at `revision`.

    Call it before anything is loaded. From then on transformers finds the classes of such a model, and
    of what was trained of it, as it finds its own. Nothing happens for a recipe that allows none.
    """
    if not model.trusts(revision):
        return
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.models.auto.auto_factory import add_generation_mixin_to_remote_model

    with _admitted():
        options = {"revision": revision, "trust_remote_code": True}
        config = AutoConfig.from_pretrained(model.base, **options)
        if type(config).__module__.startswith("transformers_modules."):
            AutoConfig.register(config.model_type, type(config), exist_ok=True)
        brought = getattr(config, "auto_map", None) or {}
        if reference := brought.get("AutoModelForCausalLM"):
            model_class = add_generation_mixin_to_remote_model(
                _class(reference, model.base, revision)
            )
            model_class.config_class = type(config)
            AutoModelForCausalLM.register(type(config), model_class, exist_ok=True)
        tokenizer = type(AutoTokenizer.from_pretrained(model.base, **options))
        if tokenizer.__module__.startswith("transformers_modules."):
            AutoTokenizer.register(type(config), tokenizer, exist_ok=True)


def _class(reference: str, name: str, revision: str | None) -> Any:
    from transformers import dynamic_module_utils as dynamic

    return dynamic.get_class_from_dynamic_module(reference, name, revision=revision)


@contextmanager
def _admitted() -> Iterator[None]:
    global _admitting
    forbid_custom_code()
    _admitting += 1
    try:
        yield
    finally:
        _admitting -= 1


def strip_code(folder: Path) -> None:
    """Remove from a model that we wrote to `folder` what would run code where it is loaded.

    Call it after anything was saved there: transformers passes on what a base says of its code.
    """
    for pattern in CODE_FILES:
        for path in folder.glob(pattern):
            path.unlink()
    for path in folder.glob("*.json"):
        if path.name.endswith(".index.json") or path.name == "tokenizer.json":
            continue  # names of tensors, and a vocabulary
        settings = json.loads(path.read_text(encoding="utf-8"))
        clean = without_code(settings)
        if clean != settings:
            text = json.dumps(clean, indent=2, ensure_ascii=False) + "\n"
            path.write_text(text, encoding="utf-8")


def without_code(settings: Any) -> Any:
    """Return a configuration without the keys that name code, at whatever depth."""
    if isinstance(settings, dict):
        return {key: without_code(value) for key, value in settings.items() if key not in CODE_KEYS}
    if isinstance(settings, list):
        return [without_code(value) for value in settings]
    return settings
