"""What a candidate has to show before it takes the champion's place, and who says so."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from retune.recipe.section import Line, Score, Section, Share, shown

Metric = Annotated[Line, Field(pattern=r"^[^/@\s]+/[^/@\s]+(@.+)?$")]
NonNegative = Annotated[float, Field(ge=0, le=1e9)]
_NUMBER = re.compile(r"[+-]?\d{1,30}(?:\.\d{1,30})?(?:e[+-]?\d{1,3})?")
_MULTIPLE = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)\s*(?:σ|sigma)")


def multiple(margin: str) -> float:
    """Return how many times the calibrated noise a margin such as "2σ" or "2 sigma" is.

    Raises ValueError for any other text.
    """
    match = _MULTIPLE.fullmatch(margin.strip())
    if not match:
        raise ValueError(f"{shown(margin)} is no margin; use a number, or a text such as 2σ")
    return float(match[1])


class Promotion(Section):
    """What a candidate has to show before it takes the champion's place, and who says so.

    A metric is `<suite>/<scorer>`, of one slice `<suite>/<scorer>@<slice>`.
    """

    mode: Literal["auto", "approve", "never"] = Field(
        "auto",
        description="auto: a candidate that is shown to be better, and no worse elsewhere, becomes the "
        "champion; approve: a person is asked as well; never: it stays a challenger.",
    )
    wins: tuple[Metric, ...] = Field(
        ("held_out/loss",),
        max_length=1000,
        description="Metrics that must be better than the champion's (of the first run: the base's).",
    )
    alpha: float = Field(
        0.05,
        ge=1e-4,
        le=0.5,
        description="Risk of calling a difference that is none better or worse; intervals are of "
        "1 - alpha.",
    )
    assumed_noise: Share = Field(
        0.025,
        description="Noise of training that is assumed of what `retune calibrate` has not measured: the "
        "standard deviation between two trainings of one recipe, as a share of the champion's value; of "
        "shares three times that, in absolute terms.",
    )
    margins: dict[Line, NonNegative | Line] = Field(
        default_factory=dict,
        max_length=1000,
        description="What counts as no difference, by metric or by scorer: a number in the measure's "
        "unit, or a text such as 2σ, a multiple of the noise that `retune calibrate` measured, e.g. "
        '{"held_out/loss": 0.02, "exact_match": "2σ"}. One that '
        "is set has to be proven; not set (0.01 for losses, 0.05 for shares, else 5 % of the "
        "champion's value), a candidate must not be shown to be worse, nor seem worse by more.",
    )
    floors: dict[Metric, Score] = Field(
        default_factory=dict,
        max_length=1000,
        description="What a metric must be at least (a loss: at most), whatever the champion's is, e.g. "
        '{"battery/passed": 0.5}.',
    )
    budget: Share = Field(
        0.1,
        description="Share of the items of the battery passed by the base, or by the champion, that the "
        "candidate may no longer pass.",
    )
    slices: bool = Field(
        True, description="Whether a candidate that is worse on a slice of a suite is rejected."
    )
    anchor_waiver: Line = Field(
        "",
        description="Why a candidate is not held to the anchor, the rows that the champion was judged "
        "by, e.g. answers on refunds corrected; the promotion log keeps it. Empty: on these rows it must "
        "be no worse than the champion. It holds for every run until it is emptied again.",
    )
    max_changed_answers: Share = Field(
        0.1,
        description="Share of the questions that the champion was judged by which the dataset may answer "
        "otherwise than before. Where more are shown to be changed, nothing is promoted by itself: they "
        "may be poisoned, corrected or written anew, which a person says by hand or by anchor_waiver.",
    )
    resamples: int = Field(
        10_000,
        ge=2_000,
        le=1_000_000,
        description="Bootstrap resamples for each difference of losses and other numbers.",
    )
    seed: int = Field(0, ge=0, le=4_294_967_295, description="Seed of the bootstrap.")
    approval_hours: float = Field(
        72,
        gt=0,
        le=10_000,
        description="Hours after which a candidate that nobody has approved counts as rejected.",
    )
    ollama: Line | None = Field(
        None,
        description="Name in Ollama that follows the champion, e.g. support-mail; empty: none.",
    )
    webhooks: tuple[Line, ...] = Field(
        (),
        max_length=100,
        description="Where promotions and rollbacks are posted as JSON: addresses, or names of Prefect "
        "Secret blocks that hold one (an address with a token in it is a secret).",
    )

    @field_validator("margins", mode="before")
    @classmethod
    def _are_margins(cls, margins: Any) -> Any:
        """Refuse what is no margin in one line; pydantic has one for each of the two forms."""
        if not isinstance(margins, dict):
            return margins
        return {name: _margin(name, margin) for name, margin in margins.items()}

    @model_validator(mode="after")
    def _wins_differ(self) -> Self:
        if not self.wins:
            raise ValueError("wins is empty; name a metric that must be better, or set mode=never")
        if len(set(self.wins)) < len(self.wins):
            raise ValueError("wins names a metric twice; name each once")
        return self

    @property
    def multiples(self) -> dict[str, float]:
        """The margins that are multiples of the calibrated noise, by what they are of."""
        texts = {name: margin for name, margin in self.margins.items() if isinstance(margin, str)}
        return {name: multiple(margin) for name, margin in texts.items()}


def _margin(name: Any, margin: Any) -> float | str:
    """Return a margin as it is kept: a number, or the text of a multiple."""
    if isinstance(margin, str) and not _NUMBER.fullmatch(margin.strip()):
        multiple(margin)
        return margin
    if isinstance(margin, bool) or not isinstance(margin, int | float | str):
        raise ValueError(f"{shown(name)}: should be a number, or a text such as 2σ")
    number = float(margin) if isinstance(margin, str) else margin
    if not 0 <= number <= 1e9:
        raise ValueError(f"{shown(name)}: should be 0 or more, and at most 1e9")
    return float(number)
