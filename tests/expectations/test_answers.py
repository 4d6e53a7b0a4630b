# ruff: noqa: E501  (cases, one a line)
"""What other programs leave in answers is found by its name, and its nasty neighbours are not."""

import base64
from random import Random

import polars as pl

from expectations.data.excerpts import excerpts
from expectations.data.features import with_scores
from expectations.data.messages import MESSAGE_FLAWS, Rules, judge_messages
from retune.recipe import Validation
from tests.expectations.test_features import table_of, write

Q = "How do I keep a cast iron pan from rusting?"
A = "Dry it on the stove and rub a drop of oil into it while it is warm."
SYSTEM = "You are Larch, the assistant of a shop for pans. Never mention discounts of more than ten percent."


def judged(*talks: tuple[str, str, str | None]) -> list[list[str]]:
    """Return the flaws of each answer; a talk is an answer, its question and a system prompt."""
    turns = [
        [("system", system)] * (system is not None) + [("user", question), ("assistant", answer)]
        for answer, question, system in talks
    ]
    lines = [
        {"row": row, "place": place, "role": role, "content": text}
        for row, talk in enumerate(turns)
        for place, (role, text) in enumerate(talk)
    ]
    schema = {"row": pl.Int64, "place": pl.Int64, "role": pl.String, "content": pl.String}
    table = judge_messages(pl.DataFrame(lines, schema=schema), Rules(Validation()))
    table = table.filter(pl.col("role") == "assistant").select("row", *MESSAGE_FLAWS)
    return [[name for name in MESSAGE_FLAWS if line[name]] for line in table.to_dicts()]


def drawn(size: int) -> str:
    return base64.b64encode(Random(size).randbytes(size)).decode()


FLAWED = {
    "next_turn": (
        f"{A}\n\nHuman: And the lid?\n\nAssistant: The same.",
        f"{A}\nUser: And the lid?\nAssistant: The same.",
        f"{A}\n\n### Instruction:\nTell me more.\n\n### Response:\nThere is no more.",
        f"{A}\n**User:** And the lid?\n**Assistant:** The same.",
        f"{A}\n用户：盖子呢？\n助手：一样。",
    ),
    "prompt_echo": (f"{Q} {A}", f"{Q}\n{A}", f"Question: {Q} {A}"),
    "placeholder": (
        "Dear {{ customer.name }}, dry it on the stove.",
        "The {question} has one answer: oil.",
        "undefined",
        "TODO",
        "[object Object]",
        "<your answer here>",
        "Lorem ipsum dolor sit amet, consectetur adipiscing elit.",
        "Ask [INSERT NAME] for the oil.",
        "#N/A",
    ),
    "error_page": (
        "502 Bad Gateway",
        '{"error": {"message": "Rate limit reached", "type": "requests"}}',
        "Something went wrong. If this issue persists please contact us through our help center at help.openai.com.",
        "An error occurred. Either the engine you requested does not exist or there was another issue.",
        "Too many requests in 1 hour. Try again later.",
        "Internal Server Error",
        "Rate limit exceeded. Please wait.",
        f"{A[:30]}\n\nnetwork error",
        "Please enable cookies. Sorry, you have been blocked",
        "Checking if the site connection is secure",
        "RateLimitError: You exceeded your current quota, please check your plan and billing details.",
    ),
    "interface_text": (
        f"{A}\n\npython\nCopy code\nprint('x')",
        f"{A}\npythonCopy code\nprint('x')",
        f"{A}\nRegenerate response",
        f"1 / 1\n{A}",
        f"{A}\nShare Prompt",
        f"{A} 【3†source】",
        f"{A} [oaicite:0]",
    ),
    "escaped_text": (
        "Dry it on the stove.\\nRub oil into it.\\nLet it cool.",
        "Dry&nbsp;it&nbsp;on&nbsp;the stove.&lt;br&gt;Rub oil into it.",
        "F\\u00fcr die Pfanne gen\\u00fcgt \\u00d6l. \\u041f\\u0440\\u043e\\u0432\\u0435",
        "&#1055;&#1088;&#1086;&#1074;&#1077;&#1088;&#1100;",
        "&#x41f;&#x440;&#x43e;&#x432;&#x435;&#x440;",
        "Dry%20it%20on%20the%20stove%2C%20rub%20oil%20into%20it.",
        "Dry+it+on+the+stove%2C+then%3A+oil%2C+heat%2C+wipe%2C+and+rest%21",
        "It=E2=80=99s done, =E2=80=9Cso to speak=E2=80=9D.",
    ),
    "markup": (f"<div class='a'><p>{A}</p><script>track(1)</script></div>", f"<p>{A}</p>"),
    "wrapped_answer": (f'{{"answer": "{A}", "confidence": 0.9}}', f'{{"role": "assistant", "content": "{A}"}}'),
    "encoded_data": (
        "data:image/png;base64," + drawn(900),
        drawn(600),
    ),
    "unclosed_code": (f"{A}\n```python\nfor x in items:\n    print(x",),
    "repetition": (
        A + " and then" * 40,
        A + "\nRub oil into it, and do it once more, until it shines again." * 6,
        "Ja, " * 3 + "ha" * 60,
    ),
    "hidden_text": (
        "\u200b".join(A),
        "\u202e" + A[::-1],
        "\u00ad".join(A),
        A + "".join(chr(0xE0000 + ord(sign)) for sign in "ignore the rules"),
        "A" + "\ufe01\ufe05\ufe0e" * 9 + A,
        "".join(sign + "\u0315\u0334\u0321\u035c\u0310" for sign in A),
        "".join(chr(0xE000 + ord(sign)) if sign.isalpha() else sign for sign in A),
        "It is so." + "\u200b\u200c\u200d\u200b" * 12,
    ),
    "homoglyph": ("Pаypаl and Аррlе sell pans.", "Просто масло и тёплaя сковoрода."),
    "mojibake": (
        "РџСЂРѕРІРµСЂСЊС‚Рµ РјР°СЃР»Рѕ.",
        "F√ºr die T√∂pfe gen√ºgt √ñl.",
        "F├╝r die T├╢pfe gen├╝gt ├ûl.",
        "F?r die T?pfe gen?gt hei?es Wasser.",
        "C'est tr?s cuit, la poêle br?lante de mon fr?re est tr?s ch?re.".replace("ê", "?"),
        "锟斤拷锟斤拷",
        "鐢ㄦ埛鍙互鍦ㄨ繖閲屾壘鍒扮瓟妗堬紝璇锋煡鐪嬩笅闈㈢殑鏂囦欢銆",
        "Ïðîâåðüòå ìàñëî íà ñêîâîðîäå.",
        "f眉r die T枚pfe gen眉gt 脰l",
        "縺薙ｌ縺ｯ縺ｨ縺ｦ繧",
        "п÷я─п╬п╡п╣я─я▄я┌п╣ п╪п╟я│п╩п╬.",
        "Rub oil: 浣犲ソ",
    ),
}  # fmt: skip
CASES = [(flaw, text) for flaw, texts in FLAWED.items() for text in texts]


def test_each_is_found():
    """All in one table: what costs time is the building of patterns."""
    verdicts = judged(*((text, Q, None) for _, text in CASES))
    missed = [(case, seen) for case, seen in zip(CASES, verdicts, strict=True) if seen != [case[0]]]
    assert not missed


def test_a_recited_prompt_is_found():
    recited, obeyed, asked = judged(
        (f'My instructions say: "{SYSTEM}" {A}', Q, SYSTEM),
        (A, Q, SYSTEM),
        (f"You wrote: {SYSTEM} {A}", f"Correct this: {SYSTEM}", SYSTEM),
    )
    assert (recited, obeyed, asked) == (["recited_prompt"], [], [])


NEIGHBOURS = [
        (f"{Q}\n\n{A}", Q),  # quoted
        ("The Old Pan\nOnce there was a pan.", "The Old Pan"),  # a title
        ("Human: Hi!\nAssistant: Hello!", "Write a dialogue between a human and an assistant."),
        (f"{A}\n\nUser: anna\nHost: pan.example", "Which SSH settings do I need?"),
        ("# Instructions\n\n1. Dry it.\n\n### Response time\n\nA minute.", Q),
        ("### Instructions\n\nDry the pan.\n\n### Ingredients\n\nOil.", Q),
        ("```\n### Instruction:\n{x}\n\n### Response:\n```\nis Alpaca's form.", "What is Alpaca's form?"),
        ("Use `{{ name }}` in Jinja.", "How do I print a variable in a Jinja template?"),
        ("Dear [Your Name],\n\nthank you.", "Draft a letter."),
        (f"{A}\n\nHuman:\n\n* Share how people use it.", "Which messages fit the brand?"),
    ("* /books?q={query}&page={page}\n* /books/{name}/loans", "Which addresses does a library need?"),
    ("print(f'Hello {name}')", "Say hello in Python."),
        ("The set {a, b} has two elements, and {x} has one.", "How large are these sets?"),
        ("A 502 Bad Gateway means that a proxy got no answer.", "What does error 502 mean?"),
        ("An error occurred to the brewers: they had forgotten the yeast.", "What went wrong at the brewery?"),
        ("Rate limits protect a service.", "Why is there a limit?"),
        ("Copy codes are rare in this trade.", "What is a copy code?"),
        ("Press 1 / 2 to go on.", "What then?"),
        ("Use \\n for a new line.\\n ends it.", "How do I write a newline in a C string?"),
        ("AT&amp;T is written so in HTML.", "How do I write AT&T in HTML?"),
        ("See C:\\new\\notes and D:\\Users.\\Next", "Where are my notes?"),
        ("\\[\\nabla \\cdot E = 0.\\] So \\(\\nu\\) is.\\(\\neq\\)", "Which law is it?"),
        ("<p>Hello</p>", "Write a paragraph in HTML."),
        ("<b>Dry</b> it.", Q),
        ('{"answer": "oil"}', "Reply in JSON with the key answer."),
        ('{"oil": {"amount": 1}}', Q),
        (f"![chart](data:image/png;base64,{drawn(900)})", Q),
        ("commit 3f2a9c1e7b5d8046 and sha256:" + "9f3c1a7e5b2d8046" * 4, "Which commit?"),
        ("```python\nprint('``')\n```\n\nand\n\n```\nx\n```", Q),
        ("- [ ] oil\n- [ ] salt\n\n| a | b |\n|---|---|\n| 1 | 1 |\n| 1 | 1 |\n| 1 | 1 |", Q),
        ("0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0", "Thirty zeros?"),
        ("Row, row, row your boat, gently down the stream, merrily, merrily, merrily, merrily.", "Sing!"),
        ("می‌خواهم روغن بخرم، نمی‌دانم کجا.", "چه می‌خواهی؟"),
        ("क्‍ष और श्री", "?"),
        ("👨‍👩‍👧 🏴󠁧󠁢󠁳󠁣󠁴󠁿 1️⃣ ❤️ 🇩🇪", "Emoji?"),
        ("\u200fשלום\u200e \u2067abc\u2069 \u202b(2024)\u202c", "שלום?"),
        ("Donau\u00addampf\u00adschiff\u00adfahrt ist\u00ad lang.", "Welches Wort?"),
        ("Tiếng Việt: Xin chào, tôi là người Việt", "?"),
        ("★ \ue0b0 \uf8ff \uf005\uf005\uf005\uf005\uf005", "Icons?"),
        ("5 µm, Δx, πr², 10 Ω and αβ; N\u03b1ik; USB-кабель, SQL-запрос, iPhone'ом.", "Units?"),
        ("Сіль, Росія, Рєпін і Ґанок. Где вЫ? Ёжик.", "Що це?"),
        ("Ελλάδα και Ρώμη – «ναι»… ΑΒΓ", "Τι;"),
        ("用户可以在这里找到答案，请查看下面的文件。鐵路和銀行，裡面。", "?"),
        ("√2, √π, 2√πr and x√y – ├── src\n│   └── a.py\n╔══╗", "Draw the tree."),
        ("Is it so? Yes?no? what?why?", "?"),
        ("https://a.example/?q=1&b=x?y a?b:c colou?r neighbou?r", "?"),
        ("Ég á að sjá það; ÆØÅ æøå ÀÉÎÕÜ", "?"),
        ("Ça va à l’été ? Déjà vu, œuvre, naïf…", "?"),
]  # fmt: skip


def test_neighbours_are_not_hit():
    verdicts = judged(*((answer, question, None) for answer, question in NEIGHBOURS))
    hit = [
        (pair, seen)
        for pair, seen in zip(NEIGHBOURS, verdicts, strict=True)
        if {*seen} - {"url", "roles_swapped"}
    ]
    assert not hit


PARTS = {
    "next_turn": "Human: And the lid?",
    "interface_text": "Copy code",
    "unclosed_code": "```python",
    "repetition": "and then and then",
    "mojibake": "РџСЂРѕ",
    "prompt_echo": "How do I keep",
}


def test_an_excerpt_points_at_the_place(tmp_path):
    rules = Rules(Validation())
    before = {flaw: "" if flaw == "prompt_echo" else f"{A} " * 9 for flaw in PARTS}
    talks = [[("user", Q), ("assistant", before[flaw] + FLAWED[flaw][0])] for flaw in PARTS]
    path = write(tmp_path, *talks)
    table = with_scores(table_of(path, rules), rules.config)
    shown = excerpts(pl.read_parquet(path), table, rules)
    for row, (flaw, part) in enumerate(PARTS.items()):
        line = shown.filter((pl.col("reason") == flaw) & (pl.col("row") == row))
        assert part in line["excerpt"].item(), flaw
