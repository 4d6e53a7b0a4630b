"""A tiny random model of a base's architecture: what goes to llama.cpp, and what a rehearsal takes."""

import logging
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from retune.chat import encode
from retune.loaders import head_size, load_config, new_model, optional_file, strip_code
from retune.recipe import Model
from tasks.conform.checks import CHATS, rendered

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

LAYERS = 2
LAYER_KINDS = ("layer_types", "mlp_layer_types")
DENSE_LAYERS = ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index")  # how many
WIDTH = 64  # a multiple of llama.cpp's blocks, which rows are quantized in
CHUNK = 32
# Of a base, beside its configuration and weights.
OF_THE_BASE = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja"),
    "generation_config.json",
)


class Tiny(NamedTuple):
    """A tiny model that was saved, and the files of its tokenizer."""

    model: "PreTrainedModel"
    tokenizer_files: list[Path]


def random_model(model: Model, revision: str | None) -> "PreTrainedModel":
    """Return a tiny model of the base's architecture, without a token that pads; of the base only
    `config.json` is read."""
    config = _tiny_config(model, revision)
    config.get_text_config().pad_token_id = None  # whose row would be zero
    return _random_model(config)


def save_tiny(
    model: Model,
    revision: str | None,
    tokenizer: "PreTrainedTokenizerBase",
    folder: Path,
    drawn: "PreTrainedModel | None" = None,
) -> Tiny:
    """Save a random model of the base's architecture with `tokenizer`, as merge would save it.

    Of the base only `config.json` is read. The weights are those of `drawn`, a `random_model` of it,
    where they fit the tokenizer: to draw as many for the embeddings of 150,000 tokens takes a core a
    second.
    """
    config = _tiny_config(model, revision)
    config.get_text_config().vocab_size = max(config.get_text_config().vocab_size, len(tokenizer))
    for kind in ("bos", "eos", "pad"):
        setattr(config, f"{kind}_token_id", getattr(tokenizer, f"{kind}_token_id"))
    tiny = (drawn and _with_weights_of(drawn, config)) or _random_model(config)
    tiny.save_pretrained(folder)
    files = tokenizer.save_pretrained(folder)
    strip_code(folder)
    return Tiny(tiny, [path for path in map(Path, files) if path.exists()])


def save_twin(
    model: Model,
    revision: str | None,
    tokenizer: "PreTrainedTokenizerBase",
    folder: Path,
    tiny: Tiny | None = None,
) -> None:
    """Save what a rehearsal takes: `base/`, random weights of the base's architecture and all else as
    the base has it, `tokenizer/`, as trained with, and `rows.parquet` with `input_ids`.

    Weights and tokenizer may be those of `tiny`, which was saved before and is not used again.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    base = folder / "base"
    config = _tiny_config(model, revision)
    twin = (tiny and _with_weights_of(tiny.model, config)) or _random_model(config)
    twin.save_pretrained(base)
    for name in OF_THE_BASE:
        if found := optional_file(model.base, name, revision):
            shutil.copyfile(found, base / name)
    strip_code(base)
    if tiny:
        (folder / "tokenizer").mkdir(exist_ok=True)
        for path in tiny.tokenizer_files:
            shutil.copyfile(path, folder / "tokenizer" / path.name)
    else:
        tokenizer.save_pretrained(folder / "tokenizer")
        strip_code(folder / "tokenizer")
    texts = [text for text in (rendered(tokenizer, chat) for chat in CHATS.values()) if text]
    pq.write_table(pa.table({"input_ids": encode(tokenizer, texts)}), folder / "rows.parquet")


def _tiny_config(model: Model, revision: str | None) -> "PretrainedConfig":
    config = load_config(model.base, revision)
    shrink(config)
    return config


def _random_model(config: "PretrainedConfig") -> "PreTrainedModel":
    import torch

    # Loaded with the model's class; they have things to say that nobody here can act on.
    for talkative in ("torchao", "torch.utils._pytree"):
        logging.getLogger(talkative).setLevel(logging.ERROR)
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.manual_seed(0)  # so that a run that is made again conforms alike
    return new_model(config, torch.bfloat16)


def _with_weights_of(
    other: "PreTrainedModel", config: "PretrainedConfig"
) -> "PreTrainedModel | None":
    """Return a model of `config` with the weights of `other`, None where they have other shapes.

    To draw random numbers for the embeddings of 150,000 tokens takes a core a second. `other` is not
    to be used any more.
    """
    import torch

    with torch.device("meta"):
        model = new_model(config, torch.bfloat16)
    weights = other.state_dict()
    if _shapes(model.state_dict()) != _shapes(weights):
        return None
    model.load_state_dict(weights, assign=True)
    paddings = _paddings(other)
    for path, padding in _paddings(model).items():
        rows: Any = model.get_submodule(path).weight.data
        before = paddings[path]
        if before is not None and before != padding:
            # Its row is zero; here the token is one like any other.
            std = getattr(config.get_text_config(), "initializer_range", 0.02)
            rows[before].normal_(std=std)
        if padding is not None:
            rows[padding].zero_()
    return model


def _paddings(model: "PreTrainedModel") -> dict[str, int | None]:
    """Return which token of each embedding pads, whose row is zero."""
    from torch.nn import Embedding

    modules = model.named_modules()
    return {path: module.padding_idx for path, module in modules if isinstance(module, Embedding)}


def _shapes(weights: "dict[str, torch.Tensor]") -> "dict[str, tuple[torch.Size, torch.dtype]]":
    return {name: (tensor.shape, tensor.dtype) for name, tensor in weights.items()}


def shrink(config: "PretrainedConfig") -> None:
    """Make a configuration tiny: few narrow layers, as few attention heads as make up whole blocks.

    The size of a head stays because factors of rotary embeddings fit it. The layers are the base's
    first ones, so many that there is one of each kind: of LFM2's, which begin with convolutions,
    llama.cpp loads none without attention; of DeepSeek's first dense ones there is one, so that a
    mixture follows. Where keys have as many heads as queries, as in DeepSeek's latent attention, they
    still do.
    """
    vars(config).pop("quantization_config", None)
    text = config.get_text_config()
    head = head_size(text)
    heads = WIDTH // math.gcd(head, WIDTH)
    grouped = getattr(text, "num_key_value_heads", None) != getattr(
        text, "num_attention_heads", None
    )
    kinds = [name for name in LAYER_KINDS if getattr(text, name, None)]
    layers = max([LAYERS, *(_layers_of_each_kind(getattr(text, name)) for name in kinds)])
    sizes = {
        "hidden_size": heads * head,
        "num_attention_heads": heads,
        "num_key_value_heads": 1 if grouped else heads,
        "num_hidden_layers": layers,
        **dict.fromkeys(
            ("intermediate_size", "moe_intermediate_size", "shared_intermediate_size"), WIDTH
        ),
        **_mixture(text),
        **_mamba(text, heads * head),
    }
    for name, size in sizes.items():
        if getattr(text, name, None) is not None:
            setattr(text, name, size)
    for name in kinds:
        setattr(text, name, getattr(text, name)[:layers])
    for other in ("vision_config", "audio_config"):  # what sees and hears is not trained
        if hasattr(getattr(config, other, None), "num_hidden_layers"):
            getattr(config, other).num_hidden_layers = 1


def _mixture(text: "PretrainedConfig") -> dict[str, int]:
    """Return the sizes of a mixture of experts that still chooses as the large one does.

    Two of four, unless the base asks one: the weight of a single expert, normalised, is 1 however it
    was computed. Groups of experts stay groups, so that there are some that are not asked.
    """

    def at_most(most: int, name: str) -> int:
        return min(most, getattr(text, name, None) or 0)

    groups = at_most(2, "n_group")
    return {
        # None where the base has none: Granite's dense models have a mixture's configuration.
        **{
            name: at_most(4, name)
            for name in ("num_experts", "num_local_experts", "n_routed_experts")
        },
        "num_experts_per_tok": at_most(2, "num_experts_per_tok"),
        "n_group": groups,
        "topk_group": 1
        if getattr(text, "topk_group", 0) != getattr(text, "n_group", 0)
        else groups,
        **{name: at_most(1, name) for name in DENSE_LAYERS},
    }


def _mamba(text: "PretrainedConfig", width: int) -> dict[str, int]:
    """Return the sizes of Mamba's layers (Granite 4's) in a model of this width: what they make of it
    is as wide as their heads together. None of a model without such layers."""
    head, groups = getattr(text, "mamba_d_head", None), getattr(text, "mamba_n_groups", None)
    if not isinstance(head, int) or not groups:
        return {}
    inside = text.mamba_expand * width
    heads = inside // math.gcd(head, inside)
    return {
        "mamba_d_head": inside // heads,
        "mamba_n_heads": heads,
        "mamba_n_groups": math.gcd(groups, heads),
        # Of tokens that are computed at a time, short rows filled up to as many.
        "mamba_chunk_size": CHUNK,
    }


def _layers_of_each_kind(kinds: Sequence[str]) -> int:
    """Return how many of the first layers have one of each kind."""
    return max(kinds.index(kind) + 1 for kind in set(kinds))
