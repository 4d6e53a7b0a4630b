"""The encoding of a text file: whether it is what is said of it, and what it looks like if not."""

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from expectations.data.masking import mask
from retune.confined import alive
from retune.sources import SourceError

if TYPE_CHECKING:
    from charset_normalizer import CharsetMatch

_MARK = "\udcff"  # no decoder gives it by itself
_PIECE = 1 << 20  # characters
_LONG, _UNIT = 16 << 10, 4 << 10  # characters: of a line that counts as several, and of each
_TRIFLE = 0.01  # share of lines that may be damaged, each of which is then its row's flaw
_FEW, _PLACES = 4, 8  # of so few lines, so many damaged places are none
_ENOUGH = 2_000  # damaged lines after which reading on would tell nothing more
_SAMPLE = 64 << 10  # bytes that are guessed from
_EXCERPT = 60  # characters
# In the order of how common they are: where two fit alike, it decides.
_COMMON = (
    *(
        "cp1252",
        "cp1251",
        "gb18030",
        "big5",
        "cp932",
        "euc_jp",
        "cp949",
        "koi8_r",
        "cp1250",
        "cp1254",
    ),
    *("cp1253", "cp1255", "cp1256", "cp1257", "cp1258", "iso8859_2", "mac_roman", "cp437", "cp850"),
    "cp866",
)
_NAMES = {
    "gb18030": "GBK (Chinese)",
    "big5": "Big5 (Chinese)",
    "cp932": "Shift JIS (Japanese)",
    "euc_jp": "EUC-JP (Japanese)",
    "cp949": "CP949 (Korean)",
}


def _mark(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError), "only reading asks for it"
    return _MARK, error.end


codecs.register_error("retune_mark", _mark)


class _Damage(NamedTuple):
    """How many lines were looked at, how many of them hold what the encoding does not know, and in how
    many places."""

    lines: int
    damaged: int
    places: int


def by_mark(path: Path) -> str | None:
    """Return the encoding that a file's byte order mark tells, None if it has none."""
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return "utf-8-sig" if start.startswith(codecs.BOM_UTF8) else None


def require(path: Path, name: str, encoding: str, named: bool) -> None:
    """Raise SourceError if more than a trifle of a file is not in its encoding, and say what it looks
    like. `name` is what the file is called, `named` tells that the recipe names the encoding."""
    wide = _without_mark(path) if encoding.startswith("utf-8") else None
    if wide:
        raise _refusal(path, name, "UTF-8", "it is full of NUL bytes", wide, named)
    damage = _damage(path, encoding)
    if damage.lines <= _FEW:  # a small array may be a single line
        is_trifle, reason = damage.places < _PLACES, f"{damage.places:,} places are not"
    else:
        is_trifle = damage.damaged < 2 or damage.damaged <= _TRIFLE * damage.lines
        reason = f"{damage.damaged:,} of {damage.lines:,} lines are not"
    if is_trifle:
        return
    spoken = "UTF-8" if encoding.startswith("utf-8") else encoding
    raise _refusal(path, name, spoken, reason, _guess(path, encoding), named)


def _refusal(
    path: Path, name: str, spoken: str, reason: str, guess: str | None, named: bool
) -> SourceError:
    if guess is None:
        advice = "set dataset.encoding, or store it as UTF-8"
        return SourceError(f"dataset.source: {name} is not {spoken} ({reason}); {advice}")
    excerpt = _excerpt(path, guess)
    looks = f"it looks like {_NAMES.get(guess, guess)}" + (f" ({excerpt!r})" if excerpt else "")
    change = f"set dataset.encoding={guess}"
    if named and guess == "utf-8":
        change = "leave dataset.encoding empty"
    return SourceError(f"dataset.source: {name} is not {spoken} ({reason}): {looks}; {change}")


def _without_mark(path: Path) -> str | None:
    """Return the encoding of a file of two or four bytes a character that does not say so.

    A text has no NUL; in these encodings every ASCII character has one, always on the same side.
    """
    with path.open("rb") as file:
        start = file.read(_SAMPLE)
    start = start[: len(start) // 4 * 4]
    quarter = len(start) // 4
    if not quarter or b"\0" not in start:
        return None
    nul = [start[at::4].count(0) / quarter for at in range(4)]
    for encoding, places in (("utf-32-le", (1, 2, 3)), ("utf-32-be", (0, 1, 2))):
        if min(nul[at] for at in places) > 0.3 and sum(nul) > 2:
            return encoding
    for encoding, high in (("utf-16-le", (1, 3)), ("utf-16-be", (0, 2))):
        low = [at for at in range(4) if at not in high]
        if min(nul[at] for at in high) > 0.05 and max(nul[at] for at in low) < 0.01:
            return encoding
    return None


def _damage(path: Path, encoding: str) -> _Damage:
    lines = damaged = places = 0
    rest = ""
    with path.open(encoding=encoding, errors="retune_mark", newline="\n") as file:
        while piece := file.read(_PIECE):
            alive()
            places += piece.count(_MARK)
            if damaged > _ENOUGH and damaged > _TRIFLE * lines:
                break
            if _MARK not in rest and _MARK not in piece:  # as nearly always
                lines += max(piece.count("\n"), len(piece) // _LONG)
                rest = piece[-_UNIT:].rpartition("\n")[2]
                continue
            *whole, rest = (rest + piece).split("\n")
            if len(rest) > _LONG:
                whole, rest = [*whole, rest], ""
            for unit in _units(whole):
                lines += 1
                damaged += _MARK in unit
    if rest:
        lines += 1
        damaged += _MARK in rest
    return _Damage(lines, damaged, places)


def _units(lines: list[str]) -> Iterator[str]:
    """Return lines, a very long one in parts: a whole JSON array may be a single line."""
    for line in lines:
        if len(line) <= _LONG:
            yield line
        else:
            yield from (line[at : at + _UNIT] for at in range(0, len(line), _UNIT))


def _guess(path: Path, encoding: str) -> str | None:
    """Return the encoding that the damaged lines look like, None if like none."""
    import charset_normalizer

    sample = _damaged_bytes(path, "utf-8")
    if not sample and not encoding.startswith("utf-8"):
        return "utf-8"
    matches = charset_normalizer.from_bytes(sample, cp_isolation=list(_COMMON))
    best = min(
        (
            (*_oddity(match), _COMMON.index(name), name)
            for match in matches
            for name in match.could_be_from_charset
            if name in _COMMON and name != encoding
        ),
        default=None,
    )
    return best[-1] if best else None


def _oddity(match: "CharsetMatch") -> tuple[bool, float, float]:
    """Return what tells an encoding that does not fit from one that does, the smaller the better."""
    return _shouts(str(match)), round(match.chaos, 1), -round(match.coherence, 1)


def _shouts(text: str) -> bool:
    """Say whether most letters beyond ASCII are capitals, as in Cyrillic that was read as another."""
    return sum(letter.isupper() - letter.islower() for letter in text if letter > "\x7f") > 0


def _damaged_bytes(path: Path, encoding: str) -> bytes:
    """Return some lines of a file that are not in an encoding."""
    sample = b""
    with path.open("rb") as file:
        while len(sample) < _SAMPLE and (line := file.readline(_SAMPLE)):
            try:
                # What readline cut is cut within a character, perhaps.
                codecs.getincrementaldecoder(encoding)().decode(line)
            except UnicodeError:
                sample += line
    return sample[:_SAMPLE]


def _excerpt(path: Path, encoding: str) -> str:
    """Return what the first damaged place says in an encoding; masked, like all that quotes a row."""
    sample = _damaged_bytes(path, "utf-8") if not encoding.startswith("utf") else b""
    text = sample.decode(encoding, "replace").partition("\n")[0]
    text = mask(text)  # before it is cut: a secret without its name is no longer known for one
    first = next((at for at, letter in enumerate(text) if ord(letter) > 127), 0)
    return text[max(0, first - _EXCERPT // 2) :][:_EXCERPT]
