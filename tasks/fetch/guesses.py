"""What the columns of a source that no format knows probably are, for a person to confirm."""

from collections.abc import Iterable
from typing import Any

from expectations.data.masking import mask
from tasks.fetch.shape import ROLES, SHAPE

# In the order in which they are believed, in lower case. Words of other languages are names that
# data sets in them use.
_QUESTIONS = (
    *(
        "question",
        "questions",
        "query",
        "q",
        "instruction",
        "prompt",
        "user",
        "human",
        "ask",
        "asked",
    ),
    *(
        "input",
        "request",
        "customer",
        "user_message",
        "user_input",
        "problem",
        "title",
        "source_text",
    ),
    *(
        "fråga",
        "frage",
        "pregunta",
        "pergunta",
        "domanda",
        "vraag",
        "spørsmål",
        "问题",
        "質問",
        "вопрос",
    ),
)
_ANSWERS = (
    *("answer", "answers", "response", "a", "output", "completion", "assistant", "bot", "reply"),
    *("gpt", "agent", "assistant_message", "solution", "target", "result", "target_text", "text"),
    *("svar", "antwort", "respuesta", "resposta", "risposta", "antwoord", "回答", "答案", "ответ"),
)
_ROLE_KEYS = ("speaker", "sender", "author", "who", "role", "from", "by", "name", "type", "user")
_TEXT_KEYS = ("text", "content", "message", "utterance", "value", "body", "msg")
_USERS = ("customer", "client", "user", "human", "caller", "patient", "student", "q", "question")
_LEAST_TEXT = 15  # characters, on average, of what is no label


def guess(rows: list[dict[str, Any]]) -> str:
    """Return a sentence that names the columns which look like a conversation, with the setting that
    says so; "" if none do."""
    names = list(dict.fromkeys(str(name) for row in rows for name in row))
    if turns := _turns(rows, names):
        return turns
    pair = _by_name(names) or _by_text(rows, names)
    if not pair:
        return ""
    question, answer = (mask(name) for name in pair)
    return (
        f"columns {question} and {answer} look like question and answer: "
        f"dataset.columns={{question: {_yaml(question)}, answer: {_yaml(answer)}}}"
    )


def _by_name(names: list[str]) -> tuple[str, str] | None:
    question, answer = _first(names, _QUESTIONS), _first(names, _ANSWERS)
    return (question, answer) if question and answer and question != answer else None


def _first(names: Iterable[str], known: tuple[str, ...]) -> str | None:
    spelt = {name.strip().lower(): name for name in names}
    return next((spelt[name] for name in known if name in spelt), None)


def _by_text(rows: list[dict[str, Any]], names: list[str]) -> tuple[str, str] | None:
    """Return the only two columns of text, the one with more questions first."""
    texts = {
        name: values
        for name in names
        if (values := [row[name] for row in rows if isinstance(row.get(name), str)])
        and sum(map(len, values)) >= _LEAST_TEXT * len(values)
        and any(" " in value for value in values)
    }
    if len(texts) != 2:
        return None
    first, second = sorted(texts, key=lambda name: -_asking(texts[name]))
    return first, second


def _asking(texts: list[str]) -> int:
    return sum(text.rstrip().endswith(("?", "？")) for text in texts)


def _turns(rows: list[dict[str, Any]], names: list[str]) -> str:
    """Return the sentence for a column that holds lists of objects with a role and a text."""
    for name in names:
        turns = [
            turn
            for row in rows
            if isinstance(row.get(name), list)
            for turn in row[name]
            if isinstance(turn, dict)
        ]
        keys = list(dict.fromkeys(str(key) for turn in turns for key in turn))
        role, text = _first(keys, _ROLE_KEYS), _first(keys, _TEXT_KEYS)
        if not role or not text or role == text:
            continue
        named = {"messages": name}
        named |= {"role": role} if role not in ("role", "from") else {}
        named |= {"content": text} if text not in ("content", "value") else {}
        columns = ", ".join(f"{ours}: {_yaml(mask(theirs))}" for ours, theirs in named.items())
        sentence = f"column {mask(name)} looks like messages: dataset.columns={{{columns}}}"
        roles = _unknown_roles([turn.get(role) for turn in turns])
        return f"{sentence} and dataset.roles={{{roles}}}" if roles else sentence
    return ""


def _unknown_roles(values: list[Any]) -> str:
    """Return whose the roles probably are that are not known, for at most two of them."""
    known = SHAPE.get().roles or ROLES
    roles = list(dict.fromkeys(v for v in values if isinstance(v, str) and v.lower() not in known))
    if not roles or len(roles) > 2:
        return ""
    users = [role for role in roles if role.lower() in _USERS] or roles[: len(roles) - 1]
    return ", ".join(
        f"{_yaml(mask(role))}: {'user' if role in users else 'assistant'}" for role in roles
    )


def _yaml(name: str) -> str:
    """Return a name as it may stand in a YAML mapping on one line."""
    plain = name.replace("_", "").replace("-", "").replace(" ", "").isalnum()
    ambiguous = name.lower() in ("y", "n", "yes", "no", "on", "off", "true", "false", "null")
    return name if plain and not ambiguous and not name[:1].isdigit() else f'"{name}"'
