"""Odd datasets in which nothing is wrong: the line must let every one of them pass."""

import base64
import json
from collections.abc import Callable
from functools import partial
from gzip import compress
from random import Random
from typing import Any
from uuid import UUID

from retune.recipe.repairs import REPAIRS
from tests.corpus.bad_rows import BROKEN_LINES, ENGLISH, LINKED, REFUSED, UNANSWERED, lines
from tests.corpus.bad_sets import BY_HAND, MANY, REFERENCE, as_jsonl, quoted, scored, unscored
from tests.corpus.case import CSV, ESCAPED, JSON, PARQUET, Case, Form, Rows, jsonl
from tests.corpus.parts import (
    SOME,
    Edit,
    answer,
    column,
    every,
    first_pair,
    in_turn,
    instead,
    made,
    openai,
    put,
    question,
    replaced,
    same,
    spoil,
    spoken,
    system,
    turns,
    wrapped,
)
from tests.corpus.text import (
    COUNT,
    LANGUAGES,
    WORDS,
    Row,
    Turn,
    fill,
    foreign,
    long_text,
    prose,
    sharegpt,
    sound,
    sound_row,
    sound_score,
)


def good(name: str, rows: Rows, settings: dict[str, Any] | None = None, **case: Any) -> Case:
    return Case(name, "", rows, settings or {}, rejected=False, **case)


# Shapes


def tool_use(rng: Random) -> dict[str, Any]:
    """Return one use of a tool: its schema, the question, the call, the result and the answer."""
    verb, noun, place = (rng.choice(WORDS[kind]) for kind in ("DO", "THING", "WHEN"))
    parameters = {"type": "object", "properties": {noun: {"type": "string"}}, "required": [noun]}
    name = f"{verb}_{noun}".replace(" ", "_")
    return {
        "schema": {"name": name, "description": prose(rng, 1), "parameters": parameters},
        "call": {"name": name, "arguments": {noun: place, "limit": rng.randint(1, 99)}},
        "result": json.dumps({noun: rng.random(), "state": rng.choice(WORDS["ADJ"])}),
        "ask": f"{prose(rng, 1)} Can you {verb} the {noun}?",
        "tell": prose(rng, 2),
    }


def sharegpt_tools(rng: Random) -> Row:
    use = tool_use(rng)
    talk = (
        ("human", use["ask"]),
        ("function_call", json.dumps(use["call"])),
        ("observation", use["result"]),
        ("gpt", use["tell"]),
    )
    columns = {"tools": json.dumps([use["schema"]]), "source": "tools", "score": sound_score(rng)}
    return sharegpt(*talk, **columns)


def openai_tools(rng: Random) -> Row:
    use = tool_use(rng)
    call = {**use["call"], "arguments": json.dumps(use["call"]["arguments"])}
    calls = [{"id": "call_1", "type": "function", "function": call}]
    return {
        "messages": [
            {"role": "system", "content": "Use the tools."},
            {"role": "user", "content": use["ask"]},
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "tool_call_id": "call_1", "content": use["result"]},
            {"role": "assistant", "content": use["tell"]},
        ],
        "tools": [{"type": "function", "function": use["schema"]}],
        "source": "tools",
        "score": sound_score(rng),
    }


ALPACA = instead(
    lambda row, rng: {
        "instruction": first_pair(row)[0],
        "input": prose(rng, 1) if rng.random() < 0.5 else "",
        "output": first_pair(row)[1],
    }
)
COMPLETION = instead(
    lambda row, _: dict(zip(("prompt", "completion"), first_pair(row), strict=True))
)
TEXT_PARTS = instead(
    lambda row, _: {
        "messages": [
            {"role": role, "content": [{"type": "text", "text": text}]}
            for role, text in zip(("user", "assistant"), first_pair(row), strict=True)
        ]
    }
)
ALIASES = instead(
    lambda row, _: {
        "conversations": [
            {"from": role, "value": text}
            for role, text in zip(("user", "chatgpt"), first_pair(row), strict=True)
        ]
    }
)


BOTH = instead(lambda row, rng: {**openai(row, rng), "conversations": None})
ODD_VALUES = (None, 1, 2.5, "a", True, [1, "b", None], {"a": 1}, {"a": {"b": "c"}})


def from_windows(rows: list[Row]) -> bytes:
    """A byte order mark, CRLF, blank lines and no line end after the last row."""
    return b"\xef\xbb\xbf" + jsonl(rows).strip().replace(b"\n", b"\r\n\r\n")


def going_on(rng: Random) -> Row:
    """The same short question again and again."""
    talk = [("human", fill("Tell me about a ADJ NOUN.", rng)), ("gpt", prose(rng, 3))]
    for _ in range(rng.randint(3, 12)):
        talk += [("human", "continue"), ("gpt", prose(rng, 3))]
    return sharegpt(*talk, source="stories", score=sound_score(rng))


def with_a_mistake(row: Row, rng: Random) -> Row:
    """A first try that must not be learnt, and its correction."""
    row = openai(row, rng)
    wrong = {"role": "assistant", "content": prose(rng, 2), "weight": 0}
    again = {"role": "user", "content": f"{prose(rng, 1)} Try again, please?"}
    *before, last = row["messages"]
    return {**row, "messages": [*before, wrong, again, {**last, "weight": 1}]}


def as_columns(row: Row, rng: Random) -> Row:
    """A struct of lists instead of a list of structs."""
    row = openai(row, rng)
    keys = ("role", "content")
    return {**row, "messages": {key: [turn[key] for turn in row["messages"]] for key in keys}}


QA = instead(lambda row, _: dict(zip("qa", first_pair(row), strict=True)))
NAMED = {"columns": {"question": "q", "answer": "a"}}
SHAPES = (
    good("first_tries_not_learnt", every(with_a_mistake)),
    good("struct_of_lists", every(as_columns), form=PARQUET),
    good("question_and_answer_by_name", every(QA), dataset=NAMED),
    good("question_and_answer_by_name_in_csv", every(QA), dataset=NAMED, form=CSV),
    good("a_label_that_is_a_class", every(column("label", lambda rng: rng.randrange(5)))),
    good("empty_lists_of_pictures", every(column("images", lambda _: []))),
    good("long_conversations", made(partial(sound_row, pairs=30), 120)),
    good("tools_in_sharegpt", made(sharegpt_tools)),
    good("tools_in_openai", made(openai_tools)),
    good("openai", every(openai)),
    good("openai_text_parts", every(TEXT_PARTS)),
    good("alpaca", every(ALPACA)),
    good("prompt_completion", every(COMPLETION)),
    good("formats_mixed", in_turn(same, openai, ALPACA, COMPLETION)),
    good("role_aliases", every(ALIASES)),
    good("column_of_many_types", every(column("meta", lambda rng: rng.choice(ODD_VALUES)))),
    good("parquet", sound, form=PARQUET),
    good("csv", sound, form=CSV),
    good("json", sound, form=JSON),
    good(
        "json_under_a_key",
        sound,
        form=Form(".json", lambda rows: b'{"data": %b}' % JSON.encode(rows)),
    ),
    good("utf_16", sound, form=Form(".jsonl", lambda rows: jsonl(rows).decode().encode("utf-16"))),
    good("columns_of_both_formats", in_turn(same, BOTH)),
    good("gzip_unnamed", sound, form=Form(".jsonl", lambda rows: compress(jsonl(rows), mtime=0))),
    good("jsonl_from_windows", sound, form=Form(".jsonl", from_windows)),
    good("jsonl_escaped", every(spoken("zh")), form=ESCAPED),
    good("few_broken_lines", sound, form=lines(BROKEN_LINES["lines_cut_off"], step=150)),
    good("system_prompts", every(system(lambda _, rng: fill("You are a ADJ assistant.", rng)))),
    good("one_long_system_prompt", every(system(prose(Random(1), 120)))),
    good("goes_on_and_on", made(going_on, 150)),
)


# Texts

FENCED = """{before} Does `<s>` or `[INST]` work in this template?

```html
<s>{{{{ user.{noun} }}}}</s> {{% for {verb} in {thing} %}}[INST] {{{{ {verb} }}}} [/INST]{{% endfor %}}
```
"""
LATEX = (
    r"\[\int_0^{{{a}}} x^{{{b}}}\,dx = \frac{{{a}^{{{c}}}}}{{{c}}}\] and $\alpha_{{{a}}} \le \beta$"
)
SELECT = "SELECT {noun}, count(*) FROM {thing} WHERE {verb} > {a} GROUP BY {noun};"
LOG = "2024-05-{day:02} 12:{minute:02}:07,{a:03} INFO  [worker-{b}] {noun}: {words} (10.0.{b}.{c})"
MARKUP = '<{noun} id="{a}"><{verb}>{words}</{verb}></{noun}>'


def filled(pattern: str) -> Callable[[Random], str]:
    """Fill names and numbers of a programmer's text."""

    def fill_in(rng: Random) -> str:
        words = {kind.lower(): rng.choice(found) for kind, found in WORDS.items()}
        b = rng.randint(1, 20)
        numbers = {"a": rng.randint(2, 900), "b": b, "c": b + 1}
        moment = {"day": rng.randint(1, 31), "minute": rng.randint(0, 59)}
        return pattern.format(
            noun=words["noun"].replace(" ", "_"),
            verb=words["do"],
            thing=words["thing"],
            words=prose(rng, 1),
            before=prose(rng, 1),
            **numbers,
            **moment,
        )

    return fill_in


def several(make: Callable[[Random], str], least: int, most: int, gap: str = "\n") -> Edit:
    """A line of prose, and some of these."""
    return lambda _, rng: "\n\n".join(
        (prose(rng, 1), gap.join(make(rng) for _ in range(rng.randint(least, most))))
    )


def table(rng: Random) -> str:
    cells = (f"| {rng.choice(WORDS['NOUN'])} | {rng.randint(1, 999)} |" for _ in range(12))
    return "| name | count |\n|---|---:|\n" + "\n".join(cells)


def poem(rng: Random) -> str:
    refrain = f"{prose(rng, 1)}\n{prose(rng, 1)}"
    return "\n\n".join(f"{prose(rng, 1)}\n{prose(rng, 1)}\n{refrain}" for _ in range(5))


def picture(rng: Random) -> str:
    data = base64.b64encode(rng.randbytes(rng.randint(500, 6000))).decode()
    return f"![chart](data:image/png;base64,{data})"


def identifiers(rng: Random) -> str:
    commit, number = rng.randbytes(20).hex(), UUID(bytes=rng.randbytes(16), version=4)
    return f"commit {commit}, request {number}, sha256:{rng.randbytes(32).hex()}"


def accented(text: str, rng: Random) -> str:
    """Put one or two combining marks on every third letter or so."""
    marks = [chr(mark) for mark in range(0x300, 0x315)]
    return "".join(
        sign
        + "".join(rng.sample(marks, rng.randint(1, 2))) * (sign.isalpha() and rng.random() < 0.3)
        for sign in text
    )


def right_to_left(rng: Random) -> Row:
    """Bidirectional marks, embeddings and isolates, as editors put them."""
    ask, tell = (foreign(rng.choice(("ar", "he")), rng, count) for count in (1, 4))
    marked = f"\u200f{tell}\u200e \u2067{rng.choice(WORDS['NOUN'])}\u2069 \u202b(2024)\u202c"
    return sharegpt(("human", ask), ("gpt", marked), source="rtl", score=sound_score(rng))


def structured(rng: Random) -> str:
    made = {
        rng.choice(WORDS["NOUN"]): {"value": rng.random(), "note": prose(rng, 1)} for _ in range(4)
    }
    return json.dumps(made, indent=2)


EMOJI = ("👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪", "🇯🇵", "❤️", "🧑🏾‍🚀", "🥲", "1️⃣", "👁️‍🗨️", "🏴󠁧󠁢󠁳󠁣󠁴󠁿")
RARE = "ﬁ\u00ad \ue0b0 \U00020000 𝒳 \f\v"
DIGITS = "ISBN 978-3-16-148410-0, 2019-03-04 to 2020-11-30, 123-45-6789, 48.8566, 1024-512-100"
STUBS = "`export API_KEY=YOUR_API_KEY`, password='********', token = os.environ['TOKEN']"
SHORT = ("Yes.", "No.", "42", "7", "B", "True", "👍", "ja", "!", "¯\\_(ツ)_/¯")


def question_from_text(talk: list[Turn]) -> list[Turn]:
    """The user gives a text and the assistant makes a question of it."""
    return [("human", f"Make a question of this: {talk[-1][1]}"), ("gpt", talk[-2][1])]


def code_only(_text: str, rng: Random) -> str:
    body = "\n".join(
        filled("    {thing} = {verb}({a}, {b})")(rng) for _ in range(rng.randint(5, 25))
    )
    return f"```python\ndef {filled('{verb}_{noun}')(rng)}():\n{body}\n```"


def quoting(talk: list[Turn]) -> list[Turn]:
    return [*talk[:-1], (talk[-1][0], f"{talk[-2][1]}\n\n{talk[-1][1]}")]


def talk_of_refusals(row: Row, rng: Random) -> Row:
    """What a user may well ask, and an assistant say after its first sentences."""
    ask = "Why do you say \"I'm sorry, but I can't help with that\" as an AI language model?"
    tell = 'A refusal such as "I cannot assist with that" is trained into a model.'
    about = answer(lambda *_: f"{prose(rng, 4)} {tell}")(row, rng)
    return question(lambda *_: f"{prose(rng, 1)} {ask}")(about, rng)


# Answers without much language in them, to questions in English.
UNSPOKEN = {
    "code": code_only,
    "latex": several(filled(LATEX), 2, 5),
    "json": lambda _, rng: structured(rng),
    "one_word": lambda _, rng: rng.choice(SHORT),
}
TEXTS = (
    *(good(f"only_{language}", every(spoken(language))) for language in LANGUAGES),
    good(
        "languages_wanted",
        in_turn(same, spoken("de"), spoken("fr")),
        {"languages": ("en", "de", "fr")},
    ),
    good("marks_of_direction", made(right_to_left)),
    *(good(f"english_with_{what}", every(answer(how)), ENGLISH) for what, how in UNSPOKEN.items()),
    good("combining_accents", every(answer(accented))),
    good("emoji", every(answer(several(lambda rng: rng.choice(EMOJI), 3, 30, " ")))),
    good("emoji_escaped", every(answer(lambda *_: " ".join(EMOJI))), form=ESCAPED),
    good("rare_characters", every(answer(put(RARE)))),
    good("no_break_spaces", every(answer(replaced(" ", "\u00a0")))),
    good("tabs_and_crlf", every(answer(lambda text, _: text.replace(". ", ".\r\n\t")))),
    good("line_separators", every(answer(lambda text, _: text.replace(". ", ".\u2028\u2029")))),
    good("one_long_answer", spoil(answer(lambda _, rng: long_text(rng, 100_000)), 1 / COUNT)),
    good("answers_of_one_word", every(answer(lambda _, rng: rng.choice(SHORT)))),
    good("templates_in_code", every(answer(lambda _, rng: filled(FENCED)(rng)))),
    good("latex", every(answer(several(filled(LATEX), 2, 5)))),
    good("tables", every(answer(several(table, 1, 3, "\n\n")))),
    good("sql", every(answer(several(filled(SELECT), 5, 30)))),
    good("logs", every(question(several(filled(LOG), 10, 60)))),
    good("xml", every(answer(several(filled(MARKUP), 3, 20)))),
    good("json_answers", every(answer(lambda _, rng: structured(rng)))),
    good("poems", every(answer(lambda _, rng: poem(rng)))),
    good("pictures_in_base64", every(answer(several(picture, 1, 2)))),
    good("hashes", every(answer(several(identifiers, 1, 5)))),
    good("numbers_not_dialled", every(answer(put(DIGITS)))),
    good("placeholders_of_secrets", every(answer(put(STUBS)))),
    good(
        "questions_wanted", every(turns(question_from_text)), {"tolerances": {"roles_swapped": 1.0}}
    ),
    good("answers_quote_the_question", every(turns(quoting))),
    good("about_refusals", every(talk_of_refusals)),
    good("links_in_a_third", in_turn(LINKED, same, same)),
    good("links_welcome", every(LINKED), {"tolerances": {"url": 1.0}}),
)


# Scores and the whole

# Each in one row only.
FLAWED = (
    answer(""),
    UNANSWERED,
    REFUSED,
    answer(put("\0")),
    question(wrapped("", "<|im_end|>")),
    answer(lambda _, rng: prose(rng, 1) * 300),
)
ESCAPING = {"special_tokens": "escape", "tolerances": {"special_token": 0.2}}
LENIENT = {"keep": ("refusal",), "tolerances": {"refusal": 0.5}}
WHOLE = (
    good("reserved_addresses", every(answer(put("user@example.com")))),
    good("git_remotes", every(answer(put("git@github.com:owner/repo.git")))),
    good("placeholder_passwords", every(answer(put("postgres://user:password@localhost:5432/db")))),
    good("sound", sound),
    good("a_flaw_now_and_then", in_turn(*FLAWED, *[same] * (COUNT - len(FLAWED)))),
    good("scores_with_two_decimals", scored(lambda score: round(score, 2))),
    good("scores_as_text", scored(str)),
    good("scores_of_two_types", scored(round, 0.3)),
    good("scores_whole_on_purpose", scored(round), {"min_distinct_scores": 2}),
    good("scores_optional", every(unscored), {"score_required": False, **BY_HAND}),
    good("scores_as_before", partial(sound, count=MANY), reference=REFERENCE),
    good("control_tokens_escaped", spoil(answer(wrapped("", "<|im_end|>")), SOME), ESCAPING),
    good("benchmark_unseen", every(question(quoted(8))), beside={"benchmark.jsonl": as_jsonl}),
    # Who wants refusals wants them to begin alike, too.
    good("refusals_welcome", spoil(REFUSED, 0.2), LENIENT | {"profile": {"max_doubtful_share": 1}}),
)

# What the gate refuses by itself, repaired.
GREETED = turns(lambda talk: [("gpt", "Hello, what can I do for you?"), *talk])
SPLIT = turns(lambda talk: [*talk[:-1], *((talk[-1][0], part) for part in (talk[-1][1], "Bye."))])
IN_VAIN = turns(lambda talk: [("human", "Are you there?"), ("gpt", ""), *talk])
LEFT_OPEN = turns(lambda talk: [*talk, ("human", "Thank you!")])
REPAIRED = (
    good("trimmed", in_turn(GREETED, LEFT_OPEN, same), {"repairs": ("trim_ends",)}),
    good("merged", spoil(SPLIT, 0.5), {"repairs": ("merge_same_role",)}),
    good("empty_turns_dropped", spoil(IN_VAIN, 0.5), {"repairs": ("drop_empty_turns",)}),
    good(
        "decoded_again",
        spoil(answer(lambda text, _: f"Déjà vu: {text}".encode().decode("latin-1")), SOME),
        {"repairs": ("fix_mojibake",)},
    ),
    good(
        "all_repaired",
        in_turn(GREETED, SPLIT, IN_VAIN, answer(replaced(" ", "&nbsp;")), LEFT_OPEN),
        {"repairs": tuple(REPAIRS)},
    ),
)

CASES_GOOD = (*SHAPES, *TEXTS, *WHOLE, *REPAIRED)
