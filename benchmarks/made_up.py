"""Rows, evaluation prompts and a tokenizer to measure with: made up, and the same everywhere.

    python -m benchmarks.made_up [--rows N]

The rows are like FineTome's: about 2 kB each, log-normal, 1 to 3 questions with answers, prose with
some code and web addresses, words by Zipf's law, 7 sources, scores around 3.2. A few are flawed, in
every way but one that the gate knows: a score that is not finite is never tolerated, so that no run
would get past it. All of it is kept in the user's cache folder and made again when this file changes.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retune.chat import CHATML, END, START, chatml_tokenizer
from retune.files import sha256
from retune.home import cache_dir

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase

SEED = 0
CHUNK = 5000  # rows made together, always the same ones: a smaller set is the head of a larger one
SPREAD, MIN_BYTES = 0.8, 60  # of a row's size, which is log-normal
MEAN_BYTES = 2000
VOCABULARY = 60_000  # words
TOKENS = 32_000  # of the tokenizer
FLAWED_SHARE = 0.03
SOURCES = ("web", "textbooks", "code", "mathematics", "forum", "encyclopedia", "letters")
SOURCE_WEIGHTS = (35, 20, 15, 12, 8, 6, 4)
KEPT = 40  # sound rows of a chunk that later rows may repeat

Row = dict[str, Any]


def rows(count: int, flawed_share: float = FLAWED_SHARE, mean_bytes: int = MEAN_BYTES) -> Path:
    """Return a Parquet file with `count` rows, as fetch leaves them (`retune.records.Rows`)."""
    size = "" if mean_bytes == MEAN_BYTES else f"-{mean_bytes}"
    name = f"rows-{count}-{flawed_share:g}{size}"
    return _cached(name, lambda path: write(path, count, flawed_share, mean_bytes))


def tokenizer(trained_on: int = 2 * CHUNK) -> "PreTrainedTokenizerBase":
    """Return a ChatML tokenizer, byte-level BPE, trained on the first `trained_on` rows."""
    folder = _cached(f"tokenizer-{trained_on}", lambda path: _train(path, rows(trained_on)))
    return chatml_tokenizer(str(folder), None, "map_eos")


def prompts(count: int = 200) -> tuple[str, ...]:
    """Return `count` evaluation prompts, the same ones that contaminated rows hold."""
    dice = random.Random(f"{SEED} prompts")
    words = [word for word in Writer(dice).words if len(word) > 3]
    return tuple(" ".join(dice.choices(words[:5000], k=20)) + "?" for _ in range(count))


def write(path: Path, count: int, flawed_share: float, mean_bytes: int = MEAN_BYTES) -> None:
    """Write `count` rows; in memory is one chunk of them."""
    import pyarrow.parquet as pq

    done = 0
    with pq.ParquetWriter(path, _schema()) as file:
        for table in tables(flawed_share, mean_bytes):
            file.write_table(table.slice(0, count - done))
            done += len(table)
            if done >= count:
                return


def tables(flawed_share: float, mean_bytes: int = MEAN_BYTES) -> "Iterator[pa.Table]":
    """Yield rows without end, CHUNK at a time."""
    import pyarrow as pa

    median = mean_bytes * math.exp(-(SPREAD**2) / 2)
    wanted, repeated, number = prompts(), [], 0
    while True:
        dice = random.Random(f"{SEED} chunk {number}")
        writer = Writer(dice)
        made = [_row(writer, dice, median) for _ in range(CHUNK)]
        repeated += [row["messages"] for row in made[:KEPT]]
        for row in made[KEPT:]:  # those before stay sound: others repeat them
            if dice.random() < flawed_share:
                (kind,) = dice.choices([*SPOILERS], [*WEIGHTS])
                SPOILERS[kind](row, Spoils(dice, wanted, repeated))
        for place, row in enumerate(made):
            row["row"] = number * CHUNK + place
        yield pa.Table.from_pylist(made, schema=_schema())
        number += 1


class Writer:
    """Writes prose and code of a given length; `dice` decide everything."""

    POOL = 400_000  # words drawn at once

    def __init__(self, dice: random.Random) -> None:
        self.words = _words()
        self._dice = dice
        self._text: list[str] = []

    def prose(self, size: int) -> str:
        """Return sentences of about `size` characters, at least two words."""
        count = max(2, size // 7)  # a drawn word has 5.7 letters, and a space
        if len(self._text) < count:
            self._text = self._drawn(max(self.POOL, count))
        words, self._text[-count:] = self._text[-count:], []
        words[0], words[-1] = words[0].capitalize(), words[-1].strip(".,\n") + "."
        return " ".join(words).replace("\n ", "\n")

    def code(self, lines: int) -> str:
        """Return a fenced block of code."""
        names, dice = self.words[:2000], self._dice
        forms = ("    {} = {}({})", "    if {} in {}[{!r}]:", "    # {} {} {}", "    {}.{}(key={})")
        body = [dice.choice(forms).format(*dice.choices(names, k=3)) for _ in range(lines)]
        first, second = dice.choices(names, k=2)
        return "\n".join(["```python", f"def {first}({second}):", *body, "```"])

    def _drawn(self, count: int) -> list[str]:
        """Return `count` words by Zipf's law, some of them numbers, with their punctuation."""
        import numpy as np

        rng = np.random.default_rng(self._dice.getrandbits(63))
        ranks = np.searchsorted(_zipf(len(self.words)), rng.random(count))
        place = rng.choice(6, count, p=[0.79, 0.09, 0.06, 0.04, 0.01, 0.01])
        forms = ("{}", "{},", "{}.", "{} {:.0f}.", "{}.\n\n", "{} {:.2f}")
        numbers = rng.lognormal(4, 2, count).tolist()
        found = np.array(self.words, dtype=object)[ranks].tolist()
        plain = place == 0
        for at in np.flatnonzero(~plain).tolist():
            found[at] = forms[place[at]].format(found[at], numbers[at])
        return found


class Spoils:
    """What a row is spoiled with: prompts that it may hold, conversations that it may repeat."""

    def __init__(self, dice: random.Random, prompts: tuple[str, ...], repeated: list) -> None:
        self.dice, self.prompts, self.repeated = dice, prompts, repeated

    def digits(self, count: int) -> str:
        return "".join(self.dice.choices("0123456789", k=count))

    def letters(self, count: int) -> str:
        return "".join(self.dice.choices("ABCDEFGHJKLMNPQRSTUVWXYZ23456789", k=count))


Spoiler = Callable[[Row, Spoils], None]


def _row(writer: Writer, dice: random.Random, median_bytes: float) -> Row:
    size = max(MIN_BYTES, int(dice.lognormvariate(0, SPREAD) * median_bytes))
    (pairs,) = dice.choices((1, 2, 3), (75, 15, 10))
    messages = []
    if dice.random() < 0.1:
        messages.append({"role": "system", "content": writer.prose(80)})
    for _ in range(pairs):
        asked = int(size / pairs * dice.uniform(0.05, 0.4))
        question = writer.prose(asked)[:-1] + "?"
        messages.append({"role": "user", "content": question})
        messages.append(
            {"role": "assistant", "content": _answer(writer, dice, size / pairs - asked)}
        )
    (source,) = dice.choices(SOURCES, SOURCE_WEIGHTS)
    score = dice.gauss(3.2, 0.4)
    return {"messages": messages, "source": source, "score": score, "format": "sharegpt"}


def _answer(writer: Writer, dice: random.Random, size: float) -> str:
    parts = []
    if dice.random() < 0.2:
        lines = max(1, int(size / 2 / 30))
        parts.append(writer.code(lines))
        size /= 2
    parts.insert(0, writer.prose(int(size)))
    if dice.random() < 0.1:
        parts.append(f"See https://{dice.choice(SOURCES)}.example/{dice.choice(writer.words)}.")
    return "\n\n".join(parts)


def _put(make: Callable[[Spoils], str]) -> Spoiler:
    """Put words between two words of the last answer."""

    def spoil(row: Row, spoils: Spoils) -> None:
        words = row["messages"][-1]["content"].split(" ")
        words.insert(spoils.dice.randrange(len(words)), make(spoils))
        row["messages"][-1]["content"] = " ".join(words)

    return spoil


def _instead(make: Callable[[str], str]) -> Spoiler:
    """Replace the last answer by one made of its question."""

    def spoil(row: Row, _: Spoils) -> None:
        row["messages"][-1]["content"] = make(row["messages"][-2]["content"])

    return spoil


def _with(**columns: Any) -> Spoiler:
    return lambda row, _: row.update(columns)


def _flipped(row: Row, _: Spoils) -> None:
    other = {"user": "assistant", "assistant": "user", "system": "system"}
    for message in row["messages"]:
        message["role"] = other[message["role"]]


def _unknown_role(row: Row, _: Spoils) -> None:
    row["messages"][-1]["role"] = "bot"


def _swapped(row: Row, _: Spoils) -> None:
    row["messages"][-2]["content"] = row["messages"][-2]["content"].replace("?", ".")
    row["messages"][-1]["content"] = "Why?"


def _repeated(row: Row, spoils: Spoils) -> None:
    messages = spoils.dice.choice(spoils.repeated)
    row["messages"] = [{"role": m["role"], "content": m["content"].upper() + " "} for m in messages]


def _nearly_repeated(row: Row, spoils: Spoils) -> None:
    """Repeat a conversation with every 300th word changed, at least one."""
    messages = [dict(message) for message in spoils.dice.choice(spoils.repeated)]
    for message in messages:
        if message["role"] == "assistant":
            words = message["content"].split(" ")
            for _ in range(1 + len(words) // 300):
                words[spoils.dice.randrange(len(words))] = spoils.digits(6)
            message["content"] = " ".join(words)
    row["messages"] = messages


SPOILERS: dict[str, Spoiler] = {
    "malformed": _with(messages=[], problem="it has neither messages nor an instruction"),
    "no_messages": _with(messages=[]),
    "unknown_role": _unknown_role,
    "roles_out_of_order": _flipped,
    "empty_message": _instead(lambda _: " \n"),
    "special_token": _put(lambda s: s.dice.choice((START, END, "[INST]", "<|eot_id|>"))),
    "invalid_unicode": _put(lambda _: "\ufffd"),
    "control_character": _put(lambda _: "\x07"),
    "mojibake": _put(lambda _: "cafÃ© itâ€™s naÃ¯ve"),
    "repetition": _instead(lambda question: f"{question} " * (9000 // len(question) + 60)),
    "answer_repeats_question": _instead(str.upper),
    "roles_swapped": _swapped,
    "refusal": _instead(lambda question: f"I'm sorry, but I can't say that. {question}"),
    "self_identification": _put(lambda _: "As an AI language model, I do."),
    "secret": _put(lambda s: f"AKIA{s.letters(16)}"),
    "email": _put(lambda s: f"{s.letters(6).lower()}@mail.example.com"),
    "phone_number": _put(lambda s: f"+1 650-253-{s.digits(4)}"),
    "score_missing": _with(score=None),
    "score_out_of_range": _with(score=7.5),
    "contaminated": _put(lambda s: s.dice.choice(s.prompts)),
    "exact_duplicate": _repeated,
    "near_duplicate": _nearly_repeated,
}
WEIGHTS = [5 if kind.endswith("_duplicate") else 1 for kind in SPOILERS]


@cache
def _words() -> list[str]:
    """Return VOCABULARY different made-up words; the frequent ones tend to be short."""
    dice = random.Random(f"{SEED} words")
    syllables = [a + b for a in "bcdfghjklmnprstvwz" for b in ("a", "e", "i", "o", "u", "en")]
    lengths = dice.choices((1, 2, 3, 4), (1, 2, 1, 1), k=3 * VOCABULARY)
    words = dict.fromkeys("".join(dice.choices(syllables, k=k)) for k in lengths)
    return sorted([*words][:VOCABULARY], key=lambda word: len(word) + 6 * dice.random())


@cache
def _zipf(count: int) -> "np.ndarray":
    """Return the cumulative shares of words by rank."""
    import numpy as np

    weights = 1 / (np.arange(count) + 10)
    return np.cumsum(weights / weights.sum())


def _train(folder: Path, text: Path) -> None:
    """Train and save a tokenizer on a file of rows."""
    import pyarrow.parquet as pq
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENS,
        special_tokens=["<|pad|>", START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    column = pq.read_table(text, columns=["messages"])["messages"].to_pylist()
    core.train_from_iterator((m["content"] for messages in column for m in messages), trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=END, pad_token="<|pad|>", chat_template=CHATML
    ).save_pretrained(folder)


def _schema() -> "pa.Schema":
    import pyarrow as pa

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    return pa.schema(
        {
            "row": pa.int64(),
            "messages": pa.list_(message),
            "source": pa.string(),
            "score": pa.float64(),
            "format": pa.string(),
            "problem": pa.string(),
        }
    )


def _cached(name: str, make: Callable[[Path], None]) -> Path:
    """Return what `make` leaves at a path; it is made once and appears whole."""
    folder = cache_dir() / "benchmarks" / sha256(Path(__file__))[:12]
    path, partial = folder / name, folder / f"{name}.partial"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        make(partial)
        partial.rename(path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    count = parser.parse_args().rows
    start = time.perf_counter()
    path = rows(count)
    made = time.perf_counter() - start
    tokens = len(tokenizer())
    print(f"| rows | seconds | Parquet, MB | tokens known |\n|{'---:|' * 4}")
    print(f"| {count:,} | {made:.1f} | {path.stat().st_size / 1e6:,.0f} | {tokens:,} |")
    print(json.dumps({"rows": count, "seconds": made, "path": str(path), "tokens": tokens}))


if __name__ == "__main__":
    main()
