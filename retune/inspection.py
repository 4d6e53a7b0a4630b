"""What may be wrong with a model is seen by its file names and settings, before any of it is loaded.

A model is a stranger's: its files may be pickles (which are programs), its settings may name code,
paths outside its folder, or an adapter that would be applied unseen. Downloads and writes nothing.
"""

import json
import re
import runpy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retune.folders import ModelRefused, exists, plain_files
from retune.foreign_formats import foreign_vocabulary, foreign_weights
from retune.recipe import Classifier, Recipe, RecipeError
from retune.records import Pins
from retune.sources import SourceError, asking_hub, local_path, pin

if TYPE_CHECKING:
    from retune.recipe import Model

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
CONFIG, TOKENIZER_CONFIG = "config.json", "tokenizer_config.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack", ".npz")
WEIGHTS = (*PICKLES, ".safetensors", ".gguf", ".onnx", ".ot", ".pb", ".tflite", ".mlmodel")
# Bytes. The largest known: Gemma 3's tokenizer.json 33 MB, Kimi K2's index 30 MB; configurations are
# some kB, and 2 MB with the layers of a quantization named one by one.
LARGEST = {CONFIG: 16 << 20, TOKENIZER_CONFIG: 64 << 20}
LARGEST_TEXT = 256 << 20
TEXTS = (".json", ".jinja", ".txt", ".model", ".tiktoken")
DEEPEST = 64  # levels of nested settings
# A tiny model is made of the base's settings, so what they count is memory.
MOST = {"vocab_size": 1 << 23, "num_hidden_layers": 10_000, "hidden_size": 1 << 20}
MOST |= {"num_attention_heads": 1 << 16, "head_dim": 1 << 16, "intermediate_size": 1 << 24}
FILE_NAME = re.compile(r"[\w][\w.-]*")
CODE = re.compile(r"(?:([\w.-]+/[\w.-]+)--)?([\w.]+)\.(\w+)")  # repository, module, class
# Names of a kernel on the Hub, which transformers would fetch and run, have a slash.
IMPLEMENTATION = re.compile(r"\w*_implementation")


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model by name, with their bytes; `read` returns what is in one of them."""

    name: str
    setting: str
    sizes: Mapping[str, int]
    read: Callable[[str], bytes]

    def refused(self, reason: str) -> ModelRefused:
        return ModelRefused(f"{self.setting}: {self.name} {reason}")


def inspect_inputs(recipe: Recipe, pins: Pins) -> None:
    """Look at every model that the recipe names; raises as `inspect_model` does, and RecipeError for
    16-bit weights that are wanted of a base which has none."""
    model, merging, classifier = recipe.model, recipe.merging, recipe.validation.classifier
    settings = inspect_base(model, pins.model)
    wanted = recipe.selects and merging.onto == "16bit" and not merging.base_16bit
    if wanted and settings.get("quantization_config"):
        raise RecipeError(f"merging.onto=16bit: {stored_in_4bit(model.base)}")
    if merging.base_16bit and pins.base_16bit:
        inspect_model(merging.base_16bit, pins.base_16bit, "merging.base_16bit")
    # The default one is known, and most recipes that leave it there have scores already.
    if classifier.score != "never" and classifier != Classifier():
        _inspect_classifier(classifier)


def stored_in_4bit(base: str) -> str:
    """Return what to say of a base of which 16-bit weights are wanted."""
    return (
        f"{base} is stored in 4 bits; name its 16-bit weights in merging.base_16bit, or set "
        f"merging.onto=dequantized"
    )


def inspect_base(model: "Model", version: str, weights: bool = True) -> dict[str, Any]:
    """Look at the base model at its pinned version, and return its settings. Raises as `inspect_model`
    does, and ModelRefused if the recipe allows the code of another version."""
    allowed = model.trust_remote_code
    if allowed and allowed != version:
        raise ModelRefused(
            f"model.trust_remote_code allows the code of {allowed}, but {model.base} is at {version}: "
            f"read what changed and set it to {version}, or go back to what you have read (on the Hub: "
            f"model.revision={allowed})"
        )
    return inspect_model(model.base, version, "model.base", trusted=bool(allowed), weights=weights)


def _inspect_classifier(classifier: Classifier) -> None:
    setting = "validation.classifier.model"
    try:
        version = pin(classifier.model, classifier.revision, "model", setting)
        inspect_model(classifier.model, version, setting)
    except (SourceError, ConnectionError):
        if (
            classifier.score != "absent"
        ):  # then rows may have scores already, and it is never loaded
            raise


def inspect_model(
    name: str, version: str, setting: str, trusted: bool = False, weights: bool = True
) -> dict[str, Any]:
    """Look at a model's files and settings, and return these; without `weights`, it may have none.

    `version` is its pin; `trusted` says that its own code may run. Raises ModelRefused, or
    ConnectionError when the Hub does not answer.
    """
    local = version.startswith("sha256:")
    files = _in_folder(name, setting) if local else _on_hub(name, version, setting)
    _check_names(files)
    _check_weights(files, weights)
    settings = _json(files, CONFIG)
    tokenizer = _json(files, TOKENIZER_CONFIG) if TOKENIZER_CONFIG in files.sizes else {}
    _check_settings(files, settings)
    _check_paths(files, tokenizer)
    _check_code(files, settings, tokenizer, version, trusted)
    own_code = _code(files, tokenizer, TOKENIZER_CONFIG)  # may read what transformers does not
    if not own_code and (reason := foreign_vocabulary(files.sizes, files.read)):
        raise files.refused(reason)
    if INDEX in files.sizes:
        require_file_names(_json(files, INDEX, deepest=3).get("weight_map"), name, setting)
    return settings


def require_file_names(weight_map: Any, name: str, setting: str) -> dict[str, str]:
    """Return the index of a sharded model; raise ModelRefused unless each of its files is a plain
    name next to it."""
    if not isinstance(weight_map, dict):
        raise ModelRefused(f"{setting}: {INDEX} of {name} has no weight_map; save the model again")
    for file in weight_map.values():
        if not isinstance(file, str) or not FILE_NAME.fullmatch(file):
            raise ModelRefused(
                f"{setting}: {INDEX} of {name} names a file outside its folder ({file!r:.200}), which "
                f"is not read; take the model from its publisher again"
            )
    return weight_map


def _in_folder(name: str, setting: str) -> ModelFiles:
    folder = local_path(name, setting)
    if folder is None or not folder.is_dir():
        raise ModelRefused(f"{setting}: {name} is not a folder; name one that holds {CONFIG}")
    return _files(folder, name, setting)


def _files(folder: Path, name: str, setting: str) -> ModelFiles:
    sizes = plain_files(folder, setting)
    return ModelFiles(name, setting, sizes, lambda file: (folder / file).read_bytes())


def _on_hub(name: str, commit: str, setting: str) -> ModelFiles:
    from huggingface_hub import HfApi

    try:
        with asking_hub(name, "model", setting, ModelRefused):
            info = HfApi().model_info(name, revision=commit, files_metadata=True)
    except ConnectionError:
        if folder := _cached(name, commit):
            return _files(folder, name, setting)
        raise
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    return ModelFiles(name, setting, sizes, lambda file: _fetched(name, commit, file, setting))


def _cached(name: str, commit: str) -> Path | None:
    """Return the folder of a commit that was downloaded before; who is offline loads from there."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, CONFIG, revision=commit)
    return Path(config).parent if isinstance(config, str) else None


def _fetched(name: str, commit: str, file: str, setting: str) -> bytes:
    """Return the contents of a file on the Hub, without keeping them anywhere."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    with asking_hub(name, "model", setting, ModelRefused):
        url = hf_hub_url(name, file, revision=commit)
        answer = get_session().get(url, headers=build_hf_headers(), follow_redirects=True)
        hf_raise_for_status(answer)
        return answer.content


def _check_names(files: ModelFiles) -> None:
    if "adapter_config.json" in files.sizes:
        raise files.refused(
            "holds an adapter (adapter_config.json), which would be applied unseen; name the base model "
            "alone, or merge the two first and name the result"
        )
    for name, size in files.sizes.items():
        limit = LARGEST.get(name, LARGEST_TEXT)
        if name.endswith(TEXTS) and size > limit:
            raise files.refused(
                f"has a {name} of {size:,} bytes, {limit:,} are read at most; take the model from its "
                f"publisher again"
            )
    if reason := foreign_weights(files.sizes):
        raise files.refused(reason)
    if CONFIG not in files.sizes:
        raise files.refused(f"has no {CONFIG}; name a model as transformers saves it")


def _check_weights(files: ModelFiles, required: bool) -> None:
    if SINGLE in files.sizes or INDEX in files.sizes:
        return
    weights = [name for name in files.sizes if "/" not in name and name.endswith(WEIGHTS)]
    if pickled := [name for name in weights if name.endswith(PICKLES)]:
        raise files.refused(
            f"has its weights in {pickled[0]} and not in {SINGLE}: a pickle is a program and is not "
            f"loaded; choose a model in safetensors, or have its publisher convert it"
        )
    if required:
        contents = f"only {weights[0]}" if weights else "no weights"
        raise files.refused(
            f"has {contents}, where {SINGLE} or {INDEX} is needed; name a model as transformers saves it"
        )


def _json(files: ModelFiles, file: str, deepest: int = DEEPEST) -> dict[str, Any]:
    """Return the settings in a JSON file. Raises ModelRefused for what is none, or nested too deep."""
    try:
        settings = json.loads(files.read(file))
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else error
        raise files.refused(f"has a {file} that is not JSON ({reason}); mend it") from None
    if not isinstance(settings, dict):
        raise files.refused(f"has a {file} that holds no settings ({settings!r:.80}); mend it")
    if _depth_exceeds(settings, deepest):
        raise files.refused(f"has a {file} nested deeper than {deepest} levels; mend it")
    return settings


def _depth_exceeds(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit + 1):
        level = [
            child
            for container in level
            for child in (container.values() if isinstance(container, dict) else container)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def _check_settings(files: ModelFiles, settings: dict[str, Any]) -> None:
    """Refuse settings that would fetch and run code, or make a model of any size."""
    for key, value in _pairs(settings):
        if IMPLEMENTATION.fullmatch(key) and re.search(r"[/:\\]", json.dumps(value)):
            raise files.refused(
                f"sets {key}={value!r:.100} in {CONFIG}, code that would be fetched and run; remove it"
            )
        if key in MOST and isinstance(value, int) and value > MOST[key]:
            raise files.refused(
                f"sets {key}={value} in {CONFIG}, {MOST[key]:,} at most are believable; mend it"
            )
    for key in MOST.keys() & settings.keys():
        if isinstance(settings[key], int) and settings[key] < 1:
            raise files.refused(f"sets {key}={settings[key]} in {CONFIG}, 1 is the least; mend it")
    weights = settings.get("transformers_weights")
    if weights is not None and not (isinstance(weights, str) and FILE_NAME.fullmatch(weights)):
        raise files.refused(f"sets transformers_weights={weights!r:.100} in {CONFIG}; remove it")
    _check_quantization(files, settings.get("quantization_config"))


def _check_quantization(files: ModelFiles, config: Any) -> None:
    if not config:
        return
    method = config.get("quant_method") if isinstance(config, dict) else config
    if method is None and isinstance(config, dict):  # as bitsandbytes' first versions wrote it
        method = "bitsandbytes" if {"load_in_4bit", "load_in_8bit"} & config.keys() else None
    if method == "bitsandbytes":
        return
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING as KNOWN

    if not isinstance(method, str) or method not in KNOWN:
        raise files.refused(
            f"is quantized by {method!r:.100} (quant_method in {CONFIG}), which transformers does not "
            f"know; name its 16-bit weights"
        )


def _check_paths(files: ModelFiles, tokenizer: dict[str, Any]) -> None:
    """Refuse a tokenizer's setting that names a file of this machine.

    Many published ones carry a path of the machine that they were made on, which leads nowhere.
    """
    for key, value in _pairs(tokenizer):
        if not key.endswith("_file") or not isinstance(value, str) or FILE_NAME.fullmatch(value):
            continue
        if exists(Path(value)) or ".." in Path(value).parts or "://" in value:
            raise files.refused(
                f"sets {key}={value!r:.200} in {TOKENIZER_CONFIG}, a file outside the model; remove it"
            )


def _pairs(settings: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key of nested settings with its value."""
    stack = [settings]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            yield from value.items()
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)


def _check_code(
    files: ModelFiles,
    settings: dict[str, Any],
    tokenizer: dict[str, Any],
    version: str,
    trusted: bool,
) -> None:
    """Refuse a model that only code of its own can load; what transformers knows is loaded by it."""
    references = [*_code(files, settings, CONFIG), *_code(files, tokenizer, TOKENIZER_CONFIG)]
    if trusted and references:
        for reference in references:
            _require_pinned(files, reference)
        return
    kind, tokenizer_class = settings.get("model_type"), tokenizer.get("tokenizer_class")
    if not isinstance(kind, str) or not _knows_model(kind):
        problem = f"is of model_type {kind!r:.80}"
    elif _code(files, tokenizer, TOKENIZER_CONFIG) and not _knows_tokenizer(tokenizer_class, kind):
        problem = f"has a tokenizer of tokenizer_class {tokenizer_class!r:.80}"
    else:
        return
    from transformers import __version__ as transformers

    problem += f", which transformers {transformers} does not know"
    if not references:
        raise files.refused(f"{problem}; choose another model")
    allow = f", or read it and set model.trust_remote_code={version}"
    raise files.refused(
        f"{problem}, and brings its own code ({references[0]}), which is not run; choose another model"
        f"{allow if files.setting == 'model.base' else ''}"
    )


def _code(files: ModelFiles, settings: dict[str, Any], file: str) -> list[str]:
    """Return the classes of its own that a model names: `module.Class`, `repository--module.Class`."""
    auto_map = settings.get("auto_map") or []
    references = []
    for entry in auto_map.values() if isinstance(auto_map, dict) else [auto_map]:
        # A tokenizer's come in pairs, slow and fast, of which one may be missing.
        for reference in entry if isinstance(entry, list) else [entry]:
            if reference is None:
                continue
            if not isinstance(reference, str) or not CODE.fullmatch(reference):
                raise files.refused(
                    f"names {reference!r:.100} as its code in {file}; take it from its publisher again"
                )
            references.append(reference)
    return references


def _require_pinned(files: ModelFiles, reference: str) -> None:
    """Raise ModelRefused for code that the commit does not fix, since it lies elsewhere."""
    match = CODE.fullmatch(reference)
    assert match, "only such references are found"
    repository, module, _ = match.groups()
    if repository not in (None, files.name):
        raise files.refused(
            f"takes its code from {repository}, which model.trust_remote_code does not fix; choose "
            f"another model, or a copy that holds its code"
        )
    if f"{module}.py" not in files.sizes:
        raise files.refused(f"names code in {module}.py and has no such file; choose another model")


def _knows_model(kind: str) -> bool:
    """Tell whether transformers has a class for a `model_type`.

    Importing transformers takes seconds: it is asked only for a type that its list does not have,
    since it adds some by itself.
    """
    if kind in _listed_models():
        return True
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return kind in CONFIG_MAPPING


@cache
def _listed_models() -> frozenset[str]:
    """Return the types in transformers' own list, a file that imports nothing of it."""
    package = find_spec("transformers")
    assert package
    assert package.origin
    file = Path(package.origin).parent / "models/auto/auto_mappings.py"
    return frozenset(runpy.run_path(str(file))["CONFIG_MAPPING_NAMES"])


def _knows_tokenizer(tokenizer_class: Any, kind: str) -> bool:
    """Tell whether transformers takes a tokenizer class of its own, whatever code there is."""
    from transformers.models.auto import tokenization_auto as auto

    if kind in auto.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS or auto.TOKENIZER_MAPPING_NAMES.get(
        kind
    ):
        return True
    plain = tokenizer_class.removesuffix("Fast") if isinstance(tokenizer_class, str) else ""
    return any(auto.tokenizer_class_from_name(name) for name in (plain, f"{plain}Fast") if plain)
