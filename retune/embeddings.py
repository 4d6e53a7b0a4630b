"""Embedding rows for ChatML's tokens, where the base model has none or has not learned them.

For child processes; imports torch where it is used.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from retune.chat import new_tokens
from retune.loaders import load_tokenizer
from retune.recipe import RecipeError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from retune.recipe import Model


def fit_embeddings(
    loaded: "PreTrainedModel", model: "Model", revision: str | None, tokenizer: Path
) -> list[int]:
    """Make the base model `loaded` fit the tokenizer of its training; return the new tokens' ids.

    Call it wherever a base is loaded that an adapter is put on. Input and output embeddings grow to
    the tokenizer's size if they are smaller, and the rows of the tokens that the base has not
    learned become the mean of all others, which keeps the base's own predictions nearly as they
    were (Hewitt 2021, "Initializing new word embeddings for pretrained language models"). These
    rows, (ids, hidden size), are trained; an adapter brings its own (see `lora_settings`), and a
    merge needs no other value for them. Nothing changes, and the list is empty, for a base that
    knows all of its tokens, and always with `chat_tokens: map_eos`. Raises RecipeError for an output
    layer whose rows cannot be trained singly.
    """
    import torch

    trained_with = load_tokenizer(tokenizer)
    new = new_tokens(model.base, revision, trained_with, model.chat_tokens)
    if not new:
        return []
    if getattr(loaded.get_output_embeddings(), "bias", None) is not None:
        raise RecipeError(
            f"model.chat_tokens={model.chat_tokens}: the output layer of {model.base} has a bias, which "
            f"PEFT leaves out where it trains single rows; set model.chat_tokens=map_eos"
        )
    embeddings: Any = loaded.get_input_embeddings()
    if len(trained_with) > embeddings.num_embeddings:
        loaded.resize_token_embeddings(len(trained_with), mean_resizing=False)
    with torch.no_grad():
        for layer in _layers(loaded).values():
            layer.weight[new] = _mean_of_others(layer.weight, new)
    return new


def lora_settings(loaded: "PreTrainedModel", new: list[int]) -> dict[str, Any]:
    """Return the settings of PEFT's LoraConfig that train the rows of the tokens `new`.

    Both matrices are named; if they are tied, PEFT trains one row for the two.
    """
    return {"trainable_token_indices": dict.fromkeys(_layers(loaded), new)} if new else {}


def unmoved_layers(trained: Any) -> list[str]:
    """Return the embeddings of a trained PEFT model whose new rows are as they were at the start.

    A kernel that reads the weights past PEFT's wrapper would leave them so without a word.
    """
    import torch

    return [
        name.removesuffix(".token_adapter")
        for name, layer in trained.named_modules()
        if name.endswith(".token_adapter")
        and torch.equal(
            layer.trainable_tokens_delta["default"].to(layer.weight.dtype),
            layer.trainable_tokens_original["default"].to(layer.weight.dtype),
        )
    ]


def _layers(loaded: "PreTrainedModel") -> dict[str, Any]:
    """Return input and output embedding by their names in the model."""
    embeddings = (loaded.get_input_embeddings(), loaded.get_output_embeddings())
    return {name: layer for name, layer in loaded.named_modules() if layer in embeddings}


def _mean_of_others(weight: "torch.Tensor", new: list[int]) -> "torch.Tensor":
    """Return the mean row of `weight` without the rows `new`, in 32 bits: 128,000 rows are summed."""
    import torch

    total = weight.sum(dim=0, dtype=torch.float32) - weight[new].sum(dim=0, dtype=torch.float32)
    return (total / (len(weight) - len(new))).to(weight.dtype)
