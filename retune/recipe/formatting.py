"""From conversations to text."""

from pydantic import Field

from retune.recipe.section import Section, Share


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
