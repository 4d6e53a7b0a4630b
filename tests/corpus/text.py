"""Sound rows: varied questions and answers, made of a vocabulary by a seeded generator."""

import re
import struct
from collections.abc import Callable
from functools import cache
from random import Random

Row = dict[str, object]
Turn = tuple[str, str]
COUNT = 240  # rows of a dataset, unless a case needs others

WORDS = {
    kind: tuple(word.replace("-", " ") for word in words.split())
    for kind, words in {
        "NOUN": "river engine court bacteria market poem bridge theorem glacier contract orchestra "
        "compiler harvest telescope parliament vaccine algorithm desert novel battery "
        "immune-system database harbour protein treaty volcano library satellite currency garden "
        "microscope election turbine language coral-reef kernel painting railway hormone archive "
        "monsoon lighthouse enzyme festival circuit migration cathedral budget neuron recipe",
        "ADJ": "old narrow fragile efficient public northern modern silent complex early reliable "
        "unusual dense wooden digital seasonal expensive gentle recursive famous heavy tropical "
        "neutral distant hidden practical rigid small national bright stable ancient",
        "VERB": "shapes slows protects replaces measures supports limits reveals drives absorbs "
        "balances divides feeds connects warms explains predicts weakens follows improves filters "
        "changes threatens stores attracts describes needs reduces",
        "DO": "shape slow protect replace measure support limit reveal drive absorb balance divide "
        "feed connect warm explain predict weaken follow improve filter change threaten store "
        "attract describe need reduce",
        "ADV": "slowly quietly often rarely quickly clearly partly directly usually evenly sharply "
        "barely mostly indirectly safely gradually openly",
        "LINK": "However, Therefore, Meanwhile, Besides, Moreover, Still, Later, Similarly, First, "
        "Finally, Consequently, Instead,",
        "WHEN": "in-winter after-rain during-the-war over-time at-night before-noon under-pressure "
        "in-most-cities for-decades within-hours near-the-coast by-hand in-theory every-spring",
        "WHO": "engineers historians doctors farmers critics teachers biologists lawyers sailors "
        "students editors economists nurses architects programmers chemists",
        "THING": "apples tickets notebooks lamps bottles tiles stamps chairs candles ropes seeds",
    }.items()
}
AN = re.compile(r"\b([Aa]) (?=[aeiou])")
QUESTIONS = (
    "Why does the ADJ NOUN DO a NOUN WHEN?",
    "How can WHO DO the NOUN and its ADJ NOUN?",
    "What happens to a NOUN if the ADJ NOUN VERB it ADV?",
    "Could you tell me which NOUN ADV VERB the ADJ NOUN?",
    "Is it true that a ADJ NOUN VERB every NOUN WHEN?",
    "When should WHO DO a ADJ NOUN instead of the NOUN?",
    "Explain how the NOUN VERB a ADJ NOUN WHEN.",
    "Compare a ADJ NOUN with the ADJ NOUN of WHO.",
)
SENTENCES = (
    "The ADJ NOUN ADV VERB each NOUN WHEN.",
    "LINK WHO ADV DO the NOUN because a ADJ NOUN VERB it.",
    "WHO DO the ADJ NOUN, while its NOUN VERB the NOUN.",
    "A NOUN that VERB the NOUN is ADJ and ADV VERB the ADJ NOUN.",
    "LINK the NOUN VERB what the ADJ NOUN and the NOUN DO WHEN.",
    "WHEN the NOUN stays ADJ, so WHO ADV DO a NOUN.",
    "It is the ADJ NOUN, not the NOUN, which VERB WHO.",
    "LINK no NOUN VERB a NOUN as ADV as the ADJ NOUN.",
)
# Words in any order are enough for a language to be recognised and for texts to differ.
LANGUAGES = {
    "fr": "les élèves étudient la forêt après l'été une théorie très générale être reçu à côté "
    "français où déjà général même pêcheur cœur façon après-midi préférer hôpital château leçon "
    "nous avons trouvé cette réponse avec beaucoup d'énergie dans région",
    "de": "die Schüler überprüfen größere Bäume während für möglich natürlich können Straße "
    "Übung gehört später zurück schön und nicht weiß erklärt Lösung Fläche wird häufig früher "
    "Gespräch über Gemüse müssen spät außerdem Vögel Fluss ähnlich täglich",
    "es": "los niños pequeños estudian mañana la región española también más rápido según el "
    "corazón está razón explicación camino después año señor ciudad historia pueden muy porque "
    "cuando siempre encontrar energía montaña todavía nosotros aquí",
    "ru": "учёные часто изучают большую реку потому что зимой вода становится холодной поэтому "
    "город растёт медленно каждый год история показывает новый мост соединяет берега и люди "
    "могут объяснить этот вопрос очень просто после дождя",
    "ar": "يدرس الطلاب النهر الكبير في الشتاء لأن الماء يصبح بارداً ولذلك تنمو المدينة ببطء كل عام "
    "ويوضح التاريخ كيف يربط الجسر الجديد بين الضفتين ويمكن للناس فهم هذا السؤال بسهولة بعد المطر",
    "he": "התלמידים לומדים על הנהר הגדול בחורף כי המים נעשים קרים ולכן העיר גדלה לאט בכל שנה "
    "ההיסטוריה מראה איך הגשר החדש מחבר את הגדות ואנשים יכולים להבין שאלה זו בקלות אחרי הגשם",
    "zh": "我们 今天 学习 历史 因为 城市 发展 很快 所以 科学家 研究 河流 气候 变化 的 原因 这个 问题 "
    "可以 通过 数据 分析 得到 解释 但是 经济 与 社会 仍然 需要 更多 时间 来 适应 新的 技术",
    "ja": "私たちは 今日 歴史を 学びます なぜなら 都市が 急速に 発展して いるからです 科学者は "
    "川と 気候の 変化を 研究し データを 分析して 説明します しかし 社会は 新しい 技術に 慣れる 時間が",
    "th": "นักเรียน ศึกษา แม่น้ำ ใหญ่ ใน ฤดูหนาว เพราะ น้ำ เย็น ดังนั้น เมือง จึง เติบโต อย่างช้า ทุกปี "
    "ประวัติศาสตร์ แสดง ว่า สะพาน ใหม่ เชื่อม ฝั่ง และ ผู้คน เข้าใจ คำถาม นี้ ได้ง่าย หลังฝน",
}
MARKS = {
    "zh": ("", "？", "。"),
    "ja": ("", "？", "。"),
    "th": ("", "? ", " "),
    "ar": (" ", "؟", "."),
}


@cache
def slots(pattern: str) -> tuple[str, list[tuple[str, ...]]]:
    """Return the pattern with {} for every word in capitals that is a kind, and those kinds' words."""
    kinds = [kind for kind in re.findall(r"\b[A-Z]+\b", pattern) if kind in WORDS]
    return re.sub("|".join(rf"\b{kind}\b" for kind in WORDS), "{}", pattern), [
        *map(WORDS.get, kinds)
    ]


def fill(pattern: str, rng: Random) -> str:
    """Return the pattern with a word of its kind for every word in capitals."""
    template, kinds = slots(pattern)
    # Thrice as fast as rng.choice, and the tests make a million words.
    words = [words[int(rng.random() * len(words))] for words in kinds]
    return capital(AN.sub(r"\1n ", template.format(*words)))


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def prose(rng: Random, sentences: int) -> str:
    return " ".join(fill(rng.choice(SENTENCES), rng) for _ in range(sentences))


def long_text(rng: Random, chars: int) -> str:
    """Return varied text of exactly `chars` characters."""
    words = [word for kind in WORDS.values() for word in kind]
    return " ".join(rng.choices(words, k=chars // 4)).ljust(chars, ".")[:chars]


def foreign(language: str, rng: Random, sentences: int = 3, asks: bool = False) -> str:
    """Return sentences (or questions) of 12 to 18 words of a language."""
    gap, asking, telling = MARKS.get(language, (" ", "?", "."))
    words = LANGUAGES[language].split()
    made = [gap.join(rng.sample(words, rng.randint(12, 18))) for _ in range(sentences)]
    return gap.join(capital(sentence) + (asking if asks else telling) for sentence in made)


def web_address(rng: Random) -> str:
    host, path, page = (rng.choice(WORDS[kind]) for kind in ("THING", "ADJ", "DO"))
    return f"https://www.{host}.org/{path}/{page}?id={rng.randint(1, 999)}"


def explained(rng: Random) -> Turn:
    return fill(rng.choice(QUESTIONS), rng), prose(rng, rng.randint(2, 6))


def counted(rng: Random) -> Turn:
    """A sum in words, worked out."""
    many, price, less = rng.randint(3, 98), rng.randint(2, 47), rng.randint(1, 60)
    thing, who = rng.choice(WORDS["THING"]), rng.choice(WORDS["WHO"])
    question = (
        f"{prose(rng, 1)} If {who} buy {many} {thing} at ${price} each and get ${less} back, "
    )
    answer = f"They pay {many} × {price} = {many * price} dollars. {prose(rng, rng.randint(1, 3))} "
    left = (
        f"After {less} dollars are returned, {many * price - less} dollars were spent on {thing}."
    )
    return question + "how much do they spend?", answer + left


def coded(rng: Random) -> Turn:
    """A small function with names of its own."""
    verb, name, item = (rng.choice(WORDS[kind]) for kind in ("DO", "NOUN", "THING"))
    name, number = name.replace(" ", "_"), rng.randint(2, 99)
    test = rng.choice((f"len(item) > {number}", f"item % {number} == 0", f"item['{name}']"))
    code = f"def {verb}_{name}({item}):\n    return [item for item in {item} if {test}]\n"
    question = f"{prose(rng, 1)} Can you write a Python function to {verb} {item} by {name}?"
    return question, f"{prose(rng, 1)}\n\n```python\n{code}```\n\n{prose(rng, rng.randint(1, 3))}"


def listed(rng: Random) -> Turn:
    steps = "\n".join(f"{n}. {prose(rng, 1)}" for n in range(1, rng.randint(4, 7)))
    return fill("What should WHO know to DO the ADJ NOUN WHEN?", rng), f"{prose(rng, 1)}\n{steps}"


KINDS: dict[str, Callable[[Random], Turn]] = {
    "infini-instruct": explained,
    "metamath": counted,
    "glaive-code": coded,
    "airoboros": listed,
}


def sharegpt(*turns: Turn, **columns: object) -> Row:
    return {"conversations": [{"from": role, "value": text} for role, text in turns], **columns}


def float32(value: float) -> float:
    return struct.unpack("f", struct.pack("f", value))[0]


def sound_score(rng: Random) -> float:
    return float32(min(max(rng.gauss(3.4, 0.35), 2.5), 4.5))


def sound_turns(rng: Random, source: str, pairs: int) -> list[Turn]:
    texts = (KINDS[source](rng) for _ in range(pairs))
    return [turn for ask, tell in texts for turn in (("human", ask), ("gpt", tell))]


def sound_row(rng: Random, pairs: int = 0) -> Row:
    """Return a row of `pairs` questions and answers; 0: one, or now and then two or a system prompt."""
    source, luck = rng.choice(tuple(KINDS)), rng.random()
    turns = sound_turns(rng, source, pairs or (2 if luck < 0.15 else 1))
    if not pairs and luck > 0.9:
        turns.insert(0, ("system", fill("You are a ADJ assistant and DO what WHO ask.", rng)))
    return sharegpt(*turns, source=source, score=sound_score(rng))


def sound(rng: Random, count: int = COUNT) -> list[Row]:
    return [sound_row(rng) for _ in range(count)]
