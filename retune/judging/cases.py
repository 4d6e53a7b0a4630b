"""What a judge is asked: one answer by a rubric, or two answers in both orders; and what it said."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from retune.files import digest, sha256
from retune.suites.graders import spoken
from retune.suites.json_answers import NotJSON, json_of

RUBRIC_FILE = Path(__file__).with_name("rubric.txt")
COMPARISON_FILE = Path(__file__).with_name("comparison.txt")
RUBRIC, COMPARISON = ("pass", "fail"), ("first", "second", "tie")
LONGEST_REPLY = 100_000  # characters that are looked at
MOST_BRACES = 20  # that are tried, from the end of a reply
SWAPPED = {"first": "second", "second": "first", "tie": "tie"}

Kind = Literal["rubric", "comparison"]


class JudgeRequest(NamedTuple):
    """One request: the messages that are sent, and the seed of the vote (None: none is sent)."""

    messages: tuple[dict[str, str], ...]
    seed: int | None
    vote: int

    @property
    def key(self) -> str:
        return digest([self.messages, self.seed, self.vote])


class RubricCase(NamedTuple):
    """An answer to a conversation (messages), which passes by the rubric or not."""

    conversation: Sequence[Mapping[str, Any]]
    rubric: str
    answer: str

    @property
    def kind(self) -> Kind:
        return "rubric"

    def requests(self, votes: int, seed: int | None, longest: int) -> list[JudgeRequest]:
        """Return a request for each vote."""
        parts = {"Conversation": _conversation(self.conversation), "Answer": self.answer}
        messages = _messages(RUBRIC_FILE, "Rubric", self.rubric, parts, longest)
        return [_request(messages, seed, vote) for vote in range(votes)]

    def verdicts(self, replies: Sequence[str | None]) -> list[str | None]:
        """Return the verdict of each vote, None where it says nothing."""
        return [verdict_of(reply, RUBRIC) for reply in replies]

    def grade(self, verdicts: Sequence[str | None]) -> float | None:
        """Return 1 if it passes by most votes, 0 if it fails, 0.5 if they are equal; None: no vote."""
        return majority(verdicts, "pass", "fail")

    def decided(self, verdicts: Sequence[str | None]) -> str | None:
        """Return what most votes say; in doubt it fails."""
        grade = self.grade(verdicts)
        return None if grade is None else "pass" if grade == 1 else "fail"


class ComparisonCase(NamedTuple):
    """Two answers to a conversation, of which one is better by the criteria, or none."""

    conversation: Sequence[Mapping[str, Any]]
    criteria: str
    first: str
    second: str

    @property
    def kind(self) -> Kind:
        return "comparison"

    def requests(self, votes: int, seed: int | None, longest: int) -> list[JudgeRequest]:
        """Return two requests for each vote: as it stands, and with the answers exchanged."""
        orders = [
            _messages(
                COMPARISON_FILE,
                "Criteria",
                self.criteria,
                {
                    "Conversation": _conversation(self.conversation),
                    "First answer": one,
                    "Second answer": other,
                },
                longest,
            )
            for one, other in ((self.first, self.second), (self.second, self.first))
        ]
        return [_request(order, seed, vote) for vote in range(votes) for order in orders]

    def verdicts(self, replies: Sequence[str | None]) -> list[str | None]:
        """Return the verdict of each vote: a winner is one in both orders, else it is a tie."""
        said = [verdict_of(reply, COMPARISON) for reply in replies]
        return [_of_both(one, other) for one, other in zip(said[::2], said[1::2], strict=True)]

    def grade(self, verdicts: Sequence[str | None]) -> float | None:
        """Return 1 if most votes prefer the first answer, 0 the second, else 0.5; None: no vote."""
        return majority(verdicts, "first", "second")

    def decided(self, verdicts: Sequence[str | None]) -> str | None:
        """Return what most votes say."""
        names = {None: None, 1.0: "first", 0.0: "second"}
        return names.get(self.grade(verdicts), "tie")


Case = RubricCase | ComparisonCase


def templates() -> str:
    """Return what identifies the prompts that come with retune: `sha256:` of their files."""
    both = sha256(RUBRIC_FILE) + sha256(COMPARISON_FILE)
    return f"sha256:{hashlib.sha256(both.encode()).hexdigest()}"


def majority(verdicts: Sequence[str | None], good: str, bad: str) -> float | None:
    """Return 1 if `good` has more votes than `bad`, 0 if fewer, else 0.5; None if nobody voted."""
    votes = [verdict for verdict in verdicts if verdict]
    if not votes:
        return None
    lead = votes.count(good) - votes.count(bad)
    return 0.5 if lead == 0 else float(lead > 0)


def verdict_of(reply: str | None, allowed: Sequence[str]) -> str | None:
    """Return the verdict in a reply, None where there is none that is allowed.

    The whole reply is the object, or it ends with it; what a judge quotes before does not count.
    """
    text = spoken((reply or "")[-LONGEST_REPLY:]).rstrip("`\n ")
    for begin in _openings(text):
        try:
            value = json_of(text[begin:], fence=False)
        except NotJSON:
            continue
        word = value.get("verdict") if isinstance(value, dict) else None
        found = word.strip().lower() if isinstance(word, str) else None
        return found if found in allowed else None
    return None


def _openings(text: str) -> Iterator[int]:
    """Yield where an object that ends the text may begin: the last ones, since a reason may hold some."""
    place = len(text)
    for _ in range(MOST_BRACES):
        place = text.rfind("{", 0, place)
        if place < 0:
            return
        yield place


def _of_both(one: str | None, other: str | None) -> str | None:
    if one is None or other is None:
        return None
    return one if one == SWAPPED[other] else "tie"


def _request(messages: tuple[dict[str, str], ...], seed: int | None, vote: int) -> JudgeRequest:
    return JudgeRequest(messages, None if seed is None else seed + vote, vote)


def _messages(
    template: Path, title: str, demand: str, parts: Mapping[str, str], longest: int
) -> tuple[dict[str, str], ...]:
    """Return what is sent: the instruction, then the demand and the fenced parts."""
    shown = {name: _shortened(text, longest) for name, text in parts.items()}
    opening, closing = _fence(shown)
    instruction = template.read_text(encoding="utf-8")
    instruction = instruction.replace("{open_line}", opening).replace("{close_line}", closing)
    blocks = [f"{title}:\n{_clean(demand)}"]
    blocks += [f"{name}:\n{opening}\n{text}\n{closing}" for name, text in shown.items()]
    return (
        {"role": "system", "content": instruction.strip()},
        {"role": "user", "content": "\n\n".join(blocks)},
    )


def _fence(parts: Mapping[str, str]) -> tuple[str, str]:
    """Return the lines around foreign text. They depend on it, so that no text can hold its own."""
    name = digest(sorted(parts.items()))
    while any(name in text for text in parts.values()):
        name = digest(name)
    return f"<<<BEGIN {name}>>>", f"<<<END {name}>>>"


def _shortened(text: str, longest: int) -> str:
    text = _clean(text)
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}\n[{len(text) - 2 * half:,} characters left out]\n{text[-half:]}"


def _clean(text: str) -> str:
    """Return a text without what UTF-8 cannot hold: a model may write half a surrogate pair."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _conversation(messages: Sequence[Mapping[str, Any]]) -> str:
    return "\n\n".join(_turn(message) for message in messages)


def _turn(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    calls = message.get("tool_calls")
    called = f"\n{json.dumps(calls, ensure_ascii=False)}" if calls else ""
    return f"[{message.get('role')}]\n{text}{called}"
