"""What the data gate looks for: every flaw of a row and every expectation on a whole dataset.

The names are the keys of a recipe's `validation.tolerances` and `validation.severities`, the
columns of the feature table, the reasons in the quarantine file and the names of the metrics.
"""

from typing import Literal, NamedTuple

Severity = Literal["critical", "warning", "info"]


class Flaw(NamedTuple):
    """What can be wrong with a row: its words, the share of rows that may have it (0 to 1), what
    happens above that share, and whether a row that has it goes to quarantine."""

    title: str
    tolerance: float
    severity: Severity
    quarantined: bool = True


# In the order in which a person would want to hear of them. Words in braces are settings.
FLAWS = {
    # structure
    "malformed": Flaw("rows that cannot be read as a conversation", 0.01, "critical"),
    "no_messages": Flaw("rows without messages", 0.01, "critical"),
    "unknown_role": Flaw("messages with an unknown role", 0.01, "critical"),
    "roles_out_of_order": Flaw(
        "roles out of order (user and assistant must alternate, ending with assistant)",
        0.05,
        "critical",
    ),
    "empty_message": Flaw("empty messages", 0.05, "critical"),
    "oversized_message": Flaw(
        "messages longer than {max_message_chars:,} characters", 0.01, "critical"
    ),
    # text
    "special_token": Flaw("control tokens typed inside a message", 0.01, "critical"),
    "invalid_unicode": Flaw("broken characters (lone surrogates, U+FFFD)", 0.01, "critical"),
    "control_character": Flaw("control characters such as NUL", 0.01, "critical"),
    "mojibake": Flaw("text decoded with the wrong encoding (such as Ã© for é)", 0.01, "critical"),
    "repetition": Flaw("messages that repeat themselves", 0.01, "critical"),
    "answer_repeats_question": Flaw("answers that only repeat the question", 0.01, "critical"),
    "roles_swapped": Flaw(
        "rows in which the assistant asks and the user answers", 0.2, "critical", quarantined=False
    ),
    "refusal": Flaw("answers that refuse", 0.05, "critical"),
    "self_identification": Flaw("answers that name another model's maker", 0.01, "critical"),
    "language": Flaw("rows in another language than {languages}", 0.05, "critical"),
    # what should not be learnt by heart
    "secret": Flaw("passwords, keys and tokens", 0.01, "critical"),
    "email": Flaw("e-mail addresses", 0.05, "warning", quarantined=False),
    "phone_number": Flaw("phone numbers", 0.05, "warning", quarantined=False),
    "url": Flaw("web addresses", 0.5, "info", quarantined=False),
    # the classifier's score
    "score_missing": Flaw("rows without a score", 0.05, "critical"),
    "score_not_finite": Flaw("scores that are NaN or infinite", 0.0, "critical"),
    "score_out_of_range": Flaw("scores outside {score_min:g} to {score_max:g}", 0.01, "critical"),
    # across rows
    "exact_duplicate": Flaw("exact duplicates of an earlier row", 0.05, "warning"),
    "near_duplicate": Flaw("near duplicates of an earlier row", 0.1, "warning"),
    "contaminated": Flaw("rows that contain evaluation prompts", 0.01, "critical"),
}

# Expectations on the dataset as a whole; the names are the settings that hold their limits.
DATASET_EXPECTATIONS: dict[str, Severity] = {
    "min_rows": "critical",
    "max_quarantined_share": "critical",
    "max_source_share": "warning",
    "max_truncated_share": "critical",
    "score_mean_min": "critical",
    "score_mean_max": "critical",
    "score_quantiles_min": "critical",
    "max_below_threshold_share": "critical",
    "min_distinct_scores": "warning",
    "max_psi": "critical",
    "max_ks": "critical",
    "min_agreement": "critical",
}
