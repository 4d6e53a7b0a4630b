"""Texts on which two tokenizers disagree if they can: 10,000 of eleven kinds, the same in every run."""

import random
import unicodedata
from collections.abc import Callable, Iterator
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING

from retune.templates import Refusal, outcomes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PER_KIND = 910  # of eleven kinds
SEED = 0
# Characters that Unicode may have assigned; there are none between, and after them those of private use.
PLANES = (range(0x40000), range(0xE0000, 0xF0000))
LANGUAGES = (
    "The quick brown fox jumps over the lazy dog, doesn't it? They've said we'LL see.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich; Straße, Übermut.",
    "Dès Noël où un zéphyr haï me vêt de glaçons würmiens, je dîne d'exquis rôtis à l'aÿ.",
    "El pingüino Wenceslao hizo kilómetros bajo exhaustiva lluvia. ¿Qué? ¡Añoraba a su querido!",
    "Pchnąć w tę łódź jeża lub ośm skrzyń fig. Příliš žluťoučký kůň úpěl ďábelské ódy.",
    "Pijamalı hasta yağız şoföre çabucak güvendi. İstanbul'da ılık ığdır.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. Щось їсть ґава.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. Γειά σου Κόσμε.",
    "דג סקרן שט בים מאוכזב ולפתע מצא חברה. שָׁלוֹם עוֹלָם.",
    "نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر. السَّلامُ عَلَيْكُم ٢٠٢٦.",
    "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश। नमस्ते १२३।",
    "আমি তোমাকে ভালোবাসি। வணக்கம் உலகம். ನಮಸ್ಕಾರ. నమస్కారం. ഹലോ ലോകം.",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า สวัสดีชาวโลก ๑๒๓. မင်္ဂလာပါ။ សួស្តី។",
    "天地玄黃，宇宙洪荒。日月盈昃，辰宿列張。你好，世界！这是２０２６年。",
    "いろはにほへと ちりぬるを。吾輩は猫である。名前はまだ無い。ｶﾀｶﾅ ガギグ",
    "키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다. 안녕하세요",
    "Đây là tiếng Việt: ngôn ngữ có nhiều dấu, ư ơ ă â ê ô ạ ả ã.",
    "Բարեւ աշխարհ: გამარჯობა მსოფლიო. ሰላም ልዑል። ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ.",
)
CODE = (
    "def f(x: int, *args, **kw) -> dict[str, Any]:",
    "    return {k: v for k, v in zip(xs, ys) if k is not None}  # café",
    "for (let i = 0; i < n; ++i) { a[i] += b[i] ?? 0; }",
    '\tprintf("%-10s|%5.2f\\n", name, 3.14e-10);',
    "SELECT COUNT(*) AS n FROM t WHERE a<>'it''s' AND b>=1_000;",
    '{"key": [1, 2.5, null, true], "nested": {"a\\u00e9": "\\"q\\""}}',
    "<div class='a' data-x=\"1\">&amp;&nbsp;<br/></div>",
    "https://example.org/a/b.html?c=d&e=%20f#g me+tag@example.co.uk",
    r"\begin{align} \frac{x^2}{2} &= \sum_{i=0}^{n} x_i \\ \end{align}",
    "$ git log --oneline | awk '{print $1}' >> out.txt 2>&1 && echo ok || exit 1",
    "fn main() -> Result<(), Box<dyn Error>> { let x = &mut v[..]; Ok(()) }",
    "#include <vector>\r\nint main(){return !~-1<<2;}",
    "| a | b |\n|---|:-:|\n| `x` | **y** |\n\n```py\npass\n```",
    "ÄÖÜ_snake_case camelCaseXMLHttp2Request SCREAMING_CASE kebab-case-9",
)
EMOJI = (
    *("👨‍👩‍👧‍👦", "🏳️‍🌈", "👩🏿‍🚀", "❤️‍🔥", "🧑🏻‍❤️‍💋‍🧑🏿", "🤷‍♀️!", "🏴󠁧󠁢󠁥󠁮󠁧󠁿"),
    *("😀", "👍🏽", "🇩🇪", "🇯🇵", "1️⃣", "❤️", "☺", "☺️", "🫠", "✓", "→", "∑", "½", "™", "🏽"),
    *("\u200d", "\ufe0f", " ", "\n", " wow"),
)
SPACES = (
    *(
        " ",
        "  ",
        "    ",
        "\t",
        "\n",
        "\n\n",
        "\r\n",
        "\r",
        "\v",
        "\f",
        "\u00a0",
        "\u2003",
        "\u3000",
    ),
    *("\u200b", "\u2028", "\u202f", "\u0085", "\ufeff", "a", "B", "7", ".", "é", "字"),
)
NUMBERS = (
    *("0", "7", "12", "123", "1234", "12345678", "3.14159", "1,000,000", "1e-10", "0x7fFF", "½"),
    *("2026-11-23", "12:34:56.789", "v2.0.1", "٣٤٥", "१२३४", "１２３", "Ⅻ", "²³", "₄", "①", "%"),
    *("$", "€5", "-", "+", " ", "km", "st", "x", "e", "_", "/", "\n"),
)
PUNCTUATION = (
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~¡¿«»„“”‘’…–—·•§¶†‡‰′″、。，！？：；（）【】「」،؛؟।"
)
LETTERS = "aaeeiioouunrstlmdhbcfgkpvwxyzABCDEéüßñøåçœłşğпривдльоаеαβγδ字数言語"


def texts(tokenizer: "PreTrainedTokenizerBase") -> dict[str, list[str]]:
    """Return PER_KIND texts of each kind, by the name of the kind; all are valid Unicode."""
    rng = random.Random(SEED)
    by_kind = {kind: [make(rng) for _ in range(PER_KIND)] for kind, make in _MAKERS.items()}
    tokens = tuple(tokenizer.get_added_vocab()) or ("<s>",)
    by_kind["control tokens in text"] = [_with_tokens(rng, tokens) for _ in range(PER_KIND)]
    everything = [text for of_kind in by_kind.values() for text in of_kind]
    by_kind["pieces of all kinds"] = [_spliced(rng, everything) for _ in range(PER_KIND)]
    by_kind["conversations"] = list(_conversations(rng, tokenizer, everything))
    return by_kind


def _joined(
    parts: tuple[str, ...], limit: int, between: str = ""
) -> Callable[[random.Random], str]:
    return lambda rng: between.join(rng.choices(parts, k=rng.randint(1, limit)))


def _sentence(rng: random.Random) -> str:
    """A stretch of a sentence, perhaps with its accents written apart from their letters."""
    words = rng.choice(LANGUAGES).split(" ")
    start = rng.randrange(len(words))
    text = " ".join(words[start : start + rng.randint(1, 12)])
    changes = (str.upper, str.title, str.lower, lambda t: unicodedata.normalize("NFD", t))
    return rng.choice(changes)(text) if rng.random() < 0.4 else text


def _punctuation(rng: random.Random) -> str:
    run = "".join(rng.choices(PUNCTUATION, k=rng.randint(1, 20)))
    return rng.choice(("", " ", "a", "9")) + run + rng.choice(("", "\n", "b", "\n\n  "))


def _letters(rng: random.Random) -> str:
    return "".join(rng.choices(LETTERS, k=rng.randint(30, 300)))


@cache
def _characters() -> str:
    """Every character that Unicode assigns, but for surrogates and those of private use."""
    category, others = unicodedata.category, {"Cn", "Cs", "Co"}
    characters = map(chr, chain(*PLANES))
    return "".join([c for c in characters if category(c) not in others])


def _unicode(rng: random.Random) -> str:
    return "".join(rng.choices(_characters(), k=rng.randint(1, 30)))


def _with_tokens(rng: random.Random, tokens: tuple[str, ...]) -> str:
    """Control tokens as someone types them: whole, cut short, in other case, next to anything."""
    parts = []
    for _ in range(rng.randint(1, 6)):
        token = rng.choice(tokens)
        broken = (token[:-1], token[1:], token.upper(), token.replace("_", " "), token * 2)
        parts.append(token if rng.random() < 0.6 else rng.choice(broken))
        parts.append(rng.choice(("", " ", "\n", "a", "one two", " 3", "。", "<", "|>", "\t ")))
    rng.shuffle(parts)
    return "".join(parts)


def _spliced(rng: random.Random, everything: list[str]) -> str:
    def piece(text: str) -> str:
        start = rng.randrange(len(text) + 1)
        return text[start : start + 40]

    return "".join(piece(rng.choice(everything)) for _ in range(rng.randint(2, 6)))


def _conversations(
    rng: random.Random, tokenizer: "PreTrainedTokenizerBase", everything: list[str]
) -> Iterator[str]:
    """Yield renderings of the chat template, if it renders anything."""
    chats = []
    for _ in range(PER_KIND):
        messages = []
        for _ in range(rng.randint(1, 2)):
            messages.append({"role": "user", "content": rng.choice(everything)})
            messages.append({"role": "assistant", "content": rng.choice(everything)})
        chats.append(messages)
    # Together: a message to the child and back is half of the time of one.
    for outcome in outcomes(tokenizer, chats):
        if outcome and not isinstance(outcome, Refusal):
            yield outcome


_MAKERS: dict[str, Callable[[random.Random], str]] = {
    "languages": _sentence,
    "code": _joined(CODE, 4, "\n"),
    "emoji": _joined(EMOJI, 8),
    "white space": _joined(SPACES, 16),
    "numbers": _joined(NUMBERS, 10),
    "punctuation": _punctuation,
    "long words": _letters,
    "random Unicode": _unicode,
}
