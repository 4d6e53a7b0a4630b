"""The examples that a run's model lost to another: what the other passed, or had a far lower loss on."""

import json
from typing import TYPE_CHECKING, NamedTuple

from flows.compared.examples import examples
from flows.influence.child import LostAnswer
from retune.outcomes import LOSS, PASSED, TUNED, of_side

if TYPE_CHECKING:
    import polars as pl

PASSING = (PASSED, "exact_match")  # scorers (0 or 1) of a right answer
MUCH = 0.1  # nats per token by which a loss is far lower
MOST_EXAMPLES = 64  # of each scorer, those that were lost by most


class LostExamples(NamedTuple):
    """`losses` are the names of held-out rows, `answers` questions with both answers; of the `common`
    examples that both sides were asked, these were lost."""

    losses: list[str]
    answers: list[LostAnswer]
    common: int


def lost_examples(mine: "pl.DataFrame", others: "pl.DataFrame", side: str) -> LostExamples:
    """Return what the tuned model of the outcomes `mine` lost to the `side` of `others`."""
    import polars as pl

    opponent = of_side(others, side).with_columns(side=pl.lit(TUNED))
    both = examples(opponent, mine).lines
    losses = _most(both.filter(pl.col("scorer") == LOSS, pl.col("gain") <= -MUCH))
    answers = [_most(both.filter(scorer=name).filter(pl.col("gain") <= -0.5)) for name in PASSING]
    lines = pl.concat(answers).unique("example", keep="first", maintain_order=True)
    lines = lines.filter(pl.col("answer").is_not_null(), pl.col("answer_before").is_not_null())
    own = of_side(mine, TUNED).drop_nulls("stopped")
    stopped = dict(own.select("example", "stopped").iter_rows())
    return LostExamples(
        losses=losses["example"].to_list(),
        answers=[
            LostAnswer(
                messages=json.loads(prompt),
                right=right,
                wrong=wrong,
                stopped=stopped.get(name, True),
            )
            for name, prompt, right, wrong in lines.select(
                "example", "prompt", "answer_before", "answer"
            ).iter_rows()
        ],
        common=both["example"].n_unique(),
    )


def _most(lines: "pl.DataFrame") -> "pl.DataFrame":
    return lines.sort("gain", "example").head(MOST_EXAMPLES)
