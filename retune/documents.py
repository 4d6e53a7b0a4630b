"""YAML as people write it in recipes; what a file could do beyond that is refused.

Refused, each with one line that says where, are duplicate keys (to YAML the last one wins,
and a gate may be gone), tags, and whatever is larger, deeper or unfolds to more than a recipe does.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import yaml

from retune.recipe import RecipeError

BYTES = 1_000_000  # of a document
CHARACTERS = 100_000  # of one value
DIGITS = 400  # of a number
DEPTH = 30  # sections and lists inside one another, aliases unfolded; a recipe has 5
VALUES = 20_000  # keys and values, aliases unfolded; prefect.yaml has 200

_CORE = "tag:yaml.org,2002:"
_NUMBERS = (f"{_CORE}int", f"{_CORE}float")
_PLAIN = (*_NUMBERS, f"{_CORE}bool", f"{_CORE}null", f"{_CORE}str")
_COLLECTIONS = (None, "!", f"{_CORE}map", f"{_CORE}seq")
_MERGE = f"{_CORE}merge"
_NO_KEY = object()


def read_yaml_file(path: Path, origin: str) -> Any:
    """Return what a YAML file holds, see `read_yaml`; of a large file no more than its limit is read."""
    with path.open("rb") as file:
        return read_yaml(file.read(BYTES + 1), origin)


def read_yaml(content: str | bytes, origin: str, values: int = VALUES) -> Any:
    """Return what one YAML document holds, None if that is nothing; `origin` names it in errors.

    It may hold `values` keys and values, aliases unfolded. Text that YAML 1.1 takes for a date or for
    minutes (1:30) stays text. Raises RecipeError.
    """
    if len(content) > BYTES:
        raise RecipeError(f"{origin} has more than {BYTES:,} bytes; a recipe has a few thousand")
    try:
        text = content.decode("utf-8") if isinstance(content, bytes) else content
        text.encode("utf-8")
    except UnicodeError as error:
        raise RecipeError(f"{origin} is not UTF-8 text ({error}); save it as UTF-8") from None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return _Reader(origin, values).read(yaml.parse(text, Loader=loader))
    except yaml.YAMLError as error:
        message = " ".join(str(error).replace("<unicode string>", origin).split())
        raise RecipeError(f"{origin} is not YAML: {message:.400}") from None


class _Part(NamedTuple):
    """A finished value; `size` and `depth` have aliases unfolded."""

    value: Any
    size: int
    depth: int


@dataclass
class _Open:
    """A section or list that is being read, and how much it holds already."""

    anchor: str | None
    line: int
    is_section: bool
    items: list[Any] = field(default_factory=list)
    values: dict[Any, Any] = field(default_factory=dict)
    lines: dict[Any, int] = field(default_factory=dict)  # by key
    merged: list[dict[Any, Any]] = field(default_factory=list)
    key: Any = _NO_KEY
    size: int = 1
    depth: int = 1

    def finished(self) -> _Part:
        """Return it as a whole; its own keys go before those that it merges."""
        merged: dict[Any, Any] = {}
        for part in reversed(self.merged):  # of several, the first has the say
            merged |= part
        value = merged | self.values if self.is_section else self.items
        return _Part(value, self.size, self.depth)


class _Reader:
    """Builds values from a parser's events, one after another: nothing in a file makes it recurse."""

    def __init__(self, origin: str, values: int) -> None:
        self._origin, self._values = origin, values
        self._open: list[_Open] = []
        self._anchors: dict[str, _Part] = {}
        self._scalars = yaml.SafeLoader("")
        self._documents = 0
        self._whole: Any = None

    def read(self, events: Iterable[yaml.Event]) -> Any:
        for event in events:
            line = event.start_mark.line + 1 if event.start_mark else 1
            if isinstance(event, yaml.DocumentStartEvent):
                self._documents += 1
                if self._documents > 1:
                    self._refuse(line, "a second document begins; keep one")
            elif isinstance(event, yaml.CollectionStartEvent):
                self._begin(event, line)
            elif isinstance(event, yaml.CollectionEndEvent):
                ended = self._open.pop()
                self._add(ended.finished(), ended.anchor, ended.line)
            elif isinstance(event, yaml.AliasEvent):
                self._add(self._anchored(str(event.anchor), line), None, line)
            elif isinstance(event, yaml.ScalarEvent):
                value, tag = self._scalar(event, line)
                self._add(_Part(value, 1, 0), event.anchor, line, merge=tag == _MERGE)
        return self._whole

    def _begin(self, event: Any, line: int) -> None:
        if event.tag not in _COLLECTIONS:
            self._refuse(line, f"the tag {event.tag!r:.80} is not for recipes; remove it")
        if self._open and self._open[-1].is_section and self._open[-1].key is _NO_KEY:
            self._refuse(line, "a key must be a word or a number, not a section or list")
        if len(self._open) >= DEPTH:
            self._refuse(line, f"more than {DEPTH} sections and lists lie inside one another")
        self._open.append(_Open(event.anchor, line, isinstance(event, yaml.MappingStartEvent)))

    def _anchored(self, name: str, line: int) -> _Part:
        if any(part.anchor == name for part in self._open):
            self._refuse(line, f"*{name:.40} lies in what it stands for")
        if name not in self._anchors:
            self._refuse(line, f"*{name:.40} stands for nothing: there is no &{name:.40} before it")
        return self._anchors[name]

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> tuple[Any, str]:
        """Return the value of a word, and the tag by which it was read."""
        if len(event.value) > CHARACTERS:
            self._refuse(line, f"a value has more than {CHARACTERS:,} characters")
        # `resolve` replaces an empty tag; the marks are for the messages of yaml's own loader.
        node = yaml.ScalarNode(event.tag or "", event.value)
        if event.tag in (None, "!"):
            tag = self._scalars.resolve(yaml.ScalarNode, event.value, event.implicit)
            is_text = tag in _NUMBERS and ":" in event.value
            node.tag = tag if tag in (*_PLAIN, _MERGE) and not is_text else f"{_CORE}str"
        elif event.tag not in _PLAIN:
            self._refuse(line, f"the tag {event.tag!r:.80} is not for recipes; remove it")
        if node.tag == _MERGE:
            return "<<", _MERGE
        try:
            if node.tag in _NUMBERS and len(event.value) > DIGITS:
                raise ValueError
            return self._scalars.construct_object(node), node.tag
        except (ValueError, LookupError):  # of Python's own types, by YAML's constructors
            kind = node.tag.removeprefix(_CORE)
            self._refuse(line, f"{event.value!r:.80} cannot be read as {kind}")

    def _add(self, part: _Part, anchor: str | None, line: int, merge: bool = False) -> None:
        """Put a value, or a key, where it belongs."""
        if anchor:
            self._anchors[anchor] = part
        if not self._open:
            self._whole = part.value
            return
        into = self._open[-1]
        into.size += part.size
        into.depth = max(into.depth, part.depth + 1)
        if into.size > self._values or into.depth > DEPTH:
            self._refuse(
                line,
                f"the document unfolds to more than {self._values:,} values, or {DEPTH} inside one "
                f"another",
            )
        if not into.is_section:
            into.items.append(part.value)
        elif into.key is _NO_KEY:
            self._begin_key(into, part.value, line, merge)
        else:
            self._end_key(into, part.value, line)

    def _begin_key(self, into: _Open, key: Any, line: int, merge: bool) -> None:
        if isinstance(key, dict | list):
            self._refuse(line, "a key must be a word or a number, not a section or list")
        into.key = _MERGE if merge else key
        if into.key in into.lines:
            self._refuse(
                line, f"{key!r:.80} stands there already, in line {into.lines[into.key]}; keep one"
            )
        into.lines[into.key] = line

    def _end_key(self, into: _Open, value: Any, line: int) -> None:
        key, into.key = into.key, _NO_KEY
        if key is not _MERGE:
            into.values[key] = value
            return
        into.merged = value if isinstance(value, list) else [value]
        if not all(isinstance(part, dict) for part in into.merged):
            self._refuse(line, "<< takes a section, such as *common, or a list of sections")

    def _refuse(self, line: int, problem: str) -> NoReturn:
        raise RecipeError(f"{self._origin}, line {line}: {problem}")
