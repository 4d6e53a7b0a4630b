"""Passwords, keys and tokens in texts: detect-secrets' detectors, asked in linear time.

Their patterns are written for short lines: over a whole message they take a time that grows with the
square of its length. So an engine that is linear by its construction finds what they match, and a
detector sees only that.
"""

from collections.abc import Iterable, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, NamedTuple

from expectations.data.assignments import ASSIGNED, WORDS, is_assigned
from expectations.data.candidates import any_holds, contains_any, without_look_arounds

if TYPE_CHECKING:
    import polars as pl
    from detect_secrets.plugins.base import RegexBasedDetector

# Keys that detect-secrets 1.5 does not know, by their makers' own forms.
# The boundaries are ASCII: those of Unicode make the engine slow where a text is not ASCII.
MORE_SECRETS = "|".join(
    (
        # models: Hugging Face, Google, Anthropic, OpenAI, OpenRouter, Groq, Replicate, xAI, Perplexity
        r"hf_[A-Za-z0-9]{34}|AIza[A-Za-z0-9_-]{35}|sk-ant-[A-Za-z0-9_-]{20}",
        r"sk-(?:proj|svcacct|admin)-[A-Za-z0-9_-]{40}|(?-u:\b)sk-(?:or-v1-)?[0-9a-f]{64}(?-u:\b)|(?-u:\b)sk-[A-Za-z0-9]{48}(?-u:\b)",
        r"(?-u:\b)sk-[0-9a-f]{32}(?-u:\b)|(?-u:\b)gsk_[A-Za-z0-9]{52}(?-u:\b)|(?-u:\b)r8_[A-Za-z0-9]{37}(?-u:\b)|(?-u:\b)xai-[A-Za-z0-9]{70,}(?-u:\b)",
        r"(?-u:\b)pplx-[A-Za-z0-9]{48}(?-u:\b)",
        # clouds: AWS without quotes, Google, Azure, DigitalOcean, Databricks, Heroku, Docker, Supabase
        r"(?i:aws_?secret_?access_?key[\"']? *[=:] *[\"']?)[A-Za-z0-9/+]{40}|GOCSPX-[A-Za-z0-9_-]{28}",
        r"(?-u:\b)ya29\.[A-Za-z0-9_-]{40,}|(?-u:\b)1//0[A-Za-z0-9_-]{40,}",
        r"(?i:(?:account|sharedaccess)key=)[A-Za-z0-9+/]{42,88}={1,2}|[?&]sig=[A-Za-z0-9%+/]{40,}(?:%3D|=)",
        r"(?-u:\b)[A-Za-z0-9_~.-]{3}[0-9]Q~[A-Za-z0-9_~.-]{31,34}|(?-u:\b)do[opr]_v1_[a-f0-9]{64}",
        r"(?-u:\b)dapi[a-f0-9]{32}(?-u:\b)|(?-u:\b)HRKU-[A-Za-z0-9_-]{36,}|(?-u:\b)dckr_[op]at_[A-Za-z0-9_-]{27,}|(?-u:\b)sbp_[a-f0-9]{40}(?-u:\b)",
        # code: GitHub, npm, RubyGems, Postman, Figma, Linear, Atlassian, Vault, Terraform
        r"github_pat_[A-Za-z0-9_]{22}|npm_[A-Za-z0-9]{36}|(?-u:\b)rubygems_[a-f0-9]{48}|(?-u:\b)PMAK-[a-f0-9]{24}-[a-f0-9]{34}",
        r"(?-u:\b)figd_[A-Za-z0-9_-]{38,}|(?-u:\b)lin_api_[A-Za-z0-9]{40}|(?-u:\b)ATATT3x[A-Za-z0-9_=-]{60,}|(?-u:\b)hvs\.[A-Za-z0-9_-]{24,}",
        r"(?-u:\b)[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_-]{60,}",
        # services: Slack's apps, Discord, Mailgun, Shopify, Square, Stripe, Twilio, Notion, Airtable
        r"xapp-[0-9]-[A-Z0-9]{8,20}-[0-9]{8,20}-[a-f0-9]{20}|discord(?:app)?\.com/api/webhooks/[0-9]{17,20}/[A-Za-z0-9_-]{60,}",
        r"(?-u:\b)key-[0-9a-f]{32}(?-u:\b)|(?-u:\b)shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}(?-u:\b)|(?-u:\b)sq0(?:atp|csp|idp)-[A-Za-z0-9_-]{22,43}",
        r"(?-u:\b)EAAA[A-Za-z0-9_-]{60}(?-u:\b)|(?-u:\b)whsec_[A-Za-z0-9+/]{32,}|(?-u:\b)[rs]k_live_[A-Za-z0-9]{20,}|(?-u:\b)SK[0-9a-f]{32}(?-u:\b)",
        r"(?-u:\b)ntn_[0-9]{9,12}[A-Za-z0-9]{30,}|(?-u:\b)secret_[A-Za-z0-9]{43}(?-u:\b)|(?-u:\b)pat[A-Za-z0-9]{14}\.[a-f0-9]{64}(?-u:\b)",
        # operations: New Relic, Sentry, Grafana, PuTTY, age
        r"(?-u:\b)NRAK-[A-Z0-9]{27}(?-u:\b)|https://[0-9a-f]{32}(?::[0-9a-f]{32})?@[a-z0-9.-]*sentry|(?-u:\b)sntry[su]_[A-Za-z0-9+/=_-]{40,}",
        r"(?-u:\b)gl(?:sa|c)_[A-Za-z0-9+/=_]{32,}|PuTTY-User-Key-File-[0-9]|AGE-SECRET-KEY-1[0-9A-Z]{58}",
    )
)
# One of these is in whatever MORE_SECRETS matches.
_WORDS = (
    *(
        "hf_",
        "AIza",
        "sk-",
        "gsk_",
        "r8_",
        "xai-",
        "pplx-",
        "ecret",
        "ECRET",
        "GOCSPX-",
        "ya29.",
        "1//0",
    ),
    *(
        "Key=",
        "key=",
        "KEY=",
        "sig=",
        "Q~",
        "_v1_",
        "dapi",
        "HRKU-",
        "dckr_",
        "sbp_",
        "github_pat_",
        "npm_",
    ),
    *(
        "rubygems_",
        "PMAK-",
        "figd_",
        "lin_api_",
        "ATATT3x",
        "hvs.",
        ".atlasv1.",
        "xapp-",
        "/webhooks/",
    ),
    *(
        "key-",
        "shpat_",
        "shpca_",
        "shppa_",
        "shpss_",
        "sq0",
        "EAAA",
        "whsec_",
        "k_live_",
        "SK",
        "ntn_",
        "pat",
    ),
    *("NRAK-", "sentry", "sntry", "glsa_", "glc_", "PuTTY-User-Key", "AGE-SECRET"),
)
# Of a pattern that wants the name of what is assigned: one of WORDS, or `pw`.
_ASSIGNS = r"key\|pwd\|(?:pw\|)?password\|pass\|token\)|secret\[-_\]\?"
PLACEHOLDERS = {"password", "passwd", "pass", "pwd", "secret", "changeme", "xxx", "xxxx", ""}
_DEEPEST = (
    500  # brackets of JSON that is read; Python 3.11 takes 1,000 within each other, others more
)


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


def may_hold_key(texts: "pl.Series", *assignments: str) -> "pl.Series":
    """Return which texts one of the `secret_patterns` finds something in, or one of `assignments`, other
    patterns that want one of WORDS; a null holds nothing.

    Most patterns begin with letters that an engine is quick to look for. Those of names that something
    is assigned to do not, and are asked for in texts with such a name alone.
    """
    import re

    named = {pattern for pattern in secret_patterns() if re.search(_ASSIGNS, pattern)}
    others = set(secret_patterns()) - named - {MORE_SECRETS}
    suspect = contains_any(texts, others) | _narrowed(texts, _WORDS, (MORE_SECRETS,))
    return suspect | _narrowed(texts, ("pw", *WORDS), {*named, *assignments}, any_case=True)


def has_secret(texts: "pl.Series") -> "pl.Series":
    """Return for each text whether it holds a secret; null when that could not be judged."""
    import polars as pl

    suspect = may_hold_key(texts, ASSIGNED)
    if not suspect.any():
        return suspect
    suspect_texts = texts.filter(suspect)
    verdicts: list[bool | None] = [
        any_holds(candidates, _is_own) for candidates in suspect_texts.str.extract_all(MORE_SECRETS)
    ]
    assigned = suspect_texts.str.extract_all(ASSIGNED)
    verdicts = [
        verdict or any_holds(candidates, is_assigned) or verdict
        for verdict, candidates in zip(verdicts, assigned, strict=True)
    ]
    for detector in detectors():
        open_ = pl.Series([verdict is not True for verdict in verdicts], dtype=pl.Boolean)
        places = (suspect_texts.str.contains(detector.exact) & open_).arg_true()
        for place, candidates in zip(
            places, suspect_texts.gather(places).str.extract_all(detector.exact), strict=True
        ):
            verdict = any_holds(candidates, partial(_is_secret, judge=detector.judge))
            verdicts[place] = verdict if verdict is not False else verdicts[place]
    return suspect.scatter(suspect.arg_true(), pl.Series(verdicts, dtype=pl.Boolean))


def _narrowed(
    texts: "pl.Series", words: tuple[str, ...], patterns: Iterable[str], any_case: bool = False
) -> "pl.Series":
    """Return which texts hold one of the patterns, asked only for those that hold one of the words."""
    named = texts.str.contains_any(list(words), ascii_case_insensitive=any_case).fill_null(False)
    if not named.any():
        return named
    return named.scatter(named.arg_true(), contains_any(texts.filter(named), patterns))


def _is_own(candidate: str) -> bool:
    """Tell whether a key of a maker's form is somebody's, not a stub such as `sk-xxxx`."""
    import re

    key = re.split(r"[_=:-]", candidate)[-1].lower() or candidate.lower()
    return len(set(key)) >= min(6, len(key)) and "xxxx" not in key and "your" not in key


def _is_secret(candidate: str, judge: "RegexBasedDetector") -> bool:
    if "eyJ" in candidate and _is_nested(candidate):
        # How deep a reader of JSON goes depends on Python's version; none says what this is.
        raise RecursionError(f"a token of JSON with more than {_DEEPEST} brackets")
    return any(
        value.lower().strip("<>[]{}$*") not in PLACEHOLDERS
        for value in judge.analyze_string(candidate)
    )


def _is_nested(token: str) -> bool:
    """Tell whether a JSON Web Token's JSON may be deeper than every reader of it goes."""
    import base64

    for part in token[token.index("eyJ") :].split(".")[:2]:
        try:
            text = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
        except ValueError:
            continue
        if text.count(b"{") + text.count(b"[") > _DEEPEST:
            return True
    return False


def _exact(pattern: str) -> str:
    """Return a pattern that matches where `pattern` does, with a character of context consumed in
    the place of a look-around."""
    import re

    pattern = pattern.replace(r"(?:(?<=\W)|(?<=^))", r"(?:\W|\A)")
    pattern = re.sub(r"\(\?!\\w\)", r"(?:\\W|\\z)", pattern)
    pattern = re.sub(r"\(\?!\[([^\]^]+)\]\)", r"(?:[^\1]|\\z)", pattern)
    assert not re.search(r"\(\?<?[=!]", pattern), f"a look-around that is not known: {pattern}"
    return pattern
