"""Whether tools and calls that clients send as structures become the text that rows have them as.

Rows are trained as plain messages, whatever a template does with `tools` and `tool_calls`; a base's
own may write them otherwise than `retune.tool_text` does, or leave them out.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from retune.records import Check
from retune.templates import Chat, Refusal, outcomes
from retune.templates.differences import first_difference
from retune.tool_text import call_text, with_calls, with_tools

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Schemas = list[dict[str, Any]] | None

SCHEMA = {
    "type": "function",
    "function": {
        "name": "thermometer",
        "description": "Say how warm it is.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
QUESTION = {"role": "user", "content": "How warm is it?"}
RESULT = {"role": "tool", "content": '{"celsius": 21}', "tool_call_id": "abcdefghi"}
FIX = (
    "if rows have tools, let clients put schemas and calls into the messages, as rows have them; or "
    "remove chat_template from the base: ChatML's own, used then, does it"
)


def tool_checks(tokenizer: "PreTrainedTokenizerBase") -> Iterator[Check]:
    """Yield how the template writes `tools`, and how `tool_calls`."""
    told = [
        ([*before, QUESTION], [{"role": "system", "content": with_tools(said, [SCHEMA])}, QUESTION])
        for before, said in (([], ""), ([{"role": "system", "content": "Be brief."}], "Be brief."))
    ]
    yield _check(tokenizer, "tools", told, [SCHEMA])
    yield _check(tokenizer, "tool_calls", [_called("", "Łódź"), _called("I see.", "Oslo", "Rome")])


def _called(content: str, *cities: str) -> tuple[Chat, Chat]:
    """Return a conversation with a call for each city, as clients have it and as rows have it."""
    all_arguments = [{"city": city} for city in cities]
    functions = [{"name": "thermometer", "arguments": arguments} for arguments in all_arguments]
    calls = [{"id": "abcdefghi", "type": "function", "function": f} for f in functions]
    texts = [call_text("thermometer", arguments) for arguments in all_arguments]
    turn: dict[str, Any] = {"role": "assistant", "content": content}
    as_text = turn | {"content": with_calls(content, texts)}
    results = [RESULT] * len(cities)
    return [QUESTION, turn | {"tool_calls": calls}, *results], [QUESTION, as_text, *results]


def _check(
    tokenizer: "PreTrainedTokenizerBase",
    key: str,
    pairs: Sequence[tuple[Chat, Chat]],
    schemas: Schemas = None,
) -> Check:
    """Compare conversations as clients have them with the same as rows have them."""
    sent, rows = [list(chats) for chats in zip(*pairs, strict=True)]
    made = outcomes(tokenizer, sent, add_generation_prompt=True, tools=schemas)
    trained = outcomes(tokenizer, rows, add_generation_prompt=True)
    differing = [
        first_difference(text, outcome)
        for text, outcome in zip(trained, made, strict=True)
        if not isinstance(text, Refusal) and text != outcome
    ]
    seen = "the same prompts"
    if differing:
        expected, rendered = differing[0]
        seen = f"{rendered!r} instead of {expected!r} in {len(differing)} of {len(pairs)} conversations"
    return Check(
        name=f"the template writes `{key}` as rows have them",
        passed=not differing,
        seen=seen,
        fix=FIX,
        severity="info",  # whether the rows have tools is not known yet
    )
