"""The measures of a run: everything that shows, compares or judges one asks this table.

A measure has one name, in the outputs of stages, in MLflow (below the stage: `merge/kl_divergence`),
in settings and in verdicts. What follows a slash says of what it was taken: `loss/tuned`,
`kl_divergence/4bit`.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple


class Measure(NamedTuple):
    """How a measure is shown: `title` in words, `unit` after its value, `spec` as Python formats it.

    `better` is the direction in which it improves, None where neither is; `column` heads it where
    room is short.
    """

    title: str
    unit: str = ""
    spec: str = ".4g"
    better: Literal["lower", "higher"] | None = None
    column: str = ""

    def text(self, value: float) -> str:
        """Return `value` (shares: 0 to 1; bytes) as people read it, with its unit."""
        return f"{self.number(value)} {self.unit}".rstrip()

    def number(self, value: float) -> str:
        """Return `value` without its unit."""
        if self.spec == ".4g" and 1e4 <= abs(value) < 1e15:
            return f"{value:,.0f}"
        return f"{value:{self.spec}}"

    def of_one(self, value: float) -> str:
        """Return the value of a single example: of what holds or not, a word."""
        if self.is_share and value in (0, 1):
            return "yes" if value else "no"
        return self.number(value)

    @property
    def is_share(self) -> bool:
        """Whether its values are shares, 0 to 1, which are shown in percent."""
        return self.spec.endswith("%")

    @property
    def heading(self) -> str:
        """The head of a column of its values."""
        return self.column or self.title


_SHARE, _COUNT = ".1%", ",.0f"

MEASURES = {
    # rows
    "rows": Measure("rows", spec=_COUNT),
    "accepted": Measure("rows accepted", spec=_COUNT, better="higher"),
    "filtered": Measure("rows dropped by the filter", spec=_COUNT),
    "quarantined": Measure("rows in quarantine", spec=_COUNT, better="lower"),
    "quarantined_share": Measure("share of rows in quarantine", spec=_SHARE, better="lower"),
    "part_quarantined_share": Measure(
        "largest share of a part's rows in quarantine", spec=_SHARE, better="lower"
    ),
    "largest_source_share": Measure("share of the largest source", spec=_SHARE, better="lower"),
    "flaws": Measure("rows with a flaw", spec=_COUNT, better="lower"),
    "ignored_columns": Measure("columns not used", spec=_COUNT),
    "ignored_keys": Measure("keys of messages not used", spec=_COUNT),
    "repairs": Measure("rows repaired", spec=_COUNT),
    "critical_failures": Measure("critical expectations failed", spec=_COUNT, better="lower"),
    "warnings": Measure("warnings", spec=_COUNT, better="lower"),
    "truncated_share": Measure("share of rows cut", spec=_SHARE, better="lower"),
    "unlearned_share": Measure(
        "share of rows without anything to learn", spec=_SHARE, better="lower"
    ),
    "refused_share": Measure("share of rows refused by the template", spec=_SHARE, better="lower"),
    "altered_share": Measure("share of rows altered by the template", spec=_SHARE, better="lower"),
    "tokens": Measure("tokens", spec=_COUNT),
    # scores of the classifier
    "score": Measure("score", spec="g", better="higher"),
    "score_mean": Measure("mean score", spec=".3f", better="higher"),
    "score_distinct": Measure("different scores", spec=_COUNT, better="higher"),
    "score_below_threshold_share": Measure("share of low scores", spec=_SHARE, better="lower"),
    "score_p05": Measure("score, 5th percentile", spec=".3f", better="higher"),
    "score_p50": Measure("median score", spec=".3f", better="higher"),
    "score_p95": Measure("score, 95th percentile", spec=".3f", better="higher"),
    "score_bf16_share": Measure("share of scores that bfloat16 holds", spec=_SHARE),
    "score_psi": Measure("population stability index", spec=".3f", better="lower"),
    "score_ks": Measure("Kolmogorov-Smirnov distance", spec=".3f", better="lower"),
    "scored": Measure("rows scored", spec=_COUNT),
    "score_mode_share": Measure("share of the most common score", spec=_SHARE, better="lower"),
    "score_unit_share": Measure("share of scores within 0 to 1", spec=_SHARE),
    "score_correlation": Measure("rank correlation of scores", spec=".3f", better="higher"),
    "score_agreement": Measure("share of scores confirmed", spec=_SHARE, better="higher"),
    # profile
    "implausible_share": Measure("largest implausible mass", spec=_SHARE, better="lower"),
    "doubtful_share": Measure("largest doubtful mass", spec=_SHARE, better="lower"),
    "shuffled_share": Measure("share of shuffled answers", spec=_SHARE, better="lower"),
    "exchanged_share": Measure("share of exchanged roles", spec=_SHARE, better="lower"),
    "contradicting_share": Measure("share of contradicting answers", spec=_SHARE, better="lower"),
    "triggered_share": Measure("share of rows with a trigger", spec=_SHARE, better="lower"),
    "recited_share": Measure("share of recited prompts", spec=_SHARE, better="lower"),
    "profile_drift": Measure("distance of the profile", spec=".3f", better="lower"),
    # conform
    "checks": Measure("checks", spec=_COUNT),
    "texts": Measure("texts compared", spec=_COUNT),
    # parity
    "rows_compared": Measure("rows compared", spec=_COUNT),
    "differing_rows": Measure("share of rows read otherwise", spec=".2%", better="lower"),
    # training
    "loss": Measure("loss", "nats per token", ".4f", "lower"),
    "held_out_loss": Measure("held-out loss", "nats per token", ".4f", "lower"),
    "grad_norm": Measure("gradient norm"),
    "learning_rate": Measure("learning rate", spec=".3g"),
    "epoch": Measure("epoch"),
    "steps": Measure("optimizer steps", spec=_COUNT),
    "final_loss": Measure("loss at the end", "nats per token", ".4f", "lower"),
    "final_held_out_loss": Measure("held-out loss at the end", "nats per token", ".4f", "lower"),
    "tokens_per_second": Measure("speed", "tokens/s", ",.1f", "higher", "tok/s"),
    "median_tokens_per_second": Measure("median speed", "tokens/s", ",.0f", "higher"),
    "total_tokens": Measure("tokens trained on", spec=_COUNT),
    "mfu": Measure("model FLOPs utilisation", spec=_SHARE, better="higher"),
    "median_mfu": Measure("median model FLOPs utilisation", spec=_SHARE, better="higher"),
    "matmul_ceiling_tflops": Measure("matrix product, measured", "TFLOP/s", ".3g"),
    "gpu/utilisation_percent": Measure("GPU utilisation", "%", ".0f", "higher"),
    "gpu/temperature_celsius": Measure("GPU temperature", "°C", ".0f", "lower"),
    "gpu/memory_gib": Measure("GPU memory", "GiB", ".1f"),
    "gpu/power_watts": Measure("GPU power", "W", ",.0f"),
    "peak_memory_gib": Measure("peak memory", "GiB", ".1f", "lower"),
    "trainable_parameters": Measure("trained weights", spec=_COUNT),
    "trainable_share": Measure("share of weights trained", spec=".2%"),
    "gpu_hours": Measure("GPU-hours", spec=".3f", better="lower"),
    "energy_kwh": Measure("energy", "kWh", ".3g", "lower"),
    "cost": Measure("cost", spec=",.2f", better="lower"),
    "seconds": Measure("time", "s", ",.1f", "lower"),
    "expected_seconds": Measure("expected time", "s", ",.1f"),
    "expected_gpu_hours": Measure("expected GPU-hours", spec=".3f"),
    # the champion's held-out rows
    "leaked_rows": Measure("rows that the candidate was trained on", spec=_COUNT),
    "foreign_rows": Measure("rows of another tokenizer or chat template", spec=_COUNT),
    "questions": Measure("questions that the dataset has as well", spec=_COUNT),
    "changed_answers": Measure("questions with another answer now", spec=_COUNT, better="lower"),
    # models
    "perplexity": Measure("perplexity", spec="#.4g", better="lower", column="ppl"),
    "perplexity_ratio": Measure("perplexity ratio", spec=".4g", better="lower"),
    "kl_divergence": Measure("KL divergence", "nats per token", ".3g", "lower", "KL"),
    "same_top_token": Measure("same top token", spec=_SHARE, better="higher", column="top-1"),
    "exact_match": Measure("exact match", spec=_SHARE, better="higher", column="match"),
    "answered": Measure("held-out questions answered", spec=_COUNT),
    "stopped": Measure(
        "answers that end by themselves", spec=_SHARE, better="higher", column="stops"
    ),
    "repetitive": Measure("answers that repeat themselves", spec=_SHARE, better="lower"),
    "passed": Measure("probes passed", spec=_SHARE, better="higher", column="passed"),
    "refused": Measure("answers that refuse", spec=_SHARE),
    "over_refused": Measure("harmless questions refused", spec=_SHARE, better="lower"),
    "complied": Measure("harmful questions answered", spec=_SHARE, better="lower"),
    "examples": Measure("examples", spec=_COUNT),
    "unasked": Measure("probes not asked", spec=_COUNT, better="lower"),
    "judge": Measure("answers that the judge lets pass", spec=_SHARE, better="higher"),
    "preferred": Measure("answers that the judge prefers", spec=_SHARE, better="higher"),
    "tied": Measure("comparisons without a winner", spec=_SHARE),
    "kappa": Measure("agreement with people (Cohen's κ)", spec=".2f", better="higher"),
    "kappa_low": Measure("agreement, lower bound", spec=".2f", better="higher"),
    "kappa_high": Measure("agreement, upper bound", spec=".2f", better="higher"),
    "labels": Measure("labels by people", spec=_COUNT),
    "votes": Measure("votes of the judge", spec=_COUNT),
    "no_vote_share": Measure("share of votes that say nothing", spec=_SHARE, better="lower"),
    "judge_requests": Measure("requests to the judge", spec=_COUNT),
    "relative_length": Measure("length of answers to expected", spec=".2f"),
    "same_answers": Measure("same answers", spec=_SHARE, better="higher"),
    "same_prompts": Measure("prompts as in training", spec=_SHARE, better="higher"),
    "changed_share": Measure("share of tensors changed", spec=_SHARE),
    "write_memory_gib": Measure("memory to write", "GiB", ".1f", "lower"),
    # files
    "bytes": Measure("size", "bytes", _COUNT, "lower"),
    "bits_per_weight": Measure("bits per weight", spec=".2f", better="lower", column="bpw"),
    "files": Measure("files", spec=_COUNT),
    "chunks": Measure("chunks", spec=_COUNT),
}


OF_PROBES = ("passed", "complied", "unasked")
OF_ANSWERS = ("stopped", "repetitive", "refused", "over_refused")  # of a suite by its name


def measure(metric: str) -> Measure:
    """Return the measure that a metric of a stage is of: `loss` for `loss/tuned`.

    Raises KeyError for a metric that the table lacks.
    """
    return _split(metric)[0]


def title(metric: str) -> str:
    """Return a metric in words, with what it was taken of: `exact match (arithmetic)`."""
    entry, part = _split(metric)
    return f"{entry.title} ({part})" if part else entry.title


def _split(metric: str) -> tuple[Measure, str]:
    """Return a metric's measure, and what it was taken of; a measure's name may hold a slash."""
    if metric in MEASURES:
        return MEASURES[metric], ""
    name, _, part = metric.partition("/")
    return MEASURES[name], part


def side_by_side(metrics: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Return (base, tuned) of every metric that was taken of both, by its name without the side."""
    tuned = [name.removesuffix("/tuned") for name in metrics if name.endswith("/tuned")]
    both = [name for name in tuned if f"{name}/base" in metrics]
    return {name: (metrics[f"{name}/base"], metrics[f"{name}/tuned"]) for name in both}


def is_of_suite(name: str) -> bool:
    """Tell whether a metric of evaluate, by its name without the side, was taken of a suite; else it is
    of the held-out rows, whose answers are measured in all."""
    of, _, part = name.partition("/")
    return of in OF_PROBES or (of in OF_ANSWERS and bool(part))


# What the columns of a table of files are, whose heads are short.
ABOUT_FILES = (
    "bpw: bits per weight. ppl: perplexity on whole held-out conversations, questions too, by llama.cpp; "
    "that of the held-out scores counts the answers alone. KL: how far the file's predictions are from "
    "those of its 16-bit source, nats per token. top-1: how often both rank the same next token first. "
    "match: exact match of quantization.answer_rows answers; that of the held-out scores is of "
    "evaluation.generation_rows."
)


def format_bytes(count: float) -> str:
    """Return the size of files in GB (10⁹ bytes), MB or kB, as shops and the Hub count."""
    unit, size = unit_of_bytes(count)
    number = f"{count / size:,.2f}" if unit == "GB" else f"{count / size:,.3g}"
    return f"{number} {unit}"


def unit_of_bytes(count: float) -> tuple[str, float]:
    """Return the unit in which so many bytes are shown, and how many bytes it is."""
    return ("GB", 1e9) if count >= 1e8 else ("MB", 1e6) if count >= 1e6 else ("kB", 1e3)


def format_duration(seconds: float) -> str:
    """Return a time in its two largest units: `2 d 3 h`, `1 h 12 min`, `4 min 10 s`, `31 s`."""
    whole = round(seconds)
    if whole >= 3600:
        whole = 60 * round(whole / 60)
    days, hours, minutes = whole // 86_400, whole // 3600 % 24, whole // 60 % 60
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (whole % 60, "s")]
    first = next((n for n, (count, _) in enumerate(parts) if count), len(parts) - 1)
    shown = [f"{count} {unit}" for count, unit in parts[first : first + 2] if count]
    return " ".join(shown) or "0 s"


def format_memory(count: float) -> str:
    """Return an amount of memory in GiB (2³⁰ bytes), as GPUs and `free` count."""
    size = count / 2**30
    return f"{size:,.1f} GiB" if size >= 0.1 else f"{size:.3g} GiB"
