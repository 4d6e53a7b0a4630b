"""The model cards: what a repository holds, what it was made of, how good it is, how to run it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from retune.config import Recipe
from retune.records import Gguf, Pins
from tasks.publish.access import repositories

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

RECOMMENDED = "q4_k_m"  # a third of the size at 3 % more perplexity, on Llama 3 8B
QUESTION = "Is 9.11 larger than 9.9?"


@dataclass(frozen=True)
class Release:
    """All that the cards tell of. `metrics` are evaluate's: `<name>/base` and `<name>/tuned`."""

    recipe: Recipe
    pins: Pins
    metrics: Mapping[str, float]
    quants: Sequence[Gguf]

    @property
    def repos(self) -> dict[str, str]:
        """The repository of each artifact; none for GGUF files when no quant ships."""
        every = repositories(self.recipe.publishing)
        return {name: repo for name, repo in every.items() if name != "gguf" or self.quants}

    @property
    def title(self) -> str:
        """The name that people will know the model by, e.g. FineLlama-3.1-8B."""
        assert self.recipe.publishing.repo, "the recipe guarantees a repository"
        return self.recipe.publishing.repo.partition("/")[2]


def card(artifact: str, release: Release) -> str:
    """Return the README.md of one repository: `artifact` is adapter, merged or gguf."""
    from huggingface_hub import ModelCard

    parts = [
        f"# {release.repos[artifact].partition('/')[2]}",
        _summary(artifact, release),
        *(["## Files", _quants(release)] if artifact == "gguf" else []),
        "## How to run",
        _USAGE[artifact](release),
        "## Evaluation",
        _scores(release.metrics),
        "## How it was made",
        _origin(release),
        _recipe(release.recipe),
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

    recipe, pins = release.recipe, release.pins
    base = recipe.model.base if pins.commit(pins.model) else None
    libraries = {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}
    relations = {"adapter": "adapter", "merged": "finetune", "gguf": "quantized"}
    if artifact == "gguf":
        base = release.repos.get("merged", base)
    data = ModelCardData(
        base_model=base,
        base_model_relation=relations[artifact] if base else None,
        datasets=[recipe.dataset.source] if pins.commit(pins.dataset) else None,
        library_name=libraries[artifact],
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
            metric_type=name,
            metric_value=tuned,
        )
        for name, (_, tuned) in side_by_side(release.metrics).items()
    ]


def _summary(artifact: str, release: Release) -> str:
    what = {
        "adapter": "A LoRA adapter",
        "merged": "A 16-bit model, its LoRA adapter merged in",
        "gguf": "GGUF files for llama.cpp, Ollama and LM Studio",
    }[artifact]
    others = [f"[{name}](https://huggingface.co/{repo})" for name, repo in release.repos.items()]
    return (
        f"{what}: {_input(release.recipe.model.base, release.pins.model, '')}, fine-tuned on "
        f"{_input(release.recipe.dataset.source, release.pins.dataset, 'datasets/')} with ChatML "
        f"conversations.\n\nThis release: {', '.join(others)}."
    )


def _input(name: str, pin: str, kind: str) -> str:
    """Name a Hub repository with a link to its commit, a local file by its last part and digest."""
    if pin.startswith("sha256:"):
        return f"`{name.rstrip('/').rpartition('/')[2]}` ({pin[:19]})"
    return f"[{name}](https://huggingface.co/{kind}{name}/tree/{pin})"


def _quants(release: Release) -> str:
    rows = [
        [
            f"[{quant.file}](./{quant.file})"
            + (" **recommended**" if quant is recommended(release.quants) else ""),
            quant.method,
            f"{quant.bytes / 2**30:.2f} GiB",
            *(_number(quant.metrics.get(name)) for name in ("perplexity", "kl_divergence")),
            f"`{quant.sha256}`",
        ]
        for quant in release.quants
    ]
    return _table(["file", "method", "size", "perplexity", "KL divergence", "sha256"], rows)


def recommended(quants: Sequence[Gguf]) -> Gguf:
    """Return the file to try first: RECOMMENDED, else the one of middle size."""
    by_size = sorted(quants, key=lambda quant: quant.bytes)
    return next((q for q in quants if q.method == RECOMMENDED), by_size[len(by_size) // 2])


def _scores(metrics: Mapping[str, float]) -> str:
    rows = [
        [name, _number(base), _number(tuned)]
        for name, (base, tuned) in side_by_side(metrics).items()
    ]
    if not rows:
        return "Not evaluated."
    return "On held-out conversations of the dataset:\n\n" + _table(["", "base", "tuned"], rows)


def _origin(release: Release) -> str:
    recipe, pins = release.recipe, release.pins
    rows = [
        ["base model", f"{recipe.model.base} at `{pins.model}`"],
        ["dataset", f"{recipe.dataset.source}, {recipe.dataset.split}, at `{pins.dataset}`"],
        ["method", "QLoRA" if recipe.model.load_in_4bit else "LoRA"],
        ["rank, alpha", f"{recipe.training.r}, {recipe.training.alpha}"],
        ["learning rate", f"{recipe.training.learning_rate:g}, {recipe.training.lr_scheduler}"],
    ]
    return _table(["", ""], rows)


def _recipe(recipe: Recipe) -> str:
    import yaml

    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return f"<details><summary>The whole recipe</summary>\n\n```yaml\n{text}```\n\n</details>"


def _run_adapter(release: Release) -> str:
    return f"""```python
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained("{release.repos["adapter"]}", device_map="auto")
tokenizer = AutoTokenizer.from_pretrained("{release.repos["adapter"]}")
chat = [{{"role": "user", "content": "{QUESTION}"}}]
inputs = tokenizer.apply_chat_template(
    chat, add_generation_prompt=True, return_dict=True, return_tensors="pt"
).to(model.device)
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=128)[0]))
```"""


def _run_merged(release: Release) -> str:
    return f"""```python
from transformers import pipeline

chat = pipeline("text-generation", model="{release.repos["merged"]}", device_map="auto")
answer = chat([{{"role": "user", "content": "{QUESTION}"}}], max_new_tokens=128)
print(answer[0]["generated_text"][-1]["content"])
```"""


def _run_gguf(release: Release) -> str:
    file = f"{release.repos['gguf']}:{recommended(release.quants).method.upper()}"
    return f"""With [llama.cpp](https://github.com/ggml-org/llama.cpp):

```sh
llama-cli -hf {file} -p "{QUESTION}"
```

With [Ollama](https://ollama.com):

```sh
ollama run hf.co/{file} "{QUESTION}"
```

The chat template (ChatML) and the end-of-turn token are in the files."""


_USAGE = {"adapter": _run_adapter, "merged": _run_merged, "gguf": _run_gguf}


def _number(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
