"""What the profile names: a sentence, the share of rows that it is about, and one of them."""

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import numpy as np

LEAST_ROWS = 100  # of fewer, shares are chance
LEAST_GROUP = 8  # rows; fewer are no mass

Expectation = Literal[
    "implausible_masses",
    "doubtful_masses",
    "shuffled_pairs",
    "exchanged_roles",
    "contradicting_answers",
    "trigger_words",
    "recited_prompts",
    "profile_drift",
]
Quote = Literal["question", "answer", "end", "both", ""]


class Alarm(BaseModel):
    """Something that the profile saw: the `expectation` that it speaks against, `value` (a share of
    the rows, 0 to 1, or a distance) to be held against that one's limit, the `sentence`, and the
    `row` that shows it. `quote` says what of the row is quoted: the question or the answer, its
    beginning or its end."""

    model_config = ConfigDict(frozen=True)

    expectation: Expectation
    value: float
    sentence: str
    row: int | None = None
    quote: Quote = "answer"


def share_alarm(
    expectation: Expectation,
    rows: "np.ndarray",
    total: int,
    words: str,
    quote: Quote = "answer",
    of: str = "answers",
) -> Alarm:
    """Return the alarm that `rows` (their numbers) of `total` answers, or what `of` names, do what
    `words` say."""
    share = len(rows) / total
    sentence = f"{share:.1%} of the {of} ({len(rows):,} of {total:,}) {words}"
    return Alarm(
        expectation=expectation, value=share, sentence=sentence, row=int(rows[0]), quote=quote
    )
