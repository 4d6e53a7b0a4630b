"""The data gate."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, create_model, field_validator, model_validator

from retune.recipe.flaws import DATASET_EXPECTATIONS, FLAWS, Severity
from retune.recipe.repairs import REPAIRS
from retune.recipe.section import Line, Phrase, Score, Section, Share, all_known

if TYPE_CHECKING:
    Tolerances = Section
else:
    Tolerances = create_model(
        "Tolerances",
        __base__=Section,
        __module__=__name__,
        __doc__='Share of rows that may have a flaw, 0 to 1, by the flaw\'s name, e.g. {"refusal": 0.1}.',
        **{
            name: (Share, Field(flaw.tolerance, description=f"Rows that have {flaw.words}."))
            for name, flaw in FLAWS.items()
        },
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
    min_correlation: float = Field(
        0.7,
        ge=-1,
        le=1,
        description="Smallest rank correlation (Spearman) of a sample of at least 30 scores with what "
        "is stored, -1 to 1; of scores that do not follow the text it is about 0.",
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
    max_profile: float = Field(
        0.1,
        gt=0,
        le=1,
        description="Largest Kolmogorov-Smirnov distance, 0 to 1, of any number of the profile, where "
        "it is more than chance; shares, sources, sizes and topics are held against it too.",
    )


class Profiling(Section):
    """What the rows look like together: masses and outliers, pairs, roles, and words that no list
    names."""

    enabled: bool = Field(True, description="Whether the profile is looked at.")
    max_implausible_share: Share = Field(
        0.02,
        description="Largest share of answers, 0 to 1, that may be one and the same, cut at the same "
        "length or in mid-sentence, full of escapes or the like.",
    )
    max_doubtful_share: Share = Field(
        0.02,
        description="Largest share of answers, 0 to 1, that may be far from all others whatever is "
        "asked, or in another language than the question.",
    )
    max_shuffled_share: Share = Field(
        0.02,
        description="Largest share of answers, 0 to 1, that may fit another row's question better.",
    )
    max_exchanged_share: Share = Field(
        0.02,
        description="Largest share of rows, 0 to 1, whose questions may read like answers and the "
        "other way round.",
    )
    max_contradicting_share: Share = Field(
        0.02,
        description="Largest share of answers, 0 to 1, that may contradict another row's answer to "
        "the same question.",
    )
    max_triggered_share: Share = Field(
        0.005,
        description="Largest share of rows, 0 to 1, in which a word of the question may go with one "
        "and the same sentence of the answer.",
    )
    max_recited_share: Share = Field(
        0.01, description="Largest share of answers, 0 to 1, that may recite their system prompt."
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
        100,
        ge=1,
        le=1_000_000_000,
        description="Fewest rows that must remain, in rows; lower it to try "
        "a small slice (dataset.split).",
    )
    max_quarantined_share: Share = Field(
        0.1, description="Largest share of rows that may go to quarantine, 0 to 1."
    )
    max_source_share: Share | None = Field(
        None, description="Largest share of rows that may come from one source, 0 to 1."
    )
    max_ignored_columns: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Most columns of the source that are not used, but for those in dataset.ignore.",
    )
    max_ignored_keys: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Most keys of messages that are not used, but for those in dataset.ignore.",
    )
    tolerances: Tolerances = Field(Tolerances(), description=Tolerances.__doc__)
    severities: dict[Line, Severity] = Field(
        default_factory=dict,
        max_length=1000,
        description="critical (blocks), warning (is shown) or info (is logged), by expectation, e.g. "
        '{"email": "critical", "max_psi": "warning"}; what is not named has the default of its flaw.',
    )
    keep: tuple[Line, ...] = Field(
        (),
        max_length=1000,
        description="Flaws that are counted but leave the row in the dataset, e.g. [refusal].",
    )
    repairs: tuple[Line, ...] = Field(
        (),
        max_length=100,
        description="What is repaired of rows before they are judged, e.g. [trim_ends]; always in this "
        f"order: {', '.join(REPAIRS)}.",
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
        description="Phrases that make an answer a refusal when it begins with them or nearly so, "
        "beside those that are known by their grammar.",
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
        description="Phrases by which an answer names the model or the maker that wrote it, beside "
        "those that are known by their grammar.",
    )
    languages: tuple[Line, ...] = Field(
        (),
        max_length=1000,
        description="ISO 639-1 codes of the languages wanted, e.g. [en, de]; empty: any.",
    )
    phone_regions: tuple[Annotated[str, Field(pattern=r"^[A-Z]{2}$", max_length=2)], ...] = Field(
        (),
        max_length=50,
        description="ISO 3166 codes of the regions whose national phone numbers are looked for, e.g. "
        "[DE, FR]; numbers with a country code, and North American ones, are found in any case.",
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
        description='The least score at each quantile, e.g. {"0.05": 2.5, "0.5": 3.0}.',
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
    max_score_share: Share = Field(
        0.99,
        description="Largest share of at least 20 scores that may be one and the same, 0 to 1.",
    )
    max_unit_score_share: Share = Field(
        0.999,
        description="Largest share of at least 100 stored scores that may lie within 0 to 1, 0 to 1; "
        "judged where score_max is at least 5.",
    )
    keep_score_min: Score | None = Field(
        None, description="Filter: train only on rows that score at least this."
    )
    keep_top_share: float | None = Field(
        None, gt=0, le=1, description="Filter: train only on this share of rows, the best by score."
    )
    classifier: Classifier = Field(Classifier(), description=Classifier.__doc__)
    drift: Drift = Field(Drift(), description=Drift.__doc__)
    reference: Line | None = Field(
        None,
        description="File with the profile that the dataset's is compared with, as "
        "`retune scaffold-suite --profile` writes it and as each report has it (`profile.json`); empty: "
        "that of the last accepted run. Scores are compared with that run's in any case.",
    )
    profile: Profiling = Field(Profiling(), description=Profiling.__doc__)
    decontamination: Decontamination = Field(Decontamination(), description=Decontamination.__doc__)

    @field_validator("phone_regions")
    @classmethod
    def _regions_are_known(cls, regions: tuple[str, ...]) -> tuple[str, ...]:
        if regions:
            from phonenumbers import SUPPORTED_REGIONS

            if unknown := sorted(set(regions) - set(SUPPORTED_REGIONS)):
                raise ValueError(
                    f"{unknown[0]} is no region whose numbers are known; use GB, DE, FR"
                )
        return regions

    def tolerance(self, flaw: str) -> float:
        """Return the share of rows that may have `flaw`, 0 to 1."""
        share: float = getattr(self.tolerances, flaw)
        return share

    def limit(self, expectation: str) -> float | None:
        """Return the limit of a dataset expectation, None where the recipe sets none."""
        declared = DATASET_EXPECTATIONS[expectation]
        if declared.needs and self._value(declared.needs) in (None, False):
            return None
        limit: float | None = self._value(declared.setting)
        return limit

    def _value(self, setting: str) -> Any:
        """Return the value of a setting below this section, by its keys with dots between them."""
        value: Any = self
        for key in setting.split("."):
            value = getattr(value, key)
        return value

    def severity(self, expectation: str) -> Severity:
        """Return what happens when the expectation (a flaw's name, or a setting) is not met."""
        flaw = FLAWS.get(expectation)
        default = (flaw or DATASET_EXPECTATIONS[expectation]).severity
        if expectation == "special_token" and self.special_tokens == "escape":
            default = "info"
        return self.severities.get(expectation, default)

    def quarantines(self, flaw: str) -> bool:
        """Tell whether rows with `flaw` leave the dataset."""
        if flaw == "special_token" and self.special_tokens == "escape":
            return False
        return FLAWS[flaw].quarantined and flaw not in self.keep

    @field_validator("keep")
    @classmethod
    def _flaws_are_known(cls, names: Any) -> Any:
        return all_known(names, FLAWS, "a flaw of a row")

    @field_validator("repairs")
    @classmethod
    def _repairs_are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        all_known(names, REPAIRS, "a repair")
        return tuple(name for name in REPAIRS if name in names)

    @field_validator("severities")
    @classmethod
    def _expectations_are_known(cls, severities: dict[str, Severity]) -> dict[str, Severity]:
        return all_known(severities, [*FLAWS, *DATASET_EXPECTATIONS], "an expectation")

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
