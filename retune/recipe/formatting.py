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
    max_unlearned_share: Share = Field(
        0.05,
        description="Largest share of training rows that may have no token to learn from (with "
        "training.train_on=responses) within model.max_length, 0 to 1.",
    )
    max_refused_share: Share = Field(
        0.05,
        description="Largest share of rows that the chat template may refuse, 0 to 1; these are left "
        "out, with the template's words.",
    )
    max_altered_share: Share = Field(
        0.0,
        description="Largest share of rows in which the chat template may leave out what a message "
        "says, such as the reasoning of earlier turns, 0 to 1.",
    )
