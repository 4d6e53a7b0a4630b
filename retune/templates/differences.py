"""What a chat template makes of content otherwise than by writing it where it belongs.

The same conversation is rendered with a word that no template knows and with a text that this one
looks at: the second must be the first with the word exchanged.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from retune.templates import Chat, Refusal, examined, outcomes, rendering

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNKNOWN = "abc7c1f"
ALWAYS = ("", "  between spaces \n", "First.\n\nSecond: \"''\" \\n {{ x }} {% y %} <b>&amp;</b>")
MOST_TRIGGERS = 64
LONGEST = 20_000  # characters of a text that tries a limit of length
SHOWN = 80  # characters on either side of where two renderings part
# Where content can stand: the conversation, `None` for it, and whether an answer is asked for.
PLACES: tuple[tuple[tuple[tuple[str, str | None], ...], bool], ...] = (
    ((("user", None),), True),
    ((("system", None), ("user", "q")), True),
    ((("user", "q"), ("assistant", None), ("user", "r")), True),
    ((("user", None), ("assistant", "a"), ("user", "r")), True),
    ((("user", "q"), ("assistant", "a"), ("tool", None)), True),
    ((("user", "q"), ("assistant", "a"), ("user", "r"), ("assistant", "b"), ("user", None)), True),
    ((("user", "q"), ("assistant", None)), False),
    ((("system", "s"), ("user", None), ("assistant", "a")), False),
)


class Site(BaseModel):
    """One line of a template that depends on content, see `retune.templates.content.sites`."""

    line: int
    excerpt: str
    kind: str
    literals: list[str | int]
    is_opaque: bool

    def triggers(self) -> list[str]:
        """Return texts that meet this line's conditions, if its literals tell any."""
        words = [literal for literal in self.literals if isinstance(literal, str)]
        numbers = [n for n in self.literals if isinstance(n, int) and 0 < n < LONGEST]
        texts = list(words)
        if len(words) > 1:
            texts += [" x ".join(words), " x ".join(reversed(words))]
        for number in numbers:
            texts += ["x" * (number + 1), *(f"{word} x " * (number + 1) for word in words[:4])]
        return [text[:LONGEST] for text in dict.fromkeys(texts)]


@dataclass(frozen=True)
class Probe:
    """A conversation that holds `content` where `plain` holds a word that no template knows."""

    content: str
    role: str
    chat: Chat
    plain: Chat
    is_prompt: bool


@dataclass(frozen=True)
class Deviation:
    """What was rendered instead of what was to be expected, both around where they part."""

    probe: Probe
    expected: str
    rendered: str

    def __str__(self) -> str:
        return (
            f"{self.probe.content!r:.120} in a message by {self.probe.role} makes {self.rendered!r} "
            f"instead of {self.expected!r}"
        )


def template_sites(tokenizer: "PreTrainedTokenizerBase") -> list[Site] | Refusal:
    """Return the lines of the chat template that depend on content, or why it cannot be read."""
    result = examined(tokenizer)
    return result if isinstance(result, Refusal) else [Site(**site) for site in result]


def probes(triggers: Sequence[str]) -> list[Probe]:
    """Return conversations with each of `triggers` in every place: alone, within, before, behind."""
    texts = []
    for trigger in triggers[:MOST_TRIGGERS]:
        around = [f"Say {trigger} now.", f"{trigger} it is.", f"It is {trigger}"]
        texts += [trigger, *(around if trigger.strip() else [])]
    return [probe for text in dict.fromkeys(texts) for probe in _in_every_place(text)]


def differences(
    tokenizer: "PreTrainedTokenizerBase", triggers: Sequence[str]
) -> Iterator[Deviation]:
    """Yield where the template writes something else than the content of its messages."""
    tried = probes(triggers)
    for is_prompt in (True, False):
        of_kind = [probe for probe in tried if probe.is_prompt == is_prompt]
        with rendering():
            chats = [probe.chat for probe in of_kind]
            renderings = outcomes(tokenizer, chats, add_generation_prompt=is_prompt)
            plain = list({str(probe.plain): probe.plain for probe in of_kind}.values())
            usual = outcomes(tokenizer, plain, add_generation_prompt=is_prompt)
        usual_of = {str(chat): text for chat, text in zip(plain, usual, strict=True)}
        for probe, outcome in zip(of_kind, renderings, strict=True):
            expected = usual_of[str(probe.plain)]
            if isinstance(expected, Refusal):  # it takes no such conversation at all
                continue
            expected = expected.replace(UNKNOWN, probe.content)
            if str(outcome) != expected:
                yield Deviation(probe, *first_difference(expected, outcome))


def _in_every_place(content: str) -> Iterator[Probe]:
    for turns, is_prompt in PLACES:
        (role,) = [role for role, words in turns if words is None]

        def chat(text: str, turns: Any = turns) -> Chat:
            return [{"role": r, "content": text if words is None else words} for r, words in turns]

        yield Probe(content, role, chat(content), chat(UNKNOWN), is_prompt)


def first_difference(expected: str, outcome: str | Refusal) -> tuple[str, str]:
    """Return both around the place where they part."""
    if isinstance(outcome, Refusal):
        return expected[: 2 * SHOWN], f"no text ({outcome})"
    pairs = zip(expected, outcome, strict=False)
    split = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(expected), len(outcome)))
    excerpt = slice(max(split - SHOWN, 0), split + SHOWN)
    return expected[excerpt], outcome[excerpt]
