"""The gate of one quant: how far it may be from the 16-bit GGUF."""

from retune.config import Quantization

# What each limit of the gate is held against, in words.
WORDS = {
    "max_perplexity_ratio": "perplexity over the 16-bit GGUF's",
    "max_kl_divergence": "KL divergence from the 16-bit GGUF",
    "min_same_top_token": "share of tokens with the same top rank",
    "max_exact_match_drop": "loss of exact match",
    "max_stopped_drop": "loss of answers that end by themselves",
}


def verdict(
    metrics: dict[str, float], source: dict[str, float], config: Quantization, method: str
) -> str:
    """Return why this quant must not ship: each measure, its value, limit and setting. Else ""."""
    seen = {
        "max_perplexity_ratio": metrics["perplexity_ratio"],
        "max_kl_divergence": metrics["kl_divergence"],
        "min_same_top_token": metrics["same_top_token"],
        "max_exact_match_drop": source["exact_match"] - metrics["exact_match"],
        "max_stopped_drop": source["stopped"] - metrics["stopped"],
    }
    failures = []
    for setting, limit in config.gate(method).model_dump().items():
        value, least = seen[setting], setting.startswith("min_")
        if not (value >= limit if least else within(value, limit)):
            bound = "at least" if least else "at most"
            failures.append(
                f"{WORDS[setting]} {value:.4g}, {bound} {limit:g} "
                f"(quantization.gates.{method}.{setting})"
            )
    return "; ".join(failures)


def within(value: float, limit: float) -> bool:
    """Tell whether `value` is at most `limit`, but for rounding: 0.9 - 0.8 is more than 0.1."""
    return value <= limit + 1e-9
