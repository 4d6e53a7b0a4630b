"""What a chat template does to rows besides writing them: it refuses some, and leaves out words.

Templates in use do both by design. Some raise for a system message, or for two results of tools in a
row; Qwen3's drops the reasoning of every turn but the last. No training on such text learns what was
dropped, so it is counted, and shown in the template's own words.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from expectations.data.masking import mask

if TYPE_CHECKING:
    import polars as pl

REASONING = re.compile(r"(<think>.*?</think>|\[THINK\].*?\[/THINK\])\s*", re.DOTALL)
EXAMPLES = 20  # rows with omissions that are shown
EXCERPT = 200  # characters


class RefusedRow(NamedTuple):
    """A row that the template renders to nothing; `reason` are the template's own words."""

    row: int
    source: str
    reason: str


class AlteredTurn(NamedTuple):
    """A message whose words are not in the text; `omission` is "reasoning" if nothing else is missing."""

    row: int
    turn: int
    role: str
    omission: str
    excerpt: str


@dataclass
class TemplateEffects:
    """What the template did to the rows of one dataset; `altered` and `reasoning` count rows."""

    rows: int = 0
    altered: int = 0
    reasoning: int = 0
    refused: list[RefusedRow] = field(default_factory=list)
    examples: list[AlteredTurn] = field(default_factory=list)

    def compare(self, chats: "pl.DataFrame") -> None:
        """Look for each message of `chats` (`row`, `messages`, `text`) in its text."""
        self.rows += len(chats)
        for row, messages, text in chats.select("row", "messages", "text").iter_rows():
            turns = list(altered_turns(row, messages, text))
            self.altered += bool(turns)
            self.reasoning += any(turn.omission == "reasoning" for turn in turns)
            self.examples += turns[: EXAMPLES - len(self.examples)]

    def metrics(self) -> dict[str, float]:
        """Return how many rows were affected, and the share (0 to 1) of all that came."""
        rows = max(1, self.rows + len(self.refused))
        return {
            "rows/refused": len(self.refused),
            "rows/altered": self.altered,
            "rows/lost_reasoning": self.reasoning,
            "refused_share": len(self.refused) / rows,
            "altered_share": self.altered / rows,
        }

    def reasons(self) -> list[tuple[str, int]]:
        """Return the template's words for refusing rows, the most frequent first, with the counts."""
        return Counter(refusal.reason for refusal in self.refused).most_common()

    def described(self) -> dict[str, Any]:
        """Return all that people look at, masked, for a JSON file."""
        return {
            "reasons": [{"reason": reason, "rows": rows} for reason, rows in self.reasons()],
            "refused": [refusal._asdict() for refusal in self.refused],
            "altered": [turn._asdict() for turn in self.examples],
        }


def altered_turns(row: int, messages: list[dict[str, str]], text: str) -> "list[AlteredTurn]":
    """Return the messages that `text` does not hold as they are; white space does not count."""
    missing = [n for n, message in enumerate(messages) if message["content"].strip() not in text]
    if not missing:
        return []
    words = _words(text)
    turns = []
    for number in missing:
        role, content = messages[number]["role"], messages[number]["content"]
        if _words(content) in words:
            continue
        answer = REASONING.sub("", content)
        only_reasoning = answer != content and _words(answer) in words
        omission = "reasoning" if only_reasoning else "words"
        turns.append(AlteredTurn(row, number, role, omission, mask(content)[:EXCERPT]))
    return turns


def _words(text: str) -> str:
    return "".join(text.split())
