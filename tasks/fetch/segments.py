"""Axolotl's `input_output`: a text in `segments`, of which each says whether it is learnt (`label`)."""

from collections import Counter
from typing import Any

from tasks.fetch.tool_calls import Message
from tasks.fetch.values import Unreadable, kind_of, parse_json, shown

_ROLES = {False: "user", True: "assistant"}
_KEYS = {"label", "text"}


def from_segments(segments: Any, what: str, unused: Counter[str]) -> list[Message]:
    """Return segments as turns: what is not learnt is asked, and masked; what is learnt is answered.

    Keys that nothing is made of are counted in `unused`. Raises Unreadable unless what is not learnt and
    what is learnt follow each other by turns.
    """
    if isinstance(segments, str) and segments.strip():
        segments = parse_json(segments, what)
    if not isinstance(segments, list) or not segments:
        raise Unreadable(f"{what} is {kind_of(segments)}, not a list of segments")
    messages = [
        _read(segment, f"segment {number} of {what}", unused)
        for number, segment in enumerate(segments)
    ]
    roles = [message.role for message in messages]
    if roles != [_ROLES[False], _ROLES[True]] * (len(roles) // 2):
        raise Unreadable(
            f"{what} (Axolotl's input_output) do not alternate between `label: false` and `label: true`, "
            f"so that they are no turns: write them as `messages`, with `train: false` where nothing is "
            f"to be learnt"
        )
    return messages


def _read(segment: Any, where: str, unused: Counter[str]) -> Message:
    if not isinstance(segment, dict):
        raise Unreadable(f"{where} is {kind_of(segment)}, not an object: {shown(segment)}")
    label, text = segment.get("label"), segment.get("text")
    if not isinstance(label, bool) or not isinstance(text, str):
        raise Unreadable(f"{where} has no `label` (true or false) and `text`: {shown(segment)}")
    unused.update(key for key in segment.keys() - _KEYS if segment[key] is not None)
    # White space at their ends belongs to the template that the text was made with.
    return Message(_ROLES[label], text.strip(), None if label else False)
