"""The model cards: what a repository holds, what it was made of, how good it is, how to run it.

Their text is in `card.md.j2`; here are the facts that it is filled in with.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from retune.escaping import code, code_block, markdown, visible
from retune.measures import format_bytes, is_of_suite, measure, side_by_side, title
from retune.recipe import Dataset, Recipe
from retune.recipe.methods import RECOMMENDED
from retune.records import Gguf, Pins
from tasks.publish.access import repositories
from tasks.publish.files import is_local_path, public_name
from tasks.publish.terms import Terms

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

TEMPLATE = Path(__file__).with_name("card.md.j2")


@dataclass(frozen=True)
class Kind:
    """How the Hub and a reader know one kind of repository."""

    what: str
    library: str
    relation: str  # to its base model, in the Hub's words


KINDS = {
    "adapter": Kind("A LoRA adapter", "peft", "adapter"),
    "merged": Kind("A 16-bit model", "transformers", "finetune"),
    "merged_4bit": Kind("A model in 4 bits (NF4, bitsandbytes)", "transformers", "quantized"),
    "gguf": Kind("GGUF files for llama.cpp, Ollama and LM Studio", "gguf", "quantized"),
}
OF_QUANTS = ("bits_per_weight", "perplexity", "kl_divergence", "same_top_token")  # columns
# By which the template passes on what it did not write itself.
ESCAPING = {
    "markdown": markdown,
    "code": code,
    "code_block": code_block,
    "url": quote,
    "shell": shlex.quote,
    "python": json.dumps,  # a string in Python, on one line and in ASCII
}


# That an adapter's scores are of.
WEIGHTS = {
    "16bit": "the base's 16-bit weights",
    "dequantized": "the base's weights in 4 bits (NF4), which it was trained on",
}


@dataclass(frozen=True)
class Release:
    """All that the cards tell of.

    `metrics` are evaluate's: `<name>/base` and `<name>/tuned`; `base_terms` and `data_terms` are the
    licences of the base model and of the dataset, or of each part of a mix. `onto` says which of a
    base's weights the adapter was evaluated on, if there was a choice: `16bit` or `dequantized`.
    """

    recipe: Recipe
    pins: Pins
    metrics: Mapping[str, float]
    quants: Sequence[Gguf]
    base_terms: Terms
    data_terms: Terms | tuple[Terms, ...]
    onto: str = ""

    @property
    def parts(self) -> list[tuple[Dataset, str]]:
        """The datasets that were trained on, each with its pin."""
        pins = self.pins.mix or (self.pins.dataset,)
        return list(zip(self.recipe.dataset.parts, pins, strict=True))

    @property
    def repos(self) -> dict[str, str]:
        """The repository of each artifact; none for GGUF files when no quant ships."""
        every = repositories(self.recipe)
        return {name: repo for name, repo in every.items() if name != "gguf" or self.quants}

    @property
    def main(self) -> str:
        """The repository that represents the release: the merged model's, else the first."""
        return self.repos.get("merged") or next(iter(self.repos.values()))

    @property
    def title(self) -> str:
        """The name that people will know the model by, e.g. FineLlama-3.1-8B."""
        assert self.recipe.publishing.repo, "the recipe guarantees a repository"
        return self.recipe.publishing.repo.partition("/")[2]


def card(artifact: str, release: Release) -> str:
    """Return the README.md of one repository: `artifact` as in publishing.artifacts."""
    from huggingface_hub import ModelCard

    text = TEMPLATE.read_text(encoding="utf-8")
    metadata = _metadata(artifact, release)
    filled = ModelCard.from_template(metadata, template_str=text, **facts(artifact, release))
    return f"{filled}\n"  # of a template Jinja drops the last line's end


def facts(artifact: str, release: Release) -> dict[str, Any]:
    """Return the variables of the template for one repository, and the functions that it calls."""
    recipe, repo = release.recipe, release.repos[artifact]
    best = recommended(release.quants) if release.quants else None
    return {
        **ESCAPING,
        "page": _page,
        "value": _value,
        "title": title,
        "format_bytes": format_bytes,
        "artifact": artifact,
        "kind": KINDS[artifact],
        "repo": repo,
        "repos": release.repos,
        "base": _input(recipe.model.base, release.pins.model, ""),
        "dataset": ", ".join(dataset.name for dataset in _datasets(release)),
        "datasets": _datasets(release),
        "quants": release.quants,
        "measures": OF_QUANTS,
        "best": best,
        "tag": best and f"{repo}:{best.method.upper()}",
        "modelfile": best and modelfile_of(best),
        "scores": _scores(release, of_suites=False),
        "suites": _scores(release, of_suites=True),
        "weights": WEIGHTS.get(release.onto, ""),
        "recipe": recipe,
        "settings": _settings(recipe),
        "base_terms": release.base_terms,
    }


def _metadata(artifact: str, release: Release) -> "ModelCardData":
    """Return the metadata by which the Hub links a card to its base model and dataset."""
    from huggingface_hub import ModelCardData

    recipe, pins, terms = release.recipe, release.pins, release.base_terms
    base = recipe.model.base if pins.commit(pins.model) else None
    if artifact in ("merged_4bit", "gguf"):
        base = release.repos.get("merged", base)
    kind = KINDS[artifact]
    return ModelCardData(
        base_model=base,
        base_model_relation=kind.relation if base else None,
        datasets=[part.source for part, pin in release.parts if pins.commit(pin)] or None,
        library_name=kind.library,
        license=terms.licence,
        license_name=terms.name,
        license_link=terms.link,
        pipeline_tag="text-generation",
        tags=["retune", "sft", "chatml", *(["lora"] if artifact == "adapter" else [])],
        model_name=release.title,
        eval_results=_results(release) or None,
    )


def _scores(release: Release, of_suites: bool) -> dict[str, tuple[float, float]]:
    """Return base and tuned of each measure of the suites, or of the held-out conversations."""
    pairs = side_by_side(release.metrics)
    return {name: pair for name, pair in pairs.items() if is_of_suite(name) == of_suites}


def _results(release: Release) -> list["EvalResult"]:
    from huggingface_hub import EvalResult

    dataset, commit = release.recipe.dataset, release.pins.commit(release.pins.dataset)
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=dataset.source if commit else "custom",
            dataset_name=f"{dataset.source if commit else release.recipe.name}, held out",
            dataset_revision=commit,
            dataset_split=dataset.split,
            metric_type=visible(name),
            metric_value=tuned,
        )
        for name, (_, tuned) in _scores(release, of_suites=False).items()
    ]


class _Dataset(NamedTuple):
    """A dataset as a card names it: with its version, the split, and what it says of its licence."""

    name: str
    split: str
    terms: Terms


def _datasets(release: Release) -> list[_Dataset]:
    """Return the dataset of a release, or each part of a mix."""
    terms = release.data_terms if isinstance(release.data_terms, tuple) else (release.data_terms,)
    return [
        _Dataset(_input(part.source, pin, "datasets/"), part.split, stated)
        for (part, pin), stated in zip(release.parts, terms, strict=True)
    ]


def _input(name: str, pin: str, kind: str) -> str:
    """Name a Hub repository with a link to its commit, a local file by its last part and digest."""
    if pin.startswith("sha256:"):
        return f"{code(public_name(name))} ({pin[:19]})"
    return f"[{markdown(name)}]({_page(f'{kind}{name}/tree/{pin}')})"


def _page(path: str) -> str:
    return f"https://huggingface.co/{quote(path)}"


def recommended(quants: Sequence[Gguf]) -> Gguf:
    """Return the file to try first: RECOMMENDED, else the one of middle size."""
    by_size = sorted(quants, key=lambda quant: quant.bytes)
    return next((q for q in quants if q.method == RECOMMENDED), by_size[len(by_size) // 2])


def modelfile_of(quant: Gguf) -> str | None:
    """Return the name of the Modelfile next to a GGUF, None if Ollama cannot render its template."""
    return next((name for name in quant.files if name.endswith(".Modelfile")), None)


def _settings(recipe: Recipe) -> str:
    """Return the whole recipe as YAML."""
    import yaml

    settings = _without_paths(recipe.model_dump(mode="json"))
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True).rstrip("\n")


# Settings that may name a file or folder of the machine that trained.
SOURCES = {"base", "source", "model", "base_16bit", "files"}


def _without_paths(value: Any, key: str = "") -> Any:
    """Return settings in which a path of this machine is its last part."""
    if isinstance(value, dict):
        return {name: _without_paths(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_paths(item, key) for item in value]
    if not isinstance(value, str):
        return value
    if key in SOURCES:
        return public_name(value)
    return public_name(value) if is_local_path(value) else value


def _value(metric: str, value: float | None) -> str:
    return "–" if value is None else measure(metric).number(value)
