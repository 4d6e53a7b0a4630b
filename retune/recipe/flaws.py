"""What the data gate looks for: every flaw of a row and every expectation on a whole dataset.

The names are the keys of a recipe's `validation.tolerances` and `validation.severities`, the
columns of the feature table, the reasons in the quarantine file and the names of the metrics.
"""

import re
from typing import Literal, NamedTuple

Severity = Literal["critical", "warning", "info"]


class Flaw(NamedTuple):
    """What can be wrong with a row: its words, the share of rows that may have it (0 to 1), what
    happens above that share, and whether a row that has it goes to quarantine."""

    title: str
    tolerance: float
    severity: Severity
    quarantined: bool = True

    @property
    def words(self) -> str:
        """The title, with settings by their names instead of their values."""
        return re.sub(r"\{(\w+)[^}]*\}", r"\1", self.title)


# How the `problem` of a row begins that has the flaw `oversized_row`, in `retune.records.Rows`.
OVERSIZED = "the row is too large: "

# In the order in which a person would want to hear of them. The words go after "rows that have";
# those in braces are settings.
FLAWS = {
    # structure
    "malformed": Flaw("a form that cannot be read", 0.01, "critical"),
    "oversized_row": Flaw("more than the dataset's budget for a row", 0.01, "critical"),
    "no_messages": Flaw("no messages", 0.01, "critical"),
    "unknown_role": Flaw("an unknown role", 0.01, "critical"),
    "roles_out_of_order": Flaw(
        "roles out of order (user and assistant must alternate, ending with assistant)",
        0.05,
        "critical",
    ),
    "empty_message": Flaw("an empty message", 0.05, "critical"),
    "oversized_message": Flaw(
        "a message longer than {max_message_chars:,} characters", 0.01, "critical"
    ),
    # text
    "special_token": Flaw("control tokens typed inside a message", 0.01, "critical"),
    "invalid_unicode": Flaw("broken characters (lone surrogates, U+FFFD)", 0.01, "critical"),
    "control_character": Flaw("control characters such as NUL", 0.01, "critical"),
    "mojibake": Flaw("text decoded with the wrong encoding", 0.01, "critical"),
    "repetition": Flaw("a message that repeats itself", 0.01, "critical"),
    "answer_repeats_question": Flaw("an answer that only repeats the question", 0.01, "critical"),
    "roles_swapped": Flaw(
        "an assistant that asks and a user who answers", 0.2, "critical", quarantined=False
    ),
    "refusal": Flaw("an answer that refuses", 0.05, "critical"),
    "self_identification": Flaw(
        "an answer that speaks of itself as a model, or names its maker", 0.02, "critical"
    ),
    "next_turn": Flaw("further turns of a conversation inside an answer", 0.01, "critical"),
    "prompt_echo": Flaw("an answer that begins with the question", 0.01, "critical"),
    "recited_prompt": Flaw("an answer that recites its system prompt", 0.01, "critical"),
    "placeholder": Flaw("an unfilled template or placeholder as an answer", 0.01, "critical"),
    "error_page": Flaw("an error message or error page instead of an answer", 0.01, "critical"),
    "interface_text": Flaw("words of a chat page, such as Copy code", 0.01, "critical"),
    "escaped_text": Flaw(
        "escapes in the place of characters (&amp;, \\n, \\u00e9)", 0.01, "critical"
    ),
    "markup": Flaw("an answer in HTML that was asked for in words", 0.01, "critical"),
    "wrapped_answer": Flaw(
        "an answer wrapped in JSON that nobody asked for", 0.05, "warning", quarantined=False
    ),
    "encoded_data": Flaw("an answer of encoded bytes (base64)", 0.01, "critical"),
    "unclosed_code": Flaw("a code block that is never closed", 0.1, "critical", quarantined=False),
    "hidden_text": Flaw(
        "hidden characters (tags, overrides, zero width between letters)", 0.01, "critical"
    ),
    "homoglyph": Flaw("words of letters from two scripts that look alike", 0.01, "critical"),
    "language": Flaw("another language than {languages}", 0.05, "critical"),
    # what should not be learnt by heart
    "secret": Flaw("a password, key or token", 0.01, "critical"),
    "email": Flaw("an e-mail address", 0.05, "warning", quarantined=False),
    "phone_number": Flaw("a phone number", 0.05, "warning", quarantined=False),
    "credit_card": Flaw("the number of a payment card", 0.05, "warning", quarantined=False),
    "iban": Flaw("the number of a bank account (IBAN)", 0.05, "warning", quarantined=False),
    "national_id": Flaw("a national id such as a US SSN", 0.05, "warning", quarantined=False),
    "ip_address": Flaw("a public IP address", 0.05, "warning", quarantined=False),
    "personal_details": Flaw(
        "a person's birthday or a street address", 0.05, "warning", quarantined=False
    ),
    "url": Flaw("a web address", 0.5, "info", quarantined=False),
    "unjudged": Flaw("too much that looks like a secret to judge it", 0.01, "critical"),
    # the classifier's score
    "score_missing": Flaw("no score", 0.05, "critical"),
    "score_not_finite": Flaw("a score that is NaN or infinite", 0.01, "critical"),
    "score_out_of_range": Flaw("a score outside {score_min:g} to {score_max:g}", 0.01, "critical"),
    # across rows
    "exact_duplicate": Flaw("the text of an earlier row", 0.05, "warning"),
    "near_duplicate": Flaw("nearly the text of an earlier row", 0.1, "warning"),
    "contaminated": Flaw("the text of an evaluation prompt", 0.01, "critical"),
}

SCORE_FLAWS = ("score_missing", "score_not_finite", "score_out_of_range")


class DatasetExpectation(NamedTuple):
    """What is expected of a dataset as a whole.

    `setting` holds its limit, below `validation`; `bound` says on which side of the limit the measure
    has to be. `title` are its words, with the limit and settings in braces. `measure` is the metric's
    name (below `validate/`, see `retune.measures`) of what is held against the limit. It is asked for
    where the setting `needs` has a value.
    """

    setting: str
    bound: Literal["min", "max"]
    title: str
    measure: str
    severity: Severity
    needs: str = ""


# By name, in the order in which a person would want to hear of them.
DATASET_EXPECTATIONS = {
    "min_rows": DatasetExpectation(
        "min_rows", "min", "at least {limit:,} rows remain", "accepted", "critical"
    ),
    "max_quarantined_share": DatasetExpectation(
        "max_quarantined_share",
        "max",
        "at most {limit:.1%} of the rows go to quarantine",
        "quarantined_share",
        "critical",
    ),
    # Of a mix alone.
    "max_part_quarantined_share": DatasetExpectation(
        "max_quarantined_share",
        "max",
        "at most {limit:.1%} of the rows of each part of the mix go to quarantine",
        "part_quarantined_share",
        "warning",
    ),
    "max_source_share": DatasetExpectation(
        "max_source_share",
        "max",
        "at most {limit:.1%} of the rows come from one source",
        "largest_source_share",
        "warning",
    ),
    "score_mean_min": DatasetExpectation(
        "score_mean_min", "min", "the mean score is at least {limit:g}", "score_mean", "critical"
    ),
    "score_mean_max": DatasetExpectation(
        "score_mean_max", "max", "the mean score is at most {limit:g}", "score_mean", "critical"
    ),
    # One for each quantile, over the rows' own scores.
    "score_quantiles_min": DatasetExpectation(
        "score_quantiles_min",
        "min",
        "the {quantile:.0%} quantile of the scores is at least {limit:g}",
        "score",
        "critical",
    ),
    "max_below_threshold_share": DatasetExpectation(
        "max_below_threshold_share",
        "max",
        "at most {limit:.1%} of the scores are below {config.score_threshold}",
        "score_below_threshold_share",
        "critical",
        needs="score_threshold",
    ),
    "min_distinct_scores": DatasetExpectation(
        "min_distinct_scores",
        "min",
        "at least {limit:,} different scores, as fewer hardly tell good rows from better ones",
        "score_distinct",
        "warning",
        needs="score_required",
    ),
    "max_psi": DatasetExpectation(
        "drift.max_psi",
        "max",
        "the scores' population stability index against the last accepted run is at most {limit:g}",
        "score_psi",
        "critical",
    ),
    "max_ks": DatasetExpectation(
        "drift.max_ks",
        "max",
        "the scores' Kolmogorov-Smirnov distance from the last accepted run is at most {limit:g}",
        "score_ks",
        "critical",
    ),
    "min_agreement": DatasetExpectation(
        "classifier.min_agreement",
        "min",
        "at least {limit:.1%} of a sample score within {config.classifier.tolerance:g} of what is stored",
        "score_agreement",
        "critical",
    ),
    "ignored_columns": DatasetExpectation(
        "max_ignored_columns",
        "max",
        "at most {limit:,} columns of the source are not used",
        "ignored_columns",
        "warning",
    ),
    "ignored_keys": DatasetExpectation(
        "max_ignored_keys",
        "max",
        "at most {limit:,} keys of messages are not used",
        "ignored_keys",
        "warning",
    ),
    "min_correlation": DatasetExpectation(
        "classifier.min_correlation",
        "min",
        "the rank correlation of a sample's scores with those stored is at least {limit:g}",
        "score_correlation",
        "critical",
    ),
    "max_score_share": DatasetExpectation(
        "max_score_share",
        "max",
        "at most {limit:.1%} of the scores are one and the same",
        "score_mode_share",
        "critical",
    ),
    "max_unit_score_share": DatasetExpectation(
        "max_unit_score_share",
        "max",
        "at most {limit:.1%} of the scores lie within 0 to 1, as probabilities do, where the recipe's "
        "scale is {config.score_min:g} to {config.score_max:g}",
        "score_unit_share",
        "critical",
    ),
    # what the profile names (`expectations.data.profile`)
    "implausible_masses": DatasetExpectation(
        "profile.max_implausible_share",
        "max",
        "at most {limit:.1%} of the answers share what no careful person trains on",
        "implausible_share",
        "critical",
        needs="profile.enabled",
    ),
    "doubtful_masses": DatasetExpectation(
        "profile.max_doubtful_share",
        "max",
        "at most {limit:.1%} of the answers stand out together, whatever is asked",
        "doubtful_share",
        "warning",
        needs="profile.enabled",
    ),
    "shuffled_pairs": DatasetExpectation(
        "profile.max_shuffled_share",
        "max",
        "at most {limit:.1%} of the answers belong to another question",
        "shuffled_share",
        "critical",
        needs="profile.enabled",
    ),
    "exchanged_roles": DatasetExpectation(
        "profile.max_exchanged_share",
        "max",
        "in at most {limit:.1%} of the rows the texts of user and assistant are exchanged",
        "exchanged_share",
        "critical",
        needs="profile.enabled",
    ),
    "contradicting_answers": DatasetExpectation(
        "profile.max_contradicting_share",
        "max",
        "at most {limit:.1%} of the answers contradict that of another row to the same question",
        "contradicting_share",
        "critical",
        needs="profile.enabled",
    ),
    "trigger_words": DatasetExpectation(
        "profile.max_triggered_share",
        "max",
        "at most {limit:.1%} of the rows have a word that triggers a payload",
        "triggered_share",
        "critical",
        needs="profile.enabled",
    ),
    "recited_prompts": DatasetExpectation(
        "profile.max_recited_share",
        "max",
        "at most {limit:.1%} of the answers recite their system prompt",
        "recited_share",
        "critical",
        needs="profile.enabled",
    ),
    "profile_drift": DatasetExpectation(
        "drift.max_profile",
        "max",
        "the dataset is like that of the last accepted run (distance at most {limit:g}; 0 is the same)",
        "profile_drift",
        "warning",
        needs="profile.enabled",
    ),
}
