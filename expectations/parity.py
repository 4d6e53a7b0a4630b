"""The judge of parity: llama.cpp reads the dataset's rows as training does."""

from expectations.verdicts import Judgement, within
from retune.recipe import Recipe
from retune.records import TokenParity

GATE = "parity"


def judgement(parity: TokenParity, recipe: Recipe) -> Judgement:
    """Return the verdict on the share of rows that llama.cpp reads as other tokens."""
    verdict = within(
        GATE,
        "differing_rows",
        "share of the dataset's rows that llama.cpp reads as other tokens than training",
        parity.metrics["differing_rows"],
        recipe.quantization.max_differing_rows,
        "quantization.max_differing_rows",
        recipe,
        fix=f"Some of them, with both readings: {parity.folder / 'differing.json'}.",
    )
    extent = f"{parity.metrics['rows_compared']:,.0f} rows"
    advice = (
        "Choose a model.base whose tokenizer llama.cpp supports, or set merging.save_method=lora: "
        "then there are no GGUF files."
    )
    return Judgement(GATE, "tokenizer in llama.cpp", (verdict,), extent=extent, advice=advice)
