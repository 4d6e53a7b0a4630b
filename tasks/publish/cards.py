"""The model cards: what a repository holds, what it was made of, how good it is, how to run it."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from retune.escaping import code, code_block, markdown, visible
from retune.recipe import Recipe
from retune.records import Gguf, Pins
from tasks.publish.access import repositories
from tasks.publish.files import is_local_path, public_name
from tasks.publish.terms import Terms

if TYPE_CHECKING:
    from huggingface_hub import EvalResult


@dataclass(frozen=True)
class Kind:
    """What the Hub and a reader are told of one kind of repository."""

    what: str
    library: str
    relation: str  # to its base model, in the Hub's words


KINDS = {
    "adapter": Kind("A LoRA adapter", "peft", "adapter"),
    "merged": Kind("A 16-bit model", "transformers", "finetune"),
    "merged_4bit": Kind("A model in 4 bits (NF4, bitsandbytes)", "transformers", "quantized"),
    "gguf": Kind("GGUF files for llama.cpp, Ollama and LM Studio", "gguf", "quantized"),
}
RECOMMENDED = "q4_k_m"  # a third of the size at 3 % more perplexity, on Llama 3 8B
MEASURES = {
    "bits_per_weight": "bits per weight",
    "perplexity": "perplexity",
    "kl_divergence": "KL divergence",
    "same_top_token": "same top token",
}
QUESTION = "Is 9.11 larger than 9.9?"


@dataclass(frozen=True)
class Release:
    """All that the cards tell of.

    `metrics` are evaluate's: `<name>/base` and `<name>/tuned`; `base_terms` and `data_terms` are the
    licences of the base model and of the dataset.
    """

    recipe: Recipe
    pins: Pins
    metrics: Mapping[str, float]
    quants: Sequence[Gguf]
    base_terms: Terms
    data_terms: Terms

    @property
    def repos(self) -> dict[str, str]:
        """The repository of each artifact; none for GGUF files when no quant ships."""
        every = repositories(self.recipe)
        return {name: repo for name, repo in every.items() if name != "gguf" or self.quants}

    @property
    def main(self) -> str:
        """The repository that stands for the release: the merged model's, else the first."""
        return self.repos.get("merged") or next(iter(self.repos.values()))

    @property
    def title(self) -> str:
        """The name that people will know the model by, e.g. FineLlama-3.1-8B."""
        assert self.recipe.publishing.repo, "the recipe guarantees a repository"
        return self.recipe.publishing.repo.partition("/")[2]


def card(artifact: str, release: Release) -> str:
    """Return the README.md of one repository: `artifact` as in publishing.artifacts."""
    from huggingface_hub import ModelCard

    parts = [
        f"# {markdown(release.repos[artifact].partition('/')[2])}",
        _summary(artifact, release),
        *(["## Files", _quants(release)] if artifact == "gguf" else []),
        "## How to run",
        _USAGE[artifact](release),
        "## Evaluation",
        _scores(release.metrics),
        "## How it was made",
        _origin(release),
        _recipe(release.recipe),
        "## Licence",
        _licence(release),
    ]
    text = "\n\n".join(parts)
    return str(ModelCard(f"---\n{_metadata(artifact, release)}\n---\n\n{text}\n"))


def side_by_side(metrics: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Return (base, tuned) of every metric that was measured on both."""
    tuned = [name.removesuffix("/tuned") for name in metrics if name.endswith("/tuned")]
    both = [name for name in tuned if f"{name}/base" in metrics]
    return {name: (metrics[f"{name}/base"], metrics[f"{name}/tuned"]) for name in both}


def _metadata(artifact: str, release: Release) -> str:
    """Return the YAML by which the Hub links a card to its base model and dataset."""
    from huggingface_hub import ModelCardData

    recipe, pins, terms = release.recipe, release.pins, release.base_terms
    base = recipe.model.base if pins.commit(pins.model) else None
    if artifact in ("merged_4bit", "gguf"):
        base = release.repos.get("merged", base)
    kind = KINDS[artifact]
    data = ModelCardData(
        base_model=base,
        base_model_relation=kind.relation if base else None,
        datasets=[recipe.dataset.source] if pins.commit(pins.dataset) else None,
        library_name=kind.library,
        license=terms.licence,
        license_name=terms.name,
        license_link=terms.link,
        pipeline_tag="text-generation",
        tags=["retune", "sft", "chatml", *(["lora"] if artifact == "adapter" else [])],
        model_name=release.title,
        eval_results=_results(release) or None,
    )
    return data.to_yaml()


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
        for name, (_, tuned) in side_by_side(release.metrics).items()
    ]


def _summary(artifact: str, release: Release) -> str:
    others = [f"[{name}]({_page(repo)})" for name, repo in release.repos.items()]
    return (
        f"{KINDS[artifact].what}: {_base(release)}, fine-tuned on {_dataset(release)} with ChatML "
        f"conversations.\n\nThis release: {', '.join(others)}."
    )


def _base(release: Release) -> str:
    return _input(release.recipe.model.base, release.pins.model, "")


def _dataset(release: Release) -> str:
    return _input(release.recipe.dataset.source, release.pins.dataset, "datasets/")


def _input(name: str, pin: str, kind: str) -> str:
    """Name a Hub repository with a link to its commit, a local file by its last part and digest."""
    if pin.startswith("sha256:"):
        return f"{code(public_name(name))} ({pin[:19]})"
    return f"[{markdown(name)}]({_page(f'{kind}{name}/tree/{pin}')})"


def _page(path: str) -> str:
    return f"https://huggingface.co/{quote(path)}"


def _quants(release: Release) -> str:
    rows = [
        [
            f"[{markdown(quant.file)}](./{quote(quant.file)})"
            + (" **recommended**" if quant is recommended(release.quants) else ""),
            quant.method,
            f"{quant.bytes / 2**30:.2f} GiB",
            *(_number(quant.metrics.get(name)) for name in MEASURES),
            f"`{quant.sha256}`",
        ]
        for quant in release.quants
    ]
    against = (
        "Perplexity, KL divergence (nats per token) and share of tokens that both rank first are "
        "measured on held-out conversations against the 16-bit GGUF."
    )
    head = ["file", "method", "size", *MEASURES.values(), "sha256"]
    return f"{_table(head, rows)}\n\n{against}"


def recommended(quants: Sequence[Gguf]) -> Gguf:
    """Return the file to try first: RECOMMENDED, else the one of middle size."""
    by_size = sorted(quants, key=lambda quant: quant.bytes)
    return next((q for q in quants if q.method == RECOMMENDED), by_size[len(by_size) // 2])


def modelfile_of(quant: Gguf) -> str | None:
    """Return the name of the Modelfile beside a GGUF, None if Ollama cannot render its template."""
    return next((name for name in quant.files if name.endswith(".Modelfile")), None)


def _scores(metrics: Mapping[str, float]) -> str:
    rows = [
        [markdown(name), _number(base), _number(tuned)]
        for name, (base, tuned) in side_by_side(metrics).items()
    ]
    if not rows:
        return "Not evaluated."
    return "On held-out conversations of the dataset:\n\n" + _table(["", "base", "tuned"], rows)


def _origin(release: Release) -> str:
    recipe = release.recipe
    rows = [
        ["base model", _base(release)],
        ["dataset", f"{_dataset(release)}, split {code(recipe.dataset.split)}"],
        *_method(recipe),
        ["learning rate", f"{recipe.training.learning_rate:g}, {recipe.training.lr_scheduler}"],
    ]
    return _table(["", ""], rows)


def _method(recipe: Recipe) -> list[list[str]]:
    if recipe.training.method == "full":
        return [["method", "full fine-tuning"]]
    return [
        ["method", "QLoRA" if recipe.model.load_in_4bit else "LoRA"],
        ["rank, alpha", f"{recipe.training.r}, {recipe.training.alpha}"],
    ]


def _licence(release: Release) -> str:
    """Say what base model and dataset say, and no more: what follows from it is for lawyers."""
    base, data = release.base_terms, release.data_terms
    carried = missing = ""
    if base.files:
        carried = f" Its {', '.join(map(code, sorted(base.files)))}: in this repository."
    if base.missing:
        missing = f" Its {', '.join(map(code, sorted(base.missing)))}: only there."
    return (
        f"Base model: {_stated(base)} {_base(release)}.{carried}{missing}\n\n"
        f"Dataset: {_stated(data)} {_dataset(release)}."
    )


def _stated(terms: Terms) -> str:
    if not terms.licence:
        return "licence not stated by"
    name = markdown(terms.name or terms.licence)
    return f"{f'[{name}]({terms.link})' if terms.link else name}, as stated by"


def _recipe(recipe: Recipe) -> str:
    import yaml

    settings = _without_paths(recipe.model_dump(mode="json"))
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    block = code_block(text.rstrip("\n"), "yaml")
    return f"<details><summary>The whole recipe</summary>\n\n{block}\n\n</details>"


# Settings that may name a file or folder of the machine that trained.
SOURCES = {"base", "source", "model", "base_16bit", "files"}


def _without_paths(value: Any, key: str = "") -> Any:
    """Return settings in which a path of this machine is its last part."""
    if isinstance(value, dict):
        return {name: _without_paths(one, name) for name, one in value.items()}
    if isinstance(value, list):
        return [_without_paths(one, key) for one in value]
    if not isinstance(value, str):
        return value
    if key in SOURCES:
        return public_name(value)
    return public_name(value) if is_local_path(value) else value


def _run_adapter(release: Release) -> str:
    repo = _quoted(release.repos["adapter"])
    return f"""```python
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained({repo}, device_map="auto")
tokenizer = AutoTokenizer.from_pretrained({repo})
chat = [{{"role": "user", "content": "{QUESTION}"}}]
inputs = tokenizer.apply_chat_template(
    chat, add_generation_prompt=True, return_dict=True, return_tensors="pt"
).to(model.device)
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=128)[0]))
```"""


def _run_merged(release: Release) -> str:
    return _pipeline(release.repos["merged"])


def _run_merged_4bit(release: Release) -> str:
    return f"With a CUDA GPU and `bitsandbytes`:\n\n{_pipeline(release.repos['merged_4bit'])}"


def _quoted(name: str) -> str:
    """Return a name as a string in Python, on one line and in ASCII."""
    return json.dumps(name)


def _pipeline(repo: str) -> str:
    return f"""```python
from transformers import pipeline

chat = pipeline("text-generation", model={_quoted(repo)}, device_map="auto")
answer = chat([{{"role": "user", "content": "{QUESTION}"}}], max_new_tokens=128)
print(answer[0]["generated_text"][-1]["content"])
```"""


def _run_gguf(release: Release) -> str:
    quant = recommended(release.quants)
    repo = release.repos["gguf"]
    tag, file = f"{repo}:{quant.method.upper()}", shlex.quote(quant.file)
    own = modelfile_of(quant)
    ollama = f'ollama run {shlex.quote(f"hf.co/{tag}")} "{QUESTION}"'
    if own:
        own = shlex.quote(own)
        ollama += f"""

# or from the files, with the Modelfile that is made for each
hf download {shlex.quote(repo)} {file} {own} --local-dir .
ollama create {shlex.quote(release.recipe.name)} -f {own}"""
    return f"""With [llama.cpp](https://github.com/ggml-org/llama.cpp):

```sh
llama-cli -hf {shlex.quote(tag)} -p "{QUESTION}"
```

With [Ollama](https://ollama.com):

```sh
{ollama}
```

With [transformers](https://huggingface.co/docs/transformers/gguf), which expands it to 16 bits:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({_quoted(repo)}, gguf_file={_quoted(quant.file)})
tokenizer = AutoTokenizer.from_pretrained({_quoted(repo)}, gguf_file={_quoted(quant.file)})
```

The chat template (ChatML) and the end-of-turn token are in the files."""


_USAGE = {
    "adapter": _run_adapter,
    "merged": _run_merged,
    "merged_4bit": _run_merged_4bit,
    "gguf": _run_gguf,
}


def _number(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
