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
    texts, changed = _texts(before), _texts(after)
    if before["role"].to_list() != after["role"].to_list():
        old, new = _roles(before), _roles(after)
        return _cut(f"{old}: {texts[0]}"), _cut(f"{new}: {changed[0]}")
    # Two secrets may be masked to one text; the first message is then as good as any.
    pairs = list(zip(texts, changed, strict=True))
    one, other = next((pair for pair in pairs if pair[0] != pair[1]), pairs[0])
    same = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))
    start = max(0, min(same, len(other)) - _BEFORE)
    return _cut(one[start:]), _cut(other[start:])


def _roles(lines: "pl.DataFrame") -> str:
    """Return the roles; of many, how many there are, the first and the last ones."""
    roles = " ".join(masked(lines["role"]).fill_null("(none)"))
    if len(roles) <= _ROLES:
        return roles
    return f"{len(lines)} messages, {roles[: _ROLES // 2]}…{roles[-_ROLES // 2 :]}"


def _texts(lines: "pl.DataFrame") -> list[str]:
    return masked(lines["content"]).fill_null("").to_list()


def _cut(text: str) -> str:
    return text if len(text) <= LENGTH else f"{text[:LENGTH]}…"
