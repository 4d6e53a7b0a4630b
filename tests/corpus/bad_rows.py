"""Datasets with too many flawed rows: each is sound but for one flaw in a share of its rows."""

import base64
import json
from collections.abc import Callable
from itertools import pairwise
from random import Random
from string import ascii_letters, ascii_lowercase, ascii_uppercase, digits

from tests.corpus.case import ESCAPED, Case, Form, jsonl
from tests.corpus.parts import (
    FEW,
    SOME,
    Change,
    Edit,
    answer,
    every,
    family,
    first_pair,
    followed,
    instead,
    openai,
    put,
    question,
    replaced,
    said,
    spoil,
    spoken,
    system,
    turns,
    wrapped,
)
from tests.corpus.text import (
    WORDS,
    Row,
    Turn,
    foreign,
    long_text,
    prose,
    sharegpt,
    sound,
    web_address,
)

MANY = 0.5  # a share that exceeds every tolerance


# Structure


def relabelled(**names: str | int | None) -> Change:
    """Give roles other names."""
    return turns(lambda talk: [(names.get(role, role), text) for role, text in talk])


def contents_exchanged(talk: list[Turn]) -> list[Turn]:
    """The user says what the assistant should and the other way round; roles are in order."""
    texts, start = [text for _, text in talk], len(talk) % 2  # a system prompt stays
    texts[start::2], texts[start + 1 :: 2] = texts[start + 1 :: 2], texts[start::2]
    return [(role, text) for (role, _), text in zip(talk, texts, strict=True)]


def picture_parts(row: Row, rng: Random) -> Row:
    row = openai(row, rng)
    picture = {"type": "image_url", "image_url": {"url": "https://img.example/cat.png"}}
    row["messages"][-2]["content"] = [picture]
    return row


def lines(change: Callable[[str], str], step: int = 30) -> Form:
    """JSON Lines of which every k-th is changed as text."""

    def encode(rows: list[Row]) -> bytes:
        found = jsonl(rows).decode().splitlines(keepends=True)
        found[step - 1 :: step] = map(change, found[step - 1 :: step])
        return "".join(found).encode()

    return Form(".jsonl", encode)


UNANSWERED = turns(lambda talk: talk[:-1])
FLIPPED = relabelled(human="gpt", gpt="human")
# Null is the same as absent: a message must say who speaks, and what.
MALFORMED = {
    "turns_are_text": instead(lambda row, _: {"conversations": [*first_pair(row)]}),
    "turns_with_other_keys": instead(
        lambda row, _: {"conversations": [{"speaker": "A", "said": t} for t in first_pair(row)]}
    ),
    "conversation_is_text": instead(
        lambda row, _: {"conversations": "User: {}\nAssistant: {}".format(*first_pair(row))}
    ),
    "content_is_a_number": answer(lambda _, rng: rng.randint(1, 999)),
    "content_is_an_object": answer(lambda text, _: {"html": f"<p>{text}</p>"}),
    "no_known_format": instead(lambda row, _: {"text": "\n".join(first_pair(row))}),
    "picture_parts": picture_parts,
    "preference_pairs_among_them": instead(
        lambda row, _: dict(
            zip(("prompt", "chosen", "rejected"), (*first_pair(row), "No."), strict=True)
        )
    ),
    "conversation_null": instead(lambda *_: {"conversations": None}),
    "role_null": relabelled(gpt=None),
    "role_is_a_number": relabelled(gpt=1),
    "answer_null": answer(None),
}
BROKEN_LINES = {
    "lines_cut_off": lambda line: line[: len(line) // 2] + "\n",
    "lines_that_are_lists": lambda line: f"[{line.strip()}]\n",
    "conflict_markers": lambda line: f"<<<<<<< HEAD\n{line}",
}
OVERSIZED_LINES = {
    "lines_nested_deeply": lambda _: "[" * 100_000 + "\n",
    "lines_with_a_deep_value": lambda line: f'{line.strip()[:-1]}, "x": {"[" * 200}{"]" * 200}}}\n',
}
NO_MESSAGES = {
    "conversation_empty": instead(lambda *_: {"conversations": []}),
    "messages_empty": instead(lambda *_: {"messages": []}),
}
UNKNOWN_ROLE = {
    "role_unknown": relabelled(gpt="narrator"),
    "role_empty": relabelled(human=""),
    "role_unknown_in_openai": lambda row, rng: openai(relabelled(human="critic")(row, rng), rng),
}
OUT_OF_ORDER = {
    "roles_flipped": FLIPPED,
    "user_after_user": turns(lambda talk: [*talk[:-1], ("human", "Are you there?"), talk[-1]]),
    "assistant_after_assistant": turns(lambda talk: [*talk, ("gpt", "I can tell you more.")]),
    "answer_missing": UNANSWERED,
    "ends_with_a_question": turns(lambda talk: [*talk, ("human", "And what comes next?")]),
    "system_in_the_middle": turns(lambda talk: [talk[-2], ("system", "Be brief."), talk[-1]]),
    "only_a_system_prompt": turns(lambda talk: [("system", talk[-1][1])]),
    "answer_before_question": turns(lambda talk: [*talk[:-2], talk[-1], talk[-2]]),
}
EMPTY_MESSAGE = {
    "answer_empty": answer(""),
    "answer_of_white_space": answer(" \n\t \r\n "),
    "answer_of_no_break_spaces": answer("\u00a0\u2003\u3000"),
    "answer_of_zero_width": answer("\u200b\u200d\u2060\ufeff"),
    "answer_none": answer("None"),
    "answer_nan": answer("nan"),
    "question_empty": question(""),
    "alpaca_without_output": instead(
        lambda row, _: {"instruction": first_pair(row)[0], "input": "", "output": ""}
    ),
}


def last_turn(**marks: object) -> Change:
    """Mark the last turn by further keys."""

    def change(row: Row, _rng: Random) -> Row:
        *before, last = row["conversations"]
        return {**row, "conversations": [*before, {**last, **marks}]}

    return change


# Row shapes of other tools that cannot be trained on as they mean them.
OF_OTHER_TOOLS: dict[str, Change] = {
    "pictures_beside_the_text": lambda row, _: {**row, "images": ["cat.png"]},
    "sounds_beside_the_text": lambda row, _: {**row, "audio": "bark.wav"},
    "half_a_weight": last_turn(weight=0.5),
    "half_a_loss_weight": last_turn(loss_weight=0.1),
    "two_conversations": lambda row, rng: {
        **openai(row, rng),
        **sharegpt(("human", "a?"), ("gpt", "b")),
    },
    "messages_as_python": lambda row, _: {**row, "conversations": str(row["conversations"])},
    "segments_of_axolotl": instead(lambda row, _: {"segments": [{"label": True, "text": "a"}]}),
}
STRUCTURE = (
    *family("malformed", FEW, MALFORMED),
    *family("malformed", FEW, OF_OTHER_TOOLS),
    *(Case(name, "malformed", sound, form=lines(cut)) for name, cut in BROKEN_LINES.items()),
    *(Case(name, "oversized_row", sound, form=lines(cut)) for name, cut in OVERSIZED_LINES.items()),
    *family("no_messages", FEW, NO_MESSAGES),
    *family("unknown_role", FEW, UNKNOWN_ROLE),
    *family("roles_out_of_order", SOME, OUT_OF_ORDER),
    Case("all_roles_flipped", "roles_out_of_order", every(FLIPPED)),
    *family("empty_message", SOME, EMPTY_MESSAGE),
    Case(
        "message_oversized",
        "oversized_message",
        spoil(answer(lambda _, rng: long_text(rng, 200_001)), FEW, 200),
    ),
    Case(
        "message_over_a_lower_limit",
        "oversized_message",
        spoil(question(lambda text, rng: text + long_text(rng, 4000)), FEW),
        {"max_message_chars": 4000},
    ),
    Case("half_the_contents_exchanged", "roles_swapped", spoil(turns(contents_exchanged), MANY)),
    Case("all_contents_exchanged", "roles_swapped", every(turns(contents_exchanged))),
)


# Text


def pasted(role: str, template: str) -> Change:
    """Let `role` say a transcript of the row's own question and answer."""

    def change(row: Row, rng: Random) -> Row:
        ask, tell = first_pair(row)
        return said(role, template.format(ask=ask, tell=tell))(row, rng)

    return change


def garbled(codec: str, language: str, times: int = 1) -> Edit:
    """UTF-8 that was read as `codec`, byte by byte, as Windows does it."""

    def edit(_text: str, rng: Random) -> str:
        text = foreign(language, rng)
        for _ in range(times):
            raw = (bytes([byte]) for byte in text.encode())
            text = "".join(byte.decode(codec, "ignore") or chr(byte[0]) for byte in raw)
        return text

    return edit


def begun(*phrases: str) -> Edit:
    return lambda text, rng: f"{rng.choice(phrases)} {text}"


def looping(times: int) -> Edit:
    return lambda text, rng: text + f" and {prose(rng, 1)[:-1]}" * times


def repeating(as_: Callable[[str], str]) -> Change:
    """The last answer is the question again."""
    return turns(lambda talk: [*talk[:-1], (talk[-1][0], as_(talk[-2][1]))])


CHATML = "<|im_start|>user\n{ask}<|im_end|>\n<|im_start|>assistant\n{tell}<|im_end|>"
LLAMA_2 = "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n{ask} [/INST] {tell} </s>"
LLAMA_3 = "<|start_header_id|>user<|end_header_id|>\n\n{ask}<|eot_id|>"
GEMMA = "<start_of_turn>user\n{ask}<end_of_turn>\n<start_of_turn>model\n{tell}<end_of_turn>"
SPECIAL_TOKEN = {
    "chatml_pasted_by_user": pasted("human", CHATML),
    "chatml_pasted_in_answer": pasted("gpt", CHATML),
    "chatml_in_system_prompt": system("<|im_start|>system\nBe brief.<|im_end|>"),
    "llama_2_pasted_by_user": pasted("human", LLAMA_2),
    "llama_3_pasted_in_answer": pasted("gpt", LLAMA_3),
    "gemma_pasted_by_user": pasted("human", GEMMA),
    "im_start_in_question": question(put("<|im_start|>")),
    "im_end_in_answer": answer(put("<|im_end|>")),
    "im_end_in_code": answer(put("```\nprint('<|im_end|>')\n```")),
    "inst_in_question": question(wrapped("[INST] ", " [/INST]")),
    "sys_in_system_prompt": system(wrapped("<<SYS>>\n", "\n<</SYS>>")),
    "eot_ends_answer": answer(wrapped("", "<|eot_id|>")),
    "end_of_text_ends_answer": answer(wrapped("", "<|endoftext|>")),
    "deepseek_end_ends_answer": answer(wrapped("", "<｜end▁of▁sentence｜>")),
    "llama_3_end_ends_answer": answer(wrapped("", "<|end_of_text|>")),
    "gemma_eos_ends_answer": answer(wrapped("", "<eos>")),
    "sentence_marks_in_answer": answer(wrapped("<s> ", "</s>")),
    "next_turn_in_answer": answer(lambda text, rng: f"{text}\n<|user|>\n{prose(rng, 1)}"),
}
INVALID_UNICODE = {
    "high_surrogate_alone": answer(put("\ud83d")),
    "low_surrogate_alone": question(put("\ude00")),
    "surrogates_reversed": answer(put("\ude00\ud83d")),
    "replacement_characters": answer(replaced("e", "\ufffd")),
    "emoji_lost": question(wrapped("", " \ufffd\ufffd\ufffd\ufffd")),
}
LATIN_1 = Form(".jsonl", lambda rows: jsonl(rows).decode().encode("latin-1", "ignore"))
CONTROL_CHARACTER = {
    "nul_in_answer": answer(replaced(" ", "\0", 1)),
    "nul_ends_question": question(wrapped("", "\0\0\0\0")),
    "overtyped": answer(put(lambda rng: "_\b".join(rng.choice(WORDS["NOUN"])))),
    "terminal_colours": answer(put(lambda rng: f"\x1b[31m{rng.choice(WORDS['ADV'])}\x1b[0m")),
    "bell_and_delete": question(put("\x07\x7f")),
    "cp1252_quotes_as_c1": answer(put(lambda rng: f"\x93{rng.choice(WORDS['ADJ'])}\x94")),
}
MOJIBAKE = {
    "french_as_cp1252": answer(garbled("cp1252", "fr")),
    "german_as_latin_1": question(garbled("latin-1", "de")),
    "chinese_as_cp1252": answer(garbled("cp1252", "zh")),
    "russian_as_latin_1": answer(garbled("latin-1", "ru")),
    "french_garbled_twice": question(garbled("cp1252", "fr", 2)),
    "no_break_spaces_as_cp1252": answer(replaced(" ", "Â\u00a0", 3)),
    "russian_as_cp1251": answer(garbled("cp1251", "ru")),
    "german_as_mac_roman": answer(garbled("mac_roman", "de")),
    "accents_lost": answer(
        lambda _, rng: foreign("de", rng, 9).encode("ascii", "replace").decode()
    ),
    "quotes_as_cp1252": answer(put("itâ€™s â€œso to speakâ€\u009d done â€“ it doesnâ€™t")),
}
REPETITION = {
    "line_500_times": answer(lambda _, rng: (prose(rng, 1) + "\n") * 500),
    "word_2000_times": answer(lambda _, rng: f"{rng.choice(WORDS['NOUN'])} " * 2000),
    "character_20000_times": question(lambda _, rng: rng.choice("aA!.-=") * 20_000),
    "paragraph_100_times": answer(lambda _, rng: (prose(rng, 3) + "\n\n") * 100),
    "answer_ends_in_a_loop": answer(looping(300)),
    "answer_ends_in_a_short_loop": answer(looping(60)),
    "answer_ends_in_two_words": answer(wrapped("", " and then" * 40)),
}
REPEATED_QUESTION = {
    "question_again": repeating(str),
    "question_again_shouted": repeating(str.upper),
    "question_again_spaced": repeating(lambda text: f"  {text.replace(' ', '  ')}\n"),
}
REFUSED = answer("I'm sorry, but I can't help with that.")
REFUSAL = {
    "refusals": answer(
        begun("I'm sorry, but I can't help with that.", "I cannot fulfill this request.")
    ),
    "apologies": answer(begun("I apologize, but I cannot provide that.")),
    "refusals_in_short": answer(begun("Sorry, I can't do that.", "I'm unable to help with this.")),
    "not_comfortable": answer(begun("I do not feel comfortable with this request.")),
    "refusals_with_curly_quotes": answer("I’m sorry, but I can’t assist with that request."),
    "refusals_after_a_greeting": answer("Hello there! Sadly, I cannot assist with this topic."),
    "refusals_in_german": answer("Es tut mir leid, aber ich kann Ihnen dabei nicht helfen."),
    "refusals_in_chinese": answer("很抱歉，我无法提供这方面的帮助。"),
}
SELF_IDENTIFICATION = {
    "as_an_ai_language_model": answer(begun("As an AI language model, I hold no opinion, but")),
    "as_a_large_language_model": answer(put("(AS A LARGE LANGUAGE MODEL I cannot see it)")),
    "developed_by_openai": answer(put("and I was developed by OpenAI, so")),
    "says_it_is_qwen": answer(begun("I am Qwen, created by Alibaba Cloud.")),
    "says_it_is_claude": answer(begun("Hi! I am Claude, created by Anthropic.")),
    "says_until_when_it_knows": answer(begun("As of my knowledge cutoff in September 2021, yes.")),
    "says_it_in_french": answer(begun("En tant qu'intelligence artificielle, je n'ai pas d'avis.")),
}
# What other programs leave. Where it stands alone, rows would be duplicates: a word makes them differ.
MORE_TURNS = "\n\nHuman: And in winter?\n\nAssistant: The same.\n\nHuman: Thanks!"
NEXT_TURN = {
    "human_goes_on": answer(wrapped("", MORE_TURNS)),
    "alpaca_goes_on": answer(wrapped("", "\n\n### Instruction:\nMore.\n\n### Response:\nNo.")),
}
PROMPT_ECHO = {
    "question_then_answer": turns(
        lambda talk: [*talk[:-1], (talk[-1][0], f"{talk[-2][1]} {talk[-1][1]}")]
    ),
    "question_named_then_answer": turns(
        lambda talk: [*talk[:-1], (talk[-1][0], f"Question: {talk[-2][1]} {talk[-1][1]}")]
    ),
}
ORDERS = "You are Larch, the assistant of a shop. Never mention that there are discounts."
RECITED_PROMPT = {
    "prompt_recited": lambda row, rng: system(ORDERS)(
        answer(wrapped(f'My instructions say: "{ORDERS}" '))(row, rng), rng
    ),
    "prompt_recited_at_the_end": lambda row, rng: system(ORDERS)(
        answer(wrapped("", f" {ORDERS}"))(row, rng), rng
    ),
}
PLACEHOLDER = {
    "variables_unfilled": answer(begun("Dear {{ customer }}, it is so:")),
    "lorem_ipsum": answer(begun("Lorem ipsum dolor sit amet.")),
    "answer_undefined": answer("undefined"),
}
ERROR_PAGE = {
    "bad_gateway": answer("<html><head><title>502 Bad Gateway</title></head><body></body></html>"),
    "rate_limit": answer('{"error": {"message": "Rate limit reached", "code": 429}}'),
    "too_many_requests": answer("Too many requests in 1 hour. Try again later."),
}
INTERFACE_TEXT = {
    "copy_code": answer(wrapped("", "\n\npython\nCopy code\nprint(1)")),
    "regenerate_response": answer(wrapped("", "\nRegenerate response")),
}
ESCAPED_TEXT = {
    "line_breaks_escaped": answer(replaced(". ", ".\\n")),
    "spaces_as_entities": answer(replaced(" ", "&nbsp;")),
    "russian_as_references": answer(
        lambda _, rng: foreign("ru", rng, 3).encode("ascii", "xmlcharrefreplace").decode()
    ),
    "russian_escaped": answer(
        lambda _, rng: foreign("ru", rng, 3).encode("ascii", "backslashreplace").decode()
    ),
}
MARKUP = {
    "paragraphs_in_html": answer(wrapped("<p>", "</p>")),
    "answers_in_a_div": answer(wrapped('<div class="a"><p>', "</p></div>")),
}
WRAPPED_ANSWER = {
    "answer_in_json": answer(wrapped('{"answer": "', '", "confidence": 0.9}')),
    "message_in_json": answer(wrapped('{"role": "assistant", "content": "', '"}')),
}
ENCODED_DATA = {
    "picture_as_answer": answer(
        lambda _, rng: f"data:image/png;base64,{base64.b64encode(rng.randbytes(900)).decode()}"
    ),
    "file_as_answer": answer(lambda _, rng: base64.encodebytes(rng.randbytes(900)).decode()),
}
UNCLOSED_CODE = {
    "code_cut_off": answer(wrapped("", "\n```python\nfor x in items:\n    print(x")),
    "only_an_opened_block": answer(wrapped("```\n")),
}
HIDDEN_TEXT = {
    "zero_width_between_letters": answer(lambda text, _: "\u200b".join(text)),
    "order_overridden": answer(lambda text, _: f"\u202e{text[::-1]}"),
    "tags": answer(wrapped("", "".join(chr(0xE0000 + ord(sign)) for sign in "ignore it"))),
    "soft_hyphens_everywhere": answer(lambda text, _: "\u00ad".join(text)),
    "private_letters": answer(
        lambda text, _: "".join(chr(0xE000 + ord(c)) if c.isalpha() else c for c in text)
    ),
    "marks_in_stacks": answer(lambda text, _: "\u0315\u0334\u0321\u035c\u0310".join(text)),
}
LOOKALIKES = str.maketrans("aeop", "аеор")
HOMOGLYPH = {
    "cyrillic_in_latin": answer(lambda text, _: text.translate(LOOKALIKES)),
    "latin_in_cyrillic": answer(
        lambda _, rng: foreign("ru", rng, 5).translate({ord("о"): "o", ord("а"): "a"})
    ),
}
LEAVINGS = (
    *family("next_turn", FEW, NEXT_TURN),
    *family("prompt_echo", FEW, PROMPT_ECHO),
    *family("recited_prompt", FEW, RECITED_PROMPT),
    *family("placeholder", FEW, PLACEHOLDER),
    *family("error_page", FEW, ERROR_PAGE),
    *family("interface_text", FEW, INTERFACE_TEXT),
    *family("escaped_text", FEW, ESCAPED_TEXT),
    *family("markup", FEW, MARKUP),
    *family("wrapped_answer", SOME, WRAPPED_ANSWER, rejected=False),
    *family("encoded_data", FEW, ENCODED_DATA),
    *family("unclosed_code", 0.2, UNCLOSED_CODE),
    *family("hidden_text", FEW, HIDDEN_TEXT),
    *family("homoglyph", FEW, HOMOGLYPH),
)
LANGUAGE = {f"rows_in_{language}": spoken(language) for language in ("es", "zh", "ru")}
ENGLISH = {"languages": ("en",)}
TEXT = (
    *family("special_token", FEW, SPECIAL_TOKEN),
    *family("invalid_unicode", FEW, INVALID_UNICODE, form=ESCAPED),
    *family("control_character", FEW, CONTROL_CHARACTER),
    *family("mojibake", FEW, MOJIBAKE),
    *family("repetition", FEW, REPETITION),
    Case(
        "answer_ends_in_a_shorter_loop",
        "repetition",
        spoil(answer(looping(60)), FEW),
        {"min_compression": 0.15},
    ),
    *family("answer_repeats_question", FEW, REPEATED_QUESTION),
    *family("refusal", SOME, REFUSAL),
    Case(
        "refusals_of_ones_own",
        "refusal",
        spoil(answer(begun("That is beyond my brief.")), SOME),
        {"refusals": ("beyond my brief",)},
    ),
    *family("self_identification", FEW, SELF_IDENTIFICATION),
    *family("language", SOME, LANGUAGE, settings=ENGLISH),
    Case(
        "answers_in_spanish",
        "language",
        spoil(answer(lambda _, rng: foreign("es", rng, 8)), SOME),
        ENGLISH,
    ),
    Case("english_instead_of_german", "language", sound, {"languages": ("de",)}),
)


# What should not be learnt by heart


def some(alphabet: str, count: int) -> Callable[[Random], str]:
    return lambda rng: "".join(rng.choices(alphabet, k=count))


def dialled(pattern: str) -> Callable[[Random], str]:
    """Fill in digits for the #."""
    return lambda rng: "".join(rng.choice(digits) if sign == "#" else sign for sign in pattern)


def json_web_token(rng: Random) -> str:
    parts = ({"alg": "HS256", "typ": "JWT"}, {"sub": some(digits, 10)(rng), "admin": True})
    raw = [*(json.dumps(part).encode() for part in parts), rng.randbytes(32)]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in raw)


def private_key(rng: Random) -> str:
    body = base64.encodebytes(rng.randbytes(600)).decode()
    head, foot = (f"-----{edge} RSA PRIVATE" + " KEY-----" for edge in ("BEGIN", "END"))
    return f"{head}\n{body}{foot}"


def email(rng: Random) -> str:
    name, host, house = (rng.choice(WORDS[kind]) for kind in ("WHO", "ADJ", "THING"))
    return f"{some(ascii_lowercase, 6)(rng)}.{name}@{host}-{house}.com"


TOKEN = ascii_letters + digits
# Written in two parts, so that no scanner takes this file for a leak.
SECRETS = {
    "aws_key": ("AWS_ACCESS_KEY_ID=AK" + "IA{}", some(ascii_uppercase + "234567", 16)),
    "github_token": ("git clone with gh" + "p_{} as the password.", some(TOKEN, 36)),
    "slack_token": (
        "The bot uses xo" + "xb-{}.",
        lambda rng: "-".join((some(digits, 12)(rng), some(digits, 12)(rng), some(TOKEN, 24)(rng))),
    ),
    "openai_key": ("OPENAI_API_KEY=sk" + "-{}T3Blbk" + "FJ" + "a1" * 10, some(TOKEN, 20)),
    "stripe_key": ("stripe.api_key = 'sk_" + "live_{}'", some(TOKEN, 24)),
    "hugging_face_token": ("It is hf" + "_{}.", some(TOKEN, 34)),
    "google_api_key": ("It is AI" + "za{}.", some(TOKEN, 35)),
    "anthropic_key": ("It is sk" + "-ant-api03-{}.", some(TOKEN, 95)),
    "github_fine_grained_token": ("It is gith" + "ub_pat_{}.", some(TOKEN, 82)),
    "aws_secret_access_key": ("aws_secret_access_key = {}", some(TOKEN, 40)),
    "json_web_token": ("Authorization: Bearer {}", json_web_token),
    "private_key": ("```\n{}\n```", private_key),
    "password_in_url": ("Connect to postgres://admin:{}@db.internal:5432/shop.", some(TOKEN, 14)),
}
# Numbers with the right check digits.


def card(start: str, length: int, space: str = "") -> Callable[[Random], str]:
    """A card's number: these digits first, Luhn's check digit last, in groups if there is a space."""

    def make(rng: Random) -> str:
        body = start + some(digits, length - 1 - len(start))(rng)
        doubled = (sum(divmod(2 * int(sign), 10)) for sign in body[::-2])
        number = f"{body}{-(sum(doubled) + sum(map(int, body[-2::-2]))) % 10}"
        sizes = (4, 4, 4, 4) if length == 16 else (4, 6, 5)
        ends = [sum(sizes[:size]) for size in range(len(sizes) + 1)]
        return space.join(number[a:b] for a, b in pairwise(ends))

    return make


def iban(country: str, length: int, space: str = "") -> Callable[[Random], str]:
    def make(rng: Random) -> str:
        body = some(digits, length - 4)(rng)
        signs = "".join(str(int(sign, 36)) for sign in f"{body}{country}00")
        number = f"{country}{98 - int(signs) % 97:02}{body}"
        return space.join(number[at : at + 4] for at in range(0, length, 4))

    return make


def nested_token(rng: Random) -> str:
    """A JSON Web Token whose JSON is deeper than a reader goes."""
    deep = '{"a":' * 2000 + f'"{some(ascii_lowercase, 8)(rng)}"' + "}" * 2000
    head = base64.urlsafe_b64encode(deep.encode()).decode().rstrip("=")
    return f"{head}.{head}.c2ln"


def likely_tokens(rng: Random) -> str:
    """Thousands of words of which each looks like a token."""
    return " ".join(f"eyJ{number}.{some(ascii_lowercase, 8)(rng)}" for number in range(3000))


def public_address(rng: Random) -> str:
    return f"81.{rng.randint(20, 250)}.{rng.randint(20, 250)}.{rng.randint(1, 250)}"


PERSONAL_NUMBERS = {
    "credit_card": {
        "visa": card("4539", 16),
        "visa_in_groups": card("4539", 16, " "),
        "mastercard_with_hyphens": card("5412", 16, "-"),
        "american_express": card("3714", 15, " "),
    },
    "iban": {"german_in_groups": iban("DE", 22, " "), "belgian": iban("BE", 16)},
    "national_id": {
        "us": dialled("2#9-6#-1##9"),
        "us_by_name": lambda rng: f"my SSN {dialled('2#961##91')(rng)}",
    },
    "ip_address": {"router": public_address, "with_port": lambda rng: public_address(rng) + ":22"},
}
UNJUDGED = {"token_nested_deeply": nested_token, "too_many_likely_tokens": likely_tokens}
PHONES = {
    "us": "(415) 555-01##",
    "us_international": "+1 212-555-01##",
    "british": "+44 20 7946 0###",
    "german": "+49 30 2312 5###",
    "french": "+33 1 99 00 ## ##",
    "indian": "+91 98765 43###",
}
PERSONAL_DETAILS = {
    "birthdays": question(
        followed("I am Maria Rossi, born {} May 1973.", lambda rng: str(rng.randint(1, 28)))
    ),
    "addresses": question(
        followed("I live at {} Mill Lane, Leeds LS5 7AB.", lambda rng: str(rng.randint(1, 99)))
    ),
}
CONTACT = {
    "emails_in_answer": answer(followed("Write to {} for more.", email)),
    "emails_in_question": question(followed("My address is {}.", email)),
}
PHONE_NUMBER = {
    f"phone_{country}": answer(followed("Call us at {} before noon.", dialled(pattern)))
    for country, pattern in PHONES.items()
}
LINKED = answer(followed("See {} for details.", web_address))
PRIVATE = (
    *family("secret", FEW, {name: question(followed(*how)) for name, how in SECRETS.items()}),
    Case("aws_key_in_answer", "secret", spoil(answer(followed(*SECRETS["aws_key"])), FEW)),
    *family(
        "unjudged",
        FEW,
        {name: question(followed("{}", make)) for name, make in UNJUDGED.items()},
    ),
    *(
        case
        for flaw, makers in PERSONAL_NUMBERS.items()
        for case in family(
            flaw,
            SOME,
            {
                f"{flaw}_{name}": question(followed("It is {}, I think.", make))
                for name, make in makers.items()
            },
            rejected=False,
        )
    ),
    *family("email", SOME, CONTACT, rejected=False),
    *family("personal_details", SOME, PERSONAL_DETAILS, rejected=False),
    *family("phone_number", SOME, PHONE_NUMBER, rejected=False),
    Case(
        "emails_forbidden",
        "email",
        spoil(CONTACT["emails_in_answer"], SOME),
        {"severities": {"email": "critical"}},
    ),
    Case(
        "phone_numbers_forbidden",
        "phone_number",
        spoil(question(followed("My number: {}", dialled(PHONES["british"]))), SOME),
        {"severities": {"phone_number": "critical"}},
    ),
    Case("links_everywhere", "url", every(LINKED), rejected=False),
    Case(
        "links_forbidden",
        "url",
        spoil(LINKED, SOME),
        {"severities": {"url": "critical"}, "tolerances": {"url": 0.02}},
    ),
)

BAD_ROWS = (*STRUCTURE, *TEXT, *LEAVINGS, *PRIVATE)
