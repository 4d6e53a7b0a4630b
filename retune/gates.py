"""The expectations of every gate but the data gate's (see `retune.flaws`), by the stage judged.

`<gate>.<name>` is a key of a recipe's `gates.severities`. The names of conform's hang on the base.
"""

EXPECTATIONS: dict[str, tuple[str, ...]] = {
    "conform": (),
    "format": ("truncated_share",),
    "train": (),  # of one that diverged there is no output that could pass
    "evaluate": ("loss_ratio",),
    "merge": ("changed_share", "kl", "top1_agreement", "perplexity_ratio", "4bit"),
    "convert": ("eos", "prompts", "stopped", "exact_match"),
    "quantize": (
        *("loads", "perplexity_ratio", "kl_divergence", "same_top_token"),
        *("exact_match", "stopped"),
    ),
    "publish": ("verified",),
}


def is_known(key: str) -> bool:
    """Tell whether `<gate>.<name>` names an expectation; of conform any may exist."""
    gate, _, name = key.partition(".")
    return name in EXPECTATIONS.get(gate, ()) or (gate == "conform" and bool(name))
