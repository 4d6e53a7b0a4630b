"""What every section of a recipe is: its types, its bounds and its refusals."""

import re
from difflib import get_close_matches
from pathlib import Path
from reprlib import Repr
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from retune.errors import RetuneError
from retune.home import home
from retune.recipe.address import without_secrets

_UNREADABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")  # tab and line break are
_SHORT = Repr()  # of Python's, which goes neither deep nor far
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 78


# Every number and text has an upper bound, far above what is of use: what the libraries below would
# choke on hours later is refused when the recipe is read.
Share = Annotated[float, Field(ge=0, le=1)]
Score = Annotated[float, Field(ge=-1e9, le=1e9)]
Line = Annotated[str, Field(max_length=4_096)]  # an id, a path, a revision, a name
Phrase = Annotated[str, Field(max_length=10_000)]


def _in_home(name: str) -> str:
    """Return where `.retune/…` is if RETUNE_HOME has moved it: the demo's inputs are made there."""
    usual, moved = Path(".retune").absolute(), home()
    if moved == usual or not name.startswith(".retune/"):
        return name
    target = moved / name.removeprefix(".retune/")
    return str(target) if target.exists() else name


Source = Annotated[Line, AfterValidator(_in_home)]  # a Hub id or a path


class RecipeError(RetuneError):
    """A recipe that cannot run: one line per mistake, each with the value seen and the way out."""


class Section(BaseModel):
    # Defaults are checked like what is given, so that `10` and `10.0` are one value, and one text.
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_truth_value(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse `seed: on`, which YAML reads as true and pydantic as 1."""
        kinds = _kinds(cls.model_fields[info.field_name or ""].annotation)
        if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
            raise ValueError("should be a number, not a truth value")
        return value

    @field_validator("*")
    @classmethod
    def _is_readable(cls, value: Any) -> Any:
        """Refuse control characters, which no path, name or sentence has and some libraries cut at."""
        texts = value if isinstance(value, tuple | dict) else (value,)
        for text in texts:
            if isinstance(text, str) and (match := _UNREADABLE.search(text)):
                raise ValueError(f"holds the character {match[0]!a}; remove it")
        return value


def _kinds(annotation: Any) -> set[Any]:
    """Return the types of an annotation: {int, NoneType} for `Annotated[int, …] | None`."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if isinstance(annotation, UnionType) or get_origin(annotation) is Union:
        return set().union(*map(_kinds, get_args(annotation)))
    return {annotation}


_MOST_CHOICES = 20  # named in an error, which is one short line


def hint(word: str, choices: Any) -> str:
    close = get_close_matches(str(word), [str(k) for k in choices], n=1, cutoff=0.7)
    if close:
        return f"; did you mean {close[0]!r}?"
    names = [str(choice) for choice in choices]
    more = f" and {len(names) - _MOST_CHOICES} more (docs/settings.md has them all)"
    return f"; use one of: {', '.join(names[:_MOST_CHOICES])}" + more * (len(names) > _MOST_CHOICES)


def all_known(names: Any, allowed: Any, kind: str) -> Any:
    for name in names:
        if name not in allowed:
            raise ValueError(f"{shown(name)} is not {kind}{hint(str(name)[:80], allowed)}")
    return names


def shown(value: Any) -> str:
    """Return a value for an error: short, in one line, and whatever it is."""
    try:
        # Shortened, the address of a secret would no longer be known for one.
        return f"{_SHORT.repr(without_secrets(value) if isinstance(value, str) else value):.80}"
    except ValueError:  # a number of more than 4,300 digits
        return f"a {type(value).__name__} too long to show"
