"""What a repair did to a row, as a pair of short masked texts."""

from typing import TYPE_CHECKING

from expectations.data.masking import masked

if TYPE_CHECKING:
    import polars as pl

LENGTH = 100  # characters
_BEFORE = 30  # of them before the first difference
_ROLES = 40


def example(before: "pl.DataFrame", after: "pl.DataFrame") -> tuple[str, str]:
    """Return what differs between the messages (`role`, `content`) of a row before and after a repair:
    the text around it, behind the roles if these differ."""
    old, new = _roles(before), _roles(after)
    texts, changed = _texts(before), _texts(after)
    if old != new:
        return _cut(f"{old}: {texts[0]}"), _cut(f"{new}: {changed[0]}")
    # Two secrets may be masked to one text; the first message is then as good as any.
    pairs = list(zip(texts, changed, strict=True))
    one, other = next((pair for pair in pairs if pair[0] != pair[1]), pairs[0])
    same = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))
    start = max(0, min(same, len(other)) - _BEFORE)
    return _cut(one[start:]), _cut(other[start:])


def _roles(lines: "pl.DataFrame") -> str:
    roles = " ".join(masked(lines["role"]).fill_null("(none)"))
    return roles if len(roles) <= _ROLES else f"{roles[:_ROLES]}…"


def _texts(lines: "pl.DataFrame") -> list[str]:
    return masked(lines["content"]).fill_null("").to_list()


def _cut(text: str) -> str:
    return text if len(text) <= LENGTH else f"{text[:LENGTH]}…"
