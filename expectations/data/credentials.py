"""Passwords, keys and tokens in texts: detect-secrets' detectors, asked in linear time.

Their patterns are written for short lines: over a whole message they take a time that grows with the
square of its length. So an engine that is linear by its construction finds what they match, and a
detector sees only that.
"""

from collections.abc import Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, NamedTuple

from expectations.data.candidates import any_holds, contains_any, without_look_arounds

if TYPE_CHECKING:
    import polars as pl
    from detect_secrets.plugins.base import RegexBasedDetector

# Keys that detect-secrets 1.5 does not know: Hugging Face, Google, Anthropic, OpenAI's and GitHub's
# newer ones, Slack's for apps, npm's, and AWS's without quotes.
MORE_SECRETS = (
    r"hf_[A-Za-z0-9]{34}|AIza[A-Za-z0-9_-]{35}|sk-ant-[A-Za-z0-9_-]{20}|github_pat_[A-Za-z0-9_]{22}"
    r"|GOCSPX-[A-Za-z0-9_-]{28}|sk-(?:proj|svcacct|admin)-[A-Za-z0-9_-]{40}|npm_[A-Za-z0-9]{36}"
    r"|xapp-[0-9]-[A-Z0-9]{8,20}-[0-9]{8,20}-[a-f0-9]{20}"
    r"|(?i:aws_secret_access_key *[=:] *)[A-Za-z0-9/+]{40}"
)
PLACEHOLDERS = {"password", "passwd", "pass", "pwd", "secret", "changeme", "xxx", "xxxx", ""}


class Detector(NamedTuple):
    """One pattern of a detector: `loose` finds too much, `exact` what the detector's own does."""

    loose: str
    exact: str
    judge: "RegexBasedDetector"


@cache
def detectors() -> tuple[Detector, ...]:
    """Return every pattern of the detectors that look for secrets, for an engine without look-arounds."""
    import re

    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
    from detect_secrets.plugins.base import BasePlugin, RegexBasedDetector

    kinds: Mapping[str, type[BasePlugin]] = get_mapping_from_secret_type_to_class()
    patterns = []
    for kind in kinds.values():
        # Public IP addresses are no secret; Artifactory's patterns match capitalised words.
        if kind.__name__ in ("IPPublicDetector", "ArtifactoryDetector"):
            continue
        judge = kind()
        if not isinstance(judge, RegexBasedDetector):
            continue
        for pattern in judge.denylist:
            flags = "".join(
                letter for letter, flag in (("i", re.I), ("x", re.X)) if pattern.flags & flag
            )
            loose, exact = (
                f"(?{flags}:{source})"
                for source in (without_look_arounds(pattern.pattern), _exact(pattern.pattern))
            )
            patterns.append(Detector(loose, exact, judge))
    return tuple(patterns)


@cache
def secret_patterns() -> tuple[str, ...]:
    """Return patterns for whatever the detectors may match: they find too much rather than too
    little, and the detectors themselves decide."""
    return tuple(dict.fromkeys((*(detector.loose for detector in detectors()), MORE_SECRETS)))


def has_secret(texts: "pl.Series") -> "pl.Series":
    """Return for each text whether it holds a secret; null when that could not be judged."""
    import polars as pl

    suspect = contains_any(texts, secret_patterns())
    suspect_texts = texts.filter(suspect)
    verdicts: list[bool | None] = suspect_texts.str.contains(MORE_SECRETS).to_list()
    for detector in detectors():
        open_ = pl.Series([verdict is not True for verdict in verdicts], dtype=pl.Boolean)
        places = (suspect_texts.str.contains(detector.exact) & open_).arg_true()
        for place, candidates in zip(
            places, suspect_texts.gather(places).str.extract_all(detector.exact), strict=True
        ):
            verdict = any_holds(candidates, partial(_is_secret, judge=detector.judge))
            verdicts[place] = verdict if verdict is not False else verdicts[place]
    return suspect.scatter(suspect.arg_true(), pl.Series(verdicts, dtype=pl.Boolean))


def _is_secret(candidate: str, judge: "RegexBasedDetector") -> bool:
    return any(
        value.lower().strip("<>[]{}$*") not in PLACEHOLDERS
        for value in judge.analyze_string(candidate)
    )


def _exact(pattern: str) -> str:
    """Return a pattern that matches where `pattern` does, with a character of context consumed in
    the place of a look-around."""
    import re

    pattern = pattern.replace(r"(?:(?<=\W)|(?<=^))", r"(?:\W|\A)")
    pattern = re.sub(r"\(\?!\\w\)", r"(?:\\W|\\z)", pattern)
    pattern = re.sub(r"\(\?!\[([^\]^]+)\]\)", r"(?:[^\1]|\\z)", pattern)
    assert not re.search(r"\(\?<?[=!]", pattern), f"a look-around that is not known: {pattern}"
    return pattern
