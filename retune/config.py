"""The recipe: one tree of settings, one section per stage, every default written once.

A deployment's `parameters:` in `prefect.yaml` is a recipe, and so is a YAML file given to the
command line. Prefect builds its run form from the descriptions below.
"""

import re
from difflib import get_close_matches
from pathlib import Path
from reprlib import Repr
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from retune.flaws import DATASET_EXPECTATIONS, FLAWS, Severity
from retune.gates import EXPECTATIONS, is_known
from retune.workspace import home

QUANTIZATION_METHODS = ("q2_k", "q3_k_m", "q4_k_m", "q5_k_m", "q6_k", "q8_0")
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

MOST_LINES = 20  # of mistakes that are named at once

_UNREADABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")  # tab and line break are
_SHORT = Repr()  # of Python's, which goes neither deep nor far
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 78

# Every number and text has an upper bound, far above what is of use: what the libraries below would
# choke on hours later is refused when the recipe is read.
Share = Annotated[float, Field(ge=0, le=1)]
Score = Annotated[float, Field(ge=-1e9, le=1e9)]
Line = Annotated[str, Field(max_length=4_096)]  # an id, a path, a revision, a name
Phrase = Annotated[str, Field(max_length=10_000)]


def _in_home(name: str) -> str:
    """Return where `.retune/…` is if RETUNE_HOME has moved it: the demo's inputs are made there."""
    usual, moved = Path(".retune").absolute(), home()
    if moved == usual or not name.startswith(".retune/"):
        return name
    there = moved / name.removeprefix(".retune/")
    return str(there) if there.exists() else name


Source = Annotated[Line, AfterValidator(_in_home)]  # a Hub id or a path


class RecipeError(ValueError):
    """A recipe that cannot run: one line per mistake, each with the value seen and the way out."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_truth_value(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse `seed: on`, which YAML reads as true and pydantic as 1."""
        kinds = _kinds(cls.model_fields[info.field_name].annotation)
        if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
            raise ValueError("should be a number, not a truth value")
        return value

    @field_validator("*")
    @classmethod
    def _is_readable(cls, value: Any) -> Any:
        """Refuse control characters, which no path, name or sentence has and some libraries cut at."""
        texts = value if isinstance(value, tuple | dict) else (value,)
        for text in texts:
            if isinstance(text, str) and (found := _UNREADABLE.search(text)):
                raise ValueError(f"holds the character {found[0]!a}; remove it")
        return value


def _kinds(annotation: Any) -> set[Any]:
    """Return the types of an annotation: {int, NoneType} for `Annotated[int, …] | None`."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if isinstance(annotation, UnionType) or get_origin(annotation) is Union:
        return set().union(*map(_kinds, get_args(annotation)))
    return {annotation}


def _hint(word: str, known: Any) -> str:
    close = get_close_matches(str(word), [str(k) for k in known], n=1, cutoff=0.7)
    return (
        f"; did you mean {close[0]!r}?" if close else f"; use one of: {', '.join(map(str, known))}"
    )


def _all_known(named: Any, known: Any, kind: str) -> Any:
    for name in named:
        if name not in known:
            raise ValueError(f"{_shown(name)} is not {kind}{_hint(str(name)[:80], known)}")
    return named


class Model(Section):
    """The base model that is fine-tuned."""

    base: Source = Field(
        description="Hub id or folder of the base model, e.g. unsloth/Meta-Llama-3.1-8B-bnb-4bit.",
        min_length=1,
    )
    revision: Line | None = Field(
        None,
        description="Branch, tag or commit of the base model on the Hub; empty: its main branch.",
    )
    max_length: int = Field(
        2048,
        ge=16,
        le=16_777_216,
        description="Longest sequence that is trained on, in tokens; longer ones are cut.",
    )
    load_in_4bit: bool = Field(
        True, description="QLoRA: hold the frozen weights in 4-bit NF4. Off: 16-bit LoRA."
    )
    chat_tokens: Literal["map_eos", "reserved", "add"] = Field(
        "map_eos",
        description="Where ChatML's tokens come from if the base has none: its EOS becomes <|im_end|> "
        "(map_eos, as in the article), two reserved tokens of its tokenizer (reserved), or two new "
        "tokens whose embedding rows are trained and saved with the adapter (add).",
    )
    trust_remote_code: str | None = Field(
        None,
        max_length=71,
        pattern=r"^([0-9a-f]{40}|sha256:[0-9a-f]{64})$",
        description="The version of the base whose own Python code may run here, once you have read it: "
        "a commit of the Hub, or sha256:… of a folder; empty: none runs.",
    )

    def trusts(self, revision: str | None) -> bool:
        """Tell whether the base's own code may run at this commit (None: a folder, pinned as such)."""
        allowed = self.trust_remote_code
        if allowed is None:
            return False
        return allowed.startswith("sha256:") if revision is None else allowed == revision


class Dataset(Section):
    """Where the conversations come from."""

    source: Source = Field(
        description="Hub dataset id, or a local .jsonl, .json, .parquet, .csv or .arrow file.",
        min_length=1,
    )
    revision: Line | None = Field(
        None, description="Branch, tag or commit of the Hub dataset; empty: its main branch."
    )
    subset: Line | None = Field(None, description="Subset (configuration name) of the Hub dataset.")
    split: Line = Field(
        "train",
        pattern=r"^[\w.]+(\[\d*%?:\d*%?\])?$",
        description="Split to read, with an optional slice in rows or percent, e.g. train[:10000].",
    )
    max_row_bytes: int = Field(
        64 << 20,
        ge=1024,
        le=1 << 40,
        description="Largest row that is read, in bytes as stored; a larger one is quarantined.",
    )
    max_row_values: int = Field(
        500_000,
        ge=10,
        le=10**9,
        description="Most values of a row that is read: keys of its objects and elements of its "
        "lists, at all depths; a row with more is quarantined.",
    )
    max_row_depth: int = Field(
        100,
        ge=5,
        le=900,  # beyond it Python's own reader of JSON gives up
        description="Deepest nesting of a row that is read, in lists and objects within each other; "
        "a deeper row is quarantined.",
    )
    max_rows: int = Field(
        50_000_000,
        ge=1,
        le=10**12,
        description="Most rows that are read; a source with more ends the run.",
    )
    max_unpacked_bytes: int = Field(
        64 << 30,
        ge=1 << 20,
        le=1 << 50,
        description="Most that the compressed files of a split may unfold to in all, in bytes.",
    )
    memory_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share of the machine's free memory that reading may take, 0 to 1, but 1 GiB in "
        "any case; a source that takes more ends the run.",
    )
    quiet_minutes: int = Field(
        30,
        ge=1,
        le=10_000,
        description="Longest time without a further batch of rows, in minutes; then reading ends.",
    )


class Classifier(Section):
    """The sequence-classification model behind the scores."""

    model: Line = Field(
        "HuggingFaceFW/fineweb-edu-classifier",
        min_length=1,
        description="Hub id or folder of a sequence-classification model with one output.",
    )
    revision: Line | None = Field(
        None, description="Branch, tag or commit of the classifier; empty: its main branch."
    )
    score: Literal["absent", "missing", "all", "never"] = Field(
        "absent",
        description="Which rows it scores: all if no row has a score (absent), those without one "
        "(missing), all in any case, or none. Only rows without other flaws are scored.",
    )
    sample: int = Field(
        0,
        ge=0,
        le=1_000_000_000,
        description="Stored scores that are computed again to see whether they hold, in rows.",
    )
    tolerance: float = Field(
        0.1, gt=0, le=1e9, description="Largest difference at which a stored score still agrees."
    )
    min_agreement: Share = Field(
        0.95, description="Smallest share of the sample that must agree, 0 to 1."
    )
    max_length: int = Field(
        512,
        ge=8,
        le=1_000_000,
        description="Tokens of a conversation that it reads; the rest is cut.",
    )
    batch_tokens: int = Field(
        32_768, ge=512, le=1_000_000_000, description="Tokens per forward pass, padding included."
    )


class Drift(Section):
    """How far scores may move from those of the last accepted run of the same recipe."""

    max_psi: float = Field(
        0.25,
        gt=0,
        le=1e6,
        description="Largest population stability index, over the old scores' deciles.",
    )
    max_ks: float = Field(
        0.15, gt=0, le=1, description="Largest Kolmogorov-Smirnov distance, 0 to 1."
    )


class Decontamination(Section):
    """Evaluation prompts that must not be trained on."""

    files: tuple[Line, ...] = Field(
        (),
        max_length=1000,
        description="Benchmark files (.jsonl, .json, .parquet, .csv, .arrow, .txt), all their texts.",
    )
    ngram: int = Field(
        13,
        ge=3,
        le=1_000,
        description="Words in a row that a conversation and a prompt may not share; a shorter prompt "
        "of at least 5 words counts as a whole.",
    )


class Validation(Section):
    """The data gate: what a dataset must fulfil before a GPU is touched."""

    min_rows: int = Field(
        100, ge=1, le=1_000_000_000, description="Fewest rows that must remain, in rows."
    )
    max_quarantined_share: Share = Field(
        0.1, description="Largest share of rows that may go to quarantine, 0 to 1."
    )
    max_source_share: Share | None = Field(
        None, description="Largest share of rows that may come from one source, 0 to 1."
    )
    tolerances: dict[Line, Share] = Field(
        default_factory=dict,
        max_length=1000,
        description="Share of rows that may have a flaw, by the flaw's name, 0 to 1, e.g. "
        "{refusal: 0.02}; see retune/flaws.py for the names and the defaults.",
    )
    severities: dict[Line, Severity] = Field(
        default_factory=dict,
        max_length=1000,
        description="critical (blocks), warning (is shown) or info (is logged), by expectation, e.g. "
        "{email: critical, max_psi: warning}.",
    )
    keep: tuple[Line, ...] = Field(
        (),
        max_length=1000,
        description="Flaws that are counted but leave the row in the dataset, e.g. [refusal].",
    )
    quarantine_rows: Literal["excerpts", "whole"] = Field(
        "excerpts",
        description="What is kept of rows in quarantine: masked excerpts, or also the whole rows, "
        "secrets included, in quarantine_rows.parquet, which never leaves the output's folder.",
    )
    max_message_chars: int = Field(
        200_000,
        ge=1,
        le=1_000_000_000,
        description="Longest message that is believable, in characters.",
    )
    min_compression: Share = Field(
        0.05,
        description="A message repeats itself when it compresses to a smaller share of its bytes.",
    )
    special_tokens: Literal["quarantine", "escape"] = Field(
        "quarantine",
        description="What happens to control tokens typed inside a message: the row goes to "
        "quarantine, or an invisible character makes plain text of them.",
    )
    refusals: tuple[Phrase, ...] = Field(
        (
            "sorry, but I can't",
            "sorry, but I cannot",
            "sorry, I can't",
            "sorry, I cannot",
            "I apologize, but I can",
            "I cannot assist with",
            "I can't assist with",
            "I cannot fulfill",
            "I can't help with that",
            "I'm not able to assist",
            "I am unable to assist",
            "I'm unable to assist",
            "I'm unable to help",
            "I do not feel comfortable",
            "I don't feel comfortable",
        ),
        max_length=10_000,
        description="Phrases that make an answer a refusal when it begins with them or nearly so.",
    )
    identities: tuple[Phrase, ...] = Field(
        (
            "as an AI language model",
            "as a large language model",
            "as an AI developed by",
            "as an AI model developed by",
            "I am ChatGPT",
            "I'm ChatGPT",
            "trained by OpenAI",
            "developed by OpenAI",
            "created by Anthropic",
            "developed by Anthropic",
            "I am Claude",
            "I'm Claude",
            "I am Qwen",
            "created by Alibaba",
            "developed by DeepSeek",
        ),
        max_length=10_000,
        description="Phrases by which an answer names the model or the maker that wrote it.",
    )
    languages: tuple[Line, ...] = Field(
        (),
        max_length=1000,
        description="ISO 639-1 codes of the languages wanted, e.g. [en, de]; empty: any.",
    )
    near_duplicate_similarity: float | None = Field(
        0.85,
        gt=0.5,
        le=1,
        description="Jaccard similarity of word 5-grams from which two rows are near duplicates; "
        "empty: not looked for.",
    )
    score_required: bool = Field(
        True, description="Whether every row must carry a classifier score."
    )
    score_min: Score = Field(
        0.0, description="Lowest score the classifier can give (its own scale)."
    )
    score_max: Score = Field(
        6.0, description="Highest score the classifier can give (its own scale)."
    )
    score_mean_min: Score | None = Field(
        None, description="The mean score must be at least this (classifier's scale)."
    )
    score_mean_max: Score | None = Field(
        None, description="The mean score must be at most this (classifier's scale)."
    )
    score_quantiles_min: dict[Share, Score] = Field(
        default_factory=dict,
        max_length=1000,
        description="The least score at each quantile, e.g. {0.05: 2.5, 0.5: 3.0}.",
    )
    score_threshold: Score | None = Field(
        None, description="Score below which few rows may lie (classifier's scale)."
    )
    max_below_threshold_share: Share = Field(
        0.1, description="Largest share of scores below score_threshold, 0 to 1."
    )
    min_distinct_scores: int = Field(
        20,
        ge=1,
        le=1_000_000_000,
        description="Fewest different scores; a classifier run in bf16 gives few.",
    )
    keep_score_min: Score | None = Field(
        None, description="Filter: train only on rows that score at least this."
    )
    keep_top_share: float | None = Field(
        None, gt=0, le=1, description="Filter: train only on this share of rows, the best by score."
    )
    classifier: Classifier = Field(Classifier(), description=Classifier.__doc__)
    drift: Drift = Field(Drift(), description=Drift.__doc__)
    decontamination: Decontamination = Field(Decontamination(), description=Decontamination.__doc__)

    def tolerance(self, flaw: str) -> float:
        """Return the share of rows that may have `flaw`, 0 to 1."""
        return self.tolerances.get(flaw, FLAWS[flaw].tolerance)

    def severity(self, expectation: str) -> Severity:
        """Return what happens when the expectation (a flaw's name, or a setting) is not met."""
        flaw = FLAWS.get(expectation)
        default = flaw.severity if flaw else DATASET_EXPECTATIONS[expectation]
        if expectation == "special_token" and self.special_tokens == "escape":
            default = "info"
        return self.severities.get(expectation, default)

    def quarantines(self, flaw: str) -> bool:
        """Tell whether rows with `flaw` leave the dataset."""
        if flaw == "special_token" and self.special_tokens == "escape":
            return False
        return FLAWS[flaw].quarantined and flaw not in self.keep

    @field_validator("tolerances", "keep")
    @classmethod
    def _flaws_are_known(cls, named: Any) -> Any:
        return _all_known(named, FLAWS, "a flaw of a row")

    @field_validator("severities")
    @classmethod
    def _expectations_are_known(cls, named: dict[str, Severity]) -> dict[str, Severity]:
        return _all_known(named, [*FLAWS, *DATASET_EXPECTATIONS], "an expectation")

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        if self.score_min > self.score_max:
            raise ValueError(
                f"score_min ({self.score_min}) is above score_max ({self.score_max}); swap them"
            )
        low, high = self.score_mean_min, self.score_mean_max
        if low is not None and high is not None and low > high:
            raise ValueError(f"score_mean_min ({low}) is above score_mean_max ({high}); swap them")
        if self.keep_score_min is not None and self.keep_top_share is not None:
            raise ValueError(
                f"keep_score_min ({self.keep_score_min}) and keep_top_share ({self.keep_top_share}) "
                f"are both set; choose one filter"
            )
        return self


class Formatting(Section):
    """From conversations to the text that the model sees."""

    held_out_share: float = Field(
        0.02,
        gt=0,
        lt=1,
        description="Share of conversations kept from training for evaluation, 0 to 1.",
    )
    max_truncated_share: Share = Field(
        0.25, description="Largest share of training rows that model.max_length may cut, 0 to 1."
    )


class Training(Section):
    """QLoRA, LoRA or full training; the defaults are the article's."""

    backend: Literal["unsloth", "trl"] = Field(
        "unsloth", description="Library that trains; trl (with PEFT) serves several GPUs."
    )
    processes: int = Field(
        1,
        ge=1,
        le=1_024,
        description="Processes on this machine, one per GPU; more than one needs trl.",
    )
    shard: bool = Field(
        False,
        description="Split the weights over the processes (FSDP2), for models that do not fit one GPU "
        "while training; needs trl.",
    )
    method: Literal["lora", "full"] = Field(
        "lora", description="Train an adapter, or all weights (needs model.load_in_4bit=false)."
    )
    master_weights: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="What method=full trains; bfloat16 takes half the memory, and rounds away an "
        "update of less than 1/512 of a weight, as most are at usual learning rates.",
    )
    train_on: Literal["all", "responses"] = Field(
        "all", description="Learn every token, or only the assistant's turns."
    )
    r: int = Field(16, ge=1, le=65_536, description="LoRA rank.")
    alpha: int = Field(
        16,
        ge=1,
        le=1_000_000,
        description="LoRA alpha; the update is scaled by alpha / r (rsLoRA: / √r).",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="LoRA dropout, 0 to 1; 0 is the fast path.")
    target_modules: tuple[Line, ...] = Field(
        PROJECTIONS, min_length=1, max_length=1000, description="Projections that get an adapter."
    )
    use_rslora: bool = Field(True, description="Rank-stabilised LoRA: scale by alpha / √r.")
    use_dora: bool = Field(False, description="DoRA: also learn each weight's magnitude; slower.")
    loraplus_ratio: float | None = Field(
        None,
        ge=1,
        le=1e6,
        description="LoRA+: how much faster the B matrices learn, e.g. 16; empty: equal.",
    )
    learning_rate: float = Field(3e-4, gt=0, lt=1, description="Peak learning rate.")
    lr_scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"] = Field(
        "linear", description="Course of the learning rate after warm-up."
    )
    warmup_steps: int = Field(
        10, ge=0, le=1_000_000_000, description="Steps over which the learning rate rises."
    )
    batch_size: int = Field(
        8, ge=1, le=65_536, description="Sequences per device and forward pass."
    )
    gradient_accumulation: int = Field(
        2,
        ge=1,
        le=65_536,
        description="Forward passes per optimizer step; batch_size × this is the effective batch.",
    )
    memory: Literal["auto", "as_written"] = Field(
        "auto",
        description="auto: measure the GPU and cut the effective batch and choose checkpointing to fit "
        "it, smaller still if memory runs out. as_written: batch_size and gradient_checkpointing hold.",
    )
    epochs: float = Field(1.0, gt=0, le=100_000, description="Passes over the training rows.")
    max_steps: int | None = Field(
        None,
        ge=1,
        le=1_000_000_000,
        description="Stop after this many optimizer steps; empty: after `epochs`.",
    )
    optimizer: Literal["adamw_8bit", "paged_adamw_8bit", "adamw_torch", "adamw_torch_fused"] = (
        Field("adamw_8bit", description="Optimizer; the 8-bit ones need a GPU.")
    )
    weight_decay: float = Field(0.01, ge=0, le=1_000, description="Weight decay.")
    max_grad_norm: float = Field(
        1.0, gt=0, le=1e9, description="Gradients are clipped to this norm."
    )
    packing: bool = Field(True, description="Fill each sequence with several conversations.")
    gradient_checkpointing: Literal["unsloth", "on", "off"] = Field(
        "unsloth", description="Recompute activations to save memory: Unsloth's, PyTorch's, or not."
    )
    seed: int = Field(
        0, ge=0, le=4_294_967_295, description="Seed of adapter initialisation and data order."
    )
    logging_steps: int = Field(
        1, ge=1, le=1_000_000_000, description="Steps between two logged metrics."
    )
    checkpoint_minutes: float = Field(
        10,
        gt=0,
        le=1e6,
        description="Minutes between two checkpoints: the most that a crash can cost.",
    )
    checkpoint_steps: int | None = Field(
        None,
        ge=1,
        le=1_000_000_000,
        description="Steps between two checkpoints, besides checkpoint_minutes.",
    )
    max_loss_rise: float = Field(
        3.0,
        gt=1,
        le=1e9,
        description="Stop when the loss is this many times its lowest (medians of 5 steps).",
    )
    max_gradient_norm: float = Field(
        1000.0,
        gt=0,
        le=1e12,
        description="Stop when the gradient norm stays above this (median of 5 steps).",
    )
    price_per_hour: float | None = Field(
        None, gt=0, le=1e9, description="Price of one GPU-hour; the run then shows what it cost."
    )
    max_gpu_hours: float | None = Field(
        None,
        gt=0,
        le=1e9,
        description="End with a checkpoint after this many GPU-hours; empty: no cap.",
    )
    max_cost: float | None = Field(
        None, gt=0, le=1e12, description="End with a checkpoint at this cost; needs price_per_hour."
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.max_cost is not None and self.price_per_hour is None:
            raise ValueError("max_cost needs price_per_hour; set it, or use max_gpu_hours")
        if self.processes > 1 and self.backend != "trl":
            raise ValueError(f"processes={self.processes} needs backend=trl")
        if self.shard and (self.backend != "trl" or self.optimizer.endswith("8bit")):
            raise ValueError(
                f"shard needs backend=trl and an optimizer in full precision (the 8-bit ones cannot be "
                f"split), not {self.backend} and {self.optimizer}; set optimizer=adamw_torch_fused"
            )
        if self.method == "full" and (self.use_dora or self.loraplus_ratio):
            raise ValueError("use_dora and loraplus_ratio belong to method=lora")
        if self.method == "lora" and self.master_weights == "bfloat16":
            raise ValueError("master_weights=bfloat16 belongs to method=full; leave it out")
        if self.batch_size * self.gradient_accumulation % self.processes:
            raise ValueError(
                f"the effective batch (batch_size × gradient_accumulation = "
                f"{self.batch_size * self.gradient_accumulation}) must be a multiple of "
                f"processes={self.processes}"
            )
        return self

    def moments_bytes(self, width: int) -> int:
        """Return the bytes of Adam's two moments of a trained weight that is `width` bytes wide."""
        return 2 if self.optimizer.endswith("8bit") else 2 * width


class Evaluation(Section):
    """Base and tuned model, side by side on the held-out conversations."""

    loss_rows: int = Field(
        500,
        ge=1,
        le=1_000_000_000,
        description="Held-out conversations for loss and perplexity, at most.",
    )
    generation_rows: int = Field(
        200,
        ge=0,
        le=1_000_000_000,
        description="Held-out conversations answered for exact match, at most.",
    )
    max_new_tokens: int = Field(
        128, ge=1, le=1_000_000, description="Longest generated answer, in tokens."
    )
    batch_size: int = Field(16, ge=1, le=65_536, description="Conversations per forward pass.")
    samples: int = Field(
        24, ge=0, le=1_000_000, description="Generated answers kept in the sample table."
    )
    prompts: tuple[Phrase, ...] = Field(
        ("Is 9.11 larger than 9.9?",),
        max_length=10_000,
        description="Further questions for the sample table.",
    )
    max_loss_ratio: float = Field(
        1.0,
        gt=0,
        le=1e6,
        description="Gate: held-out loss of the tuned model over that of the base, at most.",
    )


class Merging(Section):
    """Adapter and base become one 16-bit checkpoint."""

    save_method: Literal["lora", "merged_16bit", "merged_4bit"] = Field(
        "merged_16bit",
        description="lora: the adapter is all there is, no merge and no GGUF files. merged_16bit: a "
        "16-bit checkpoint, and the GGUF files made of it. merged_4bit: that, and an NF4 checkpoint.",
    )
    onto: Literal["best", "16bit", "dequantized"] = Field(
        "best",
        description="Weights that an adapter trained on 4-bit ones is merged on: the base's true 16-bit "
        "weights, what its 4-bit weights stand for, or whichever is nearer to the adapter model (KL).",
    )
    base_16bit: Line | None = Field(
        None,
        description="Hub id or folder of the 16-bit weights of a base that is stored in 4 bits, e.g. "
        "unsloth/Meta-Llama-3.1-8B; empty: its 4-bit weights are merged on, dequantised.",
    )
    base_16bit_revision: Line | None = Field(
        None, description="Branch, tag or commit of base_16bit; empty: its main branch."
    )
    max_kl: float = Field(
        0.05,
        gt=0,
        le=1e6,
        description="Gate: mean KL divergence of merged from adapter model, at most (nats per token).",
    )
    min_top1_agreement: Share = Field(
        0.8, description="Gate: share of tokens for which both rank the same token first, at least."
    )
    max_perplexity_ratio: float = Field(
        1.05,
        gt=1,
        le=1e6,
        description="Gate: perplexity of merged over that of the adapter model, at most.",
    )
    check_rows: int = Field(
        8,
        ge=1,
        le=1_000_000_000,
        description="Held-out conversations on which the two are compared.",
    )
    max_shard_gb: float = Field(5.0, gt=0, le=1e6, description="Largest safetensors file, in GB.")


class QuantGate(Section):
    """What a GGUF file must reach against the 16-bit one; empty: the default for its bits."""

    max_perplexity_ratio: float | None = Field(
        None, gt=1, le=1e6, description="Perplexity over that of the 16-bit GGUF, at most."
    )
    max_kl_divergence: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="Mean KL divergence from the 16-bit GGUF, at most (nats per token).",
    )
    min_same_top_token: Share | None = Field(
        None, description="Share of tokens for which both rank the same token first, at least."
    )
    max_exact_match_drop: Share | None = Field(
        None, description="How much lower its exact match may be, 0 to 1."
    )
    max_stopped_drop: Share | None = Field(
        None,
        description="How much lower its share of answers that end by themselves may be, 0 to 1.",
    )


# By bits, the first entry that is not below the method's: perplexity ratio, KL divergence, same top
# token, exact match, stopped. Twice what Llama 3 8B loses by llama.cpp's published figures, or more:
# a gate is to catch what is broken, not what is small.
QUANT_GATES = {
    2: (2.5, 1.5, 0.5, 0.5, 0.2),
    3: (1.3, 0.3, 0.75, 0.2, 0.1),
    4: (1.15, 0.15, 0.85, 0.15, 0.05),
    5: (1.06, 0.06, 0.9, 0.1, 0.05),
    6: (1.03, 0.03, 0.93, 0.1, 0.05),
    32: (1.02, 0.02, 0.95, 0.1, 0.05),
}


class Quantization(Section):
    """GGUF files for llama.cpp, one per method."""

    methods: tuple[Line, ...] = Field(
        QUANTIZATION_METHODS,
        min_length=1,
        max_length=100,
        description="Quantization methods, by llama.cpp's names.",
    )
    imatrix: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Importance matrix from held-out conversations: for methods of up to 4 bits "
        "(auto), for all, or for none.",
    )
    imatrix_rows: int = Field(
        100,
        ge=1,
        le=1_000_000_000,
        description="Held-out conversations that the importance matrix is made of, at most.",
    )
    parallel: int | None = Field(
        None,
        ge=1,
        le=1_024,
        description="Quantizations that run at the same time; empty: as cores, memory and disk allow.",
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=1_024,
        description="Threads that measure one file; empty: the cores, shared out. Quantizing itself "
        "takes the cores that are free.",
    )
    context: int = Field(
        512, ge=32, le=1_000_000, description="Window over which perplexity is measured, in tokens."
    )
    perplexity_rows: int = Field(
        50,
        ge=1,
        le=1_000_000_000,
        description="Held-out conversations for perplexity, at most; at most half of them if an "
        "importance matrix is made of the others.",
    )
    answer_rows: int = Field(
        100,
        ge=1,
        le=1_000_000_000,
        description="Held-out conversations answered through llama.cpp, at most.",
    )
    gates: dict[Line, QuantGate] = Field(
        default_factory=dict,
        max_length=100,
        description="Gates by method, e.g. {q2_k: {max_perplexity_ratio: 3}}; a file that fails is "
        "kept but not published. What is not named has a default by the method's bits.",
    )

    def gate(self, method: str) -> QuantGate:
        """Return the gate of one method, every limit filled in."""
        bits = bits_of(method)
        limits = next(limits for most, limits in QUANT_GATES.items() if bits <= most)
        defaults = dict(zip(QuantGate.model_fields, limits, strict=True))
        own = self.gates.get(method, QuantGate()).model_dump(exclude_none=True)
        return QuantGate(**defaults | own)

    def uses_imatrix(self, method: str) -> bool:
        """Tell whether `method` is given an importance matrix."""
        return self.imatrix == "always" or (self.imatrix == "auto" and bits_of(method) <= 4)

    @property
    def calibrates(self) -> bool:
        """Whether an importance matrix is made at all."""
        return any(map(self.uses_imatrix, self.methods))

    @field_validator("methods")
    @classmethod
    def _methods_are_known(cls, methods: tuple[str, ...]) -> tuple[str, ...]:
        from retune.llamacpp import METHODS

        _all_known(methods, METHODS, "a quantization method")
        if len(set(methods)) < len(methods):
            raise ValueError(f"a method is named twice in {list(methods)}; name each once")
        return methods

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        from retune.llamacpp import NEED_IMATRIX

        _all_known(self.gates, (*self.methods, "bf16"), "one of quantization.methods")
        if self.imatrix == "never" and (needy := set(self.methods) & set(NEED_IMATRIX)):
            raise ValueError(
                f"{', '.join(sorted(needy))} cannot do without an importance matrix; set "
                f"imatrix=auto, or take another method"
            )
        return self


SOURCE_METHOD = "bf16"  # of the GGUF that quants are made of; f16 would change weights of bf16


def bits_of(method: str) -> int:
    """Return the nominal bits per weight of a llama.cpp quantization method: 4 for q4_k_m."""
    return int(re.search(r"\d+", method)[0])


class Publishing(Section):
    """Upload to the Hugging Face Hub."""

    enabled: bool = Field(False, description="Whether to upload at all.")
    repo: Line | None = Field(
        None,
        pattern=r"^\w[\w.-]*/\w[\w.-]*$",
        description="Hub repository of the merged model, e.g. you/FineLlama-3.1-8B. The adapter goes "
        "to <repo>-lora, the NF4 model to <repo>-bnb-4bit, the GGUF files to <repo>-GGUF.",
    )
    private: bool = Field(True, description="Whether the repositories are private.")
    artifacts: tuple[Literal["adapter", "merged", "merged_4bit", "gguf"], ...] | None = Field(
        None,
        min_length=1,
        max_length=100,
        description="What to upload; empty: all that the recipe makes.",
    )
    token_secret: Line | None = Field(
        None,
        description="Name of the Prefect Secret block that holds the Hub's token; empty: HF_TOKEN, or "
        "the token of `hf auth login`.",
    )

    @model_validator(mode="after")
    def _has_a_repo(self) -> Self:
        if self.enabled and not self.repo:
            raise ValueError(
                "enabled is true but repo is empty; name one, e.g. you/FineLlama-3.1-8B"
            )
        return self


class Tracking(Section):
    """What MLflow keeps; the server is MLFLOW_TRACKING_URI, or a SQLite file in .retune."""

    experiment: Line | None = Field(
        None, description="MLflow experiment; empty: the recipe's name."
    )
    upload_models: bool = Field(
        False,
        description="Copy adapter, merged model and GGUF files into MLflow. Off: their path, size and "
        "sha256 are logged.",
    )


class Gates(Section):
    """What happens when an expectation is not met; see retune/gates.py for the names."""

    severities: dict[Line, Severity] = Field(
        default_factory=dict,
        max_length=1000,
        description="critical (ends the run), warning (is shown) or info (is logged), by gate and "
        "expectation, e.g. {merge.kl: warning}; those of the data gate are validation.severities.",
    )

    @field_validator("severities")
    @classmethod
    def _gates_are_known(cls, named: dict[str, Severity]) -> dict[str, Severity]:
        known = [f"{gate}.{name}" for gate, names in EXPECTATIONS.items() for name in names]
        _all_known([key for key in named if not is_known(key)], known, "an expectation of a gate")
        return named


class Recipe(Section):
    """Everything that determines a run. Sections stand in the order of the stages."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9._-]*$",
        max_length=100,  # it names an experiment, a model and runs
        description="Name of the recipe: a-z, 0-9, dot, dash, underscore.",
    )
    model: Model
    dataset: Dataset
    validation: Validation = Validation()
    formatting: Formatting = Formatting()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    merging: Merging = Merging()
    quantization: Quantization = Quantization()
    publishing: Publishing = Publishing()
    tracking: Tracking = Tracking()
    gates: Gates = Gates()

    @model_validator(mode="after")
    def _new_rows_are_whole(self) -> Self:
        lora = self.training.method == "lora"
        if self.model.chat_tokens != "map_eos" and lora and self.training.shard:
            raise ValueError(
                f"model.chat_tokens={self.model.chat_tokens} trains single rows of the embeddings, which "
                f"training.shard would split; set model.chat_tokens=map_eos or training.shard=false"
            )
        return self

    @model_validator(mode="after")
    def _training_and_merging_agree(self) -> Self:
        full, in_4bit = self.training.method == "full", self.model.load_in_4bit
        merging = self.merging
        if full and in_4bit:
            raise ValueError(
                "training.method=full cannot train 4-bit weights; set model.load_in_4bit=false"
            )
        if full and merging.save_method == "lora":
            raise ValueError(
                "merging.save_method=lora: training.method=full makes no adapter; use merged_16bit"
            )
        if merging.base_16bit and not in_4bit:
            raise ValueError(
                "merging.base_16bit is for adapters trained on 4-bit weights; leave it empty with "
                "model.load_in_4bit=false"
            )
        return self

    @property
    def makes_gguf(self) -> bool:
        """Whether there is a merged model, and GGUF files of it."""
        return self.merging.save_method != "lora"

    @property
    def artifacts(self) -> tuple[str, ...]:
        """What is uploaded, if anything is: what the recipe asks for, or all that it makes."""
        return self.publishing.artifacts or self._makes()

    def _makes(self) -> tuple[str, ...]:
        merging = {
            "lora": (),
            "merged_16bit": ("merged", "gguf"),
            "merged_4bit": ("merged", "merged_4bit", "gguf"),
        }[self.merging.save_method]
        return merging if self.training.method == "full" else ("adapter", *merging)

    @model_validator(mode="after")
    def _makes_what_it_publishes(self) -> Self:
        makes = self._makes()
        for artifact in self.publishing.artifacts or ():
            if artifact not in makes:
                raise ValueError(
                    f"publishing.artifacts: {artifact} is not made with training.method="
                    f"{self.training.method} and merging.save_method={self.merging.save_method}; "
                    f"change these, or name only {', '.join(makes)}"
                )
        return self

    @classmethod
    def parse(cls, values: Any, origin: str = "recipe") -> Self:
        """Check `values` (nested dicts) and return the recipe.

        Raises RecipeError with one line per mistake; `origin` names where the values came from.
        """
        if not isinstance(values, dict):
            raise RecipeError(
                f"{origin}: expected sections such as `model:` and `dataset:`, got {_shown(values)}"
            )
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            lines = [_explain(cls, problem) for problem in error.errors()]
            more = [f"and {len(lines) - MOST_LINES:,} more mistakes"] if lines[MOST_LINES:] else []
            said = [f"{origin}: {line}" for line in (*lines[:MOST_LINES], *more)]
            raise RecipeError("\n".join(said)) from None


def set_value(values: dict[str, Any], assignment: str) -> dict[str, Any]:
    """Return a copy of nested `values` with one `section.key=value` applied.

    The value is YAML, but for comments: ` #1.jsonl` is the end of a name.
    """
    from retune.documents import read_yaml

    path, equals, text = assignment.partition("=")
    keys = path.strip().split(".")
    shown = f"--set {assignment!r:.80}"
    if not equals or not all(keys) or len(keys) > 10:
        raise RecipeError(f"{shown}: expected section.key=value, e.g. training.learning_rate=1e-4")
    if not isinstance(values, dict):
        raise RecipeError(f"{shown}: the recipe has no sections, it is {_shown(values)}")
    *parents, last = keys
    changed = node = dict(values)
    for key in parents:
        child = node.get(key) or {}
        if not isinstance(child, dict):
            raise RecipeError(f"{shown}: {key} is {_shown(child)}, not a section")
        node[key] = node = dict(child)
    value = read_yaml(text, shown)
    is_plain = isinstance(value, str) and text.strip()[0] not in "\"'|>!&*"
    node[last] = text.strip() if is_plain else value
    return changed


def flat(section: BaseModel, prefix: str = "") -> dict[str, Any]:
    """Return every setting below `section` by its dotted name, e.g. `training.learning_rate`."""
    values: dict[str, Any] = {}
    for key in type(section).model_fields:
        value = getattr(section, key)
        if isinstance(value, BaseModel):
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[f"{prefix}{key}"] = value
    return values


def _explain(recipe: type[BaseModel], problem: Any) -> str:
    """One line for one pydantic error: where, what was wrong, the value seen, what to change."""
    path = ".".join(f"{part!s:.80}" for part in problem["loc"]) or "recipe"
    where = path if path.isprintable() else repr(path)  # a key may be anything
    if problem["type"] == "extra_forbidden":
        section = _section_at(recipe, problem["loc"][:-1])
        known = section.model_fields if section else ()
        return f"unknown key {path!r}{_hint(str(problem['loc'][-1])[:80], known)}"
    if problem["type"] == "missing":
        return f"{where} is missing; add it"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{where}: {message} (got {_shown(problem['input'])}){_quoting(problem)}"


def _section_at(recipe: type[BaseModel], path: tuple[Any, ...]) -> type[BaseModel] | None:
    """Return the section that stands at `path`, by way of lists and of sections by name."""
    found: Any = recipe
    for part in path:
        if isinstance(found, type) and issubclass(found, BaseModel):
            found = found.model_fields[part].annotation
        else:  # what one entry of a list, or of a section of names, is
            found = get_args(found)[-1]
        if None.__class__ in get_args(found):
            found = next(arg for arg in get_args(found) if arg is not None.__class__)
    return found if isinstance(found, type) and issubclass(found, BaseModel) else None


def _quoting(problem: Any) -> str:
    """Return advice on a word that YAML takes for a truth value: `no` for Norway, `off`."""
    if isinstance(problem["input"], bool) and problem["type"] in ("string_type", "literal_error"):
        return "; YAML reads yes, no, on and off as true and false: put the word in quotes"
    return ""


def _shown(value: Any) -> str:
    """Return a value for an error: short, in one line, and whatever it is."""
    try:
        return f"{_SHORT.repr(value):.80}"
    except ValueError:  # a number of more than 4,300 digits
        return f"a {type(value).__name__} too long to show"
