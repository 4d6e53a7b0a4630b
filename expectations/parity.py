"""The judge of parity: llama.cpp reads the dataset's rows as training does."""

from expectations.chance import likelihood, share_p_value, share_within
from expectations.verdicts import Judgement, Verdict, at_most, severity
from retune.measures import measure
from retune.recipe import Recipe
from retune.records import TokenParity

GATE, NAME = "parity", "differing_rows"


def judgement(parity: TokenParity, recipe: Recipe) -> Judgement:
    """Return the verdict on the share of rows that llama.cpp reads as other tokens.

    The rows are a sample of all that the model will read, and may be few.
    """
    share, rows = parity.metrics[NAME], round(parity.metrics["rows_compared"])
    limit, count = recipe.quantization.max_differing_rows, round(share * rows)
    observed = f"{measure(NAME).text(share)} ({count:,} of {rows:,})"
    if not at_most(share, limit):
        observed += f"; {likelihood(share_p_value(count, rows, limit))}"
    verdict = Verdict(
        gate=GATE,
        name=NAME,
        expected=f"share of the dataset's rows that llama.cpp reads as other tokens than training at "
        f"most {100 * limit:g}%, but for chance",
        seen=observed,
        limit=limit,
        setting="quantization.max_differing_rows",
        severity=severity(recipe, GATE, NAME),
        passed=share_within(count, rows, limit),
        fix=f"Some of them, with both readings: {parity.folder / 'differing.json'}.",
    )
    extent = f"{rows:,} rows"
    advice = (
        "Choose a model.base whose tokenizer llama.cpp supports, or set merging.save_method=lora: "
        "then there are no GGUF files."
    )
    return Judgement(GATE, "tokenizer in llama.cpp", (verdict,), extent=extent, advice=advice)
