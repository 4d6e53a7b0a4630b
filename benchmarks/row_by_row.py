"""The gate's checks and the format as a loop over rows in plain Python, to compare with.

It is what an engineer who knows the trade would write first, and nothing in it is slow on purpose:
patterns are compiled once, a cheap test goes before a dear one wherever that needs no second set of
rules, hashes and templates that repeat are kept. It uses the same patterns, the same libraries
(detect-secrets, libphonenumber, ftfy, LZ4), 5-word shingles, 128 permutations, 16 bands and the same
limits, so both find the same flaws in the same rows; near duplicates may differ by a few, because
datasketch hashes in another way than rensa. It does less than the gate: no Great Expectations, no
report, no excerpts, no charts, and no language (off by default).
"""

import hashlib
import re
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from expectations.data import credentials, personal
from expectations.data import messages as m
from expectations.data.messages import FOREIGN_TOKENS, KNOWN_ROLES, Rules
from expectations.data.similarity import BANDS, LEAST_PROMPT, PERMUTATIONS, SHINGLE
from retune.chat import special_tokens
from retune.recipe.flaws import FLAWS

if TYPE_CHECKING:
    from datasketch import MinHash
    from transformers import PreTrainedTokenizerBase

BATCH = 1000  # rows read or written at once
WORD, SPACE = re.compile(r"\w+"), re.compile(r"\s+")
ORDER = re.compile(r"s?(ua(t+a)*)+")

Message = tuple[str | None, str, str]  # role, content, and the content without case and with spaces


class Clock:
    """Seconds by part of the work; `lap` books the time since the last call."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        now = time.perf_counter()
        self.seconds[part] += now - self._last
        self._last = now


class Verdict(NamedTuple):
    """What was found in a row."""

    row: int
    flaws: frozenset[str]
    twin: int | None


def judge(rows: Path, rules: Rules, clock: Clock) -> list[Verdict]:
    """Return the verdict on every row of a Parquet file."""
    checks, repeats = Checks(rules, clock), Repeats(rules, clock)
    return [_verdict(row, checks, repeats) for row in read(rows)]


def read(rows: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(rows) as file:
        for batch in file.iter_batches(BATCH):
            yield from batch.to_pylist()


def write_rows(rows: Path, verdicts: list[Verdict], rules: Rules, folder: Path) -> Path:
    """Write the accepted rows (returned) and the quarantine."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pq.read_schema(rows).append(pa.field("duplicate_of", pa.int64()))
    kept, flawed = [], []
    with pq.ParquetWriter(folder / "rows.parquet", schema) as writer:
        for row, verdict in zip(read(rows), verdicts, strict=True):
            if not any(map(rules.config.quarantines, verdict.flaws)):
                kept.append({**row, "duplicate_of": verdict.twin})
            else:
                found = {name: row[name] for name in ("row", "source", "score")}
                flawed.append(
                    {**found, "reasons": [name for name in FLAWS if name in verdict.flaws]}
                )
            if len(kept) == BATCH:
                writer.write_table(pa.Table.from_pylist(kept, schema))
                kept = []
        writer.write_table(pa.Table.from_pylist(kept, schema))
    pq.write_table(pa.Table.from_pylist(flawed), folder / "quarantine.parquet")
    return folder / "rows.parquet"


def write_chats(
    rows: Path, tokenizer: "PreTrainedTokenizerBase", held_out_share: float, folder: Path
) -> tuple[list[int], int]:
    """Render, tokenise, prove and split the rows; return the training rows' lengths in tokens, and
    the number of held-out rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    schema = pa.schema(
        {
            "row": pa.int64(),
            "source": pa.string(),
            "messages": pa.list_(message),
            "text": pa.string(),
            "input_ids": pa.list_(pa.int32()),
        }
    )
    chats = Chats(tokenizer, held_out_share)
    sides: dict[str, list] = {"train": [], "held_out": []}
    lengths = {"train": [], "held_out": []}
    writers = {side: pq.ParquetWriter(folder / f"{side}.parquet", schema) for side in sides}
    for row in read(rows):
        chat = chats.made(row)
        side = chats.side(row)
        sides[side].append(chat)
        lengths[side].append(len(chat["input_ids"]))
        if len(sides[side]) == BATCH:
            writers[side].write_table(pa.Table.from_pylist(sides[side], schema))
            sides[side] = []
    for side, writer in writers.items():
        writer.write_table(pa.Table.from_pylist(sides[side], schema))
        writer.close()
    return lengths["train"], len(lengths["held_out"])


def _verdict(row: dict[str, Any], checks: "Checks", repeats: "Repeats") -> Verdict:
    messages = [
        (turn["role"], content := turn["content"] or "", SPACE.sub(" ", content.lower()).strip())
        for turn in row["messages"] or ()
        if turn["role"] is not None or turn["content"] is not None
    ]
    flaws = checks.of_row(row, messages)
    repeated, twin = repeats.of_row(row["row"], messages, flaws)
    flaws |= repeated
    flaws |= checks.of_score(row["score"])
    return Verdict(row["row"], frozenset(flaws), twin)


class Checks:
    """What a row can have by itself."""

    def __init__(self, rules: Rules, clock: Clock) -> None:
        self.config, self.clock = rules.config, clock
        self.control = rules.control_tokens
        self.foreign = [token for token in FOREIGN_TOKENS if token not in self.control]
        self.refusals = [phrase.lower() for phrase in self.config.refusals]
        self.identities = [phrase.lower() for phrase in self.config.identities]
        self.secrets = _secret_detectors()
        self.patterns = {
            name: re.compile(_as_python(getattr(module, name.upper())))
            for module, names in (
                (m, ("control", "broken", "mojibake", "url")),
                (personal, ("email", "phone")),
            )
            for name in names
        }
        self.code = re.compile(m._CODE)
        self.nobodys = re.compile(personal.NOBODYS)
        self.more_secrets = re.compile(credentials.MORE_SECRETS)

    def of_row(self, row: dict[str, Any], messages: list[Message]) -> set[str]:
        if row["problem"] is not None:
            return {"malformed"}
        if not messages:
            return {"no_messages"}
        found: set[str] = set()
        before: Message = (None, "", "")
        for message in messages:
            found |= self._of_message(message)
            if message[0] == "assistant" and before[0] == "user":
                found |= _of_answer(before, message)
            before = message
        order = "".join((role or "?")[0] for role, _, _ in messages)
        if "unknown_role" not in found and not ORDER.fullmatch(order):
            found.add("roles_out_of_order")
        return found

    def of_score(self, score: float | None) -> set[str]:
        if score is None:
            return {"score_missing"} if self.config.score_required else set()
        if score - score != 0:  # NaN or infinite
            return {"score_not_finite"}
        fits = self.config.score_min <= score <= self.config.score_max
        return set() if fits else {"score_out_of_range"}

    def _of_message(self, message: Message) -> Iterator[str]:
        role, content, _ = message
        found = {
            "unknown_role": role not in KNOWN_ROLES,
            "empty_message": content in m._NOTHING or not any(map(_is_visible, content)),
            "oversized_message": len(content) > self.config.max_message_chars,
            "invalid_unicode": self.patterns["broken"].search(content),
            "control_character": self.patterns["control"].search(content),
            "email": "@" in content and self._has_email(content),
            "url": self.patterns["url"].search(content),
            "special_token": self._has_special_token(content),
            "repetition": self._repeats_itself(content),
        }
        if role == "assistant":
            plain = content.replace("’", "'").lower()
            head = plain[: m._HEAD]
            found["refusal"] = any(phrase in head for phrase in self.refusals)
            found["self_identification"] = any(phrase in plain for phrase in self.identities)
        self.clock.lap("patterns")
        found["mojibake"] = self._is_mojibake(content)
        self.clock.lap("mojibake")
        found["phone_number"] = self._has_phone_number(content)
        self.clock.lap("phone numbers")
        found["secret"] = self._has_secret(content)
        self.clock.lap("secrets")
        for form in personal.FORMS:
            found[form.flaw] = found.get(form.flaw) or any(
                map(form.check, form.candidates(content))
            )
        self.clock.lap("cards, accounts, ids")
        return {name for name, is_so in found.items() if is_so}

    def _has_email(self, content: str) -> bool:
        email = self.patterns["email"]
        return bool(email.search(content) and email.search(self.nobodys.sub("", content)))

    def _has_secret(self, content: str) -> bool:
        values = (value for detector in self.secrets for value in detector.analyze_string(content))
        if any(value.lower().strip("<>[]{}$*") not in credentials.PLACEHOLDERS for value in values):
            return True
        return self.more_secrets.search(content) is not None

    def _has_special_token(self, content: str) -> bool:
        if any(token in content for token in self.control):
            return True
        if not any(token in content for token in self.foreign):
            return False
        prose = self.code.sub("", content)
        return any(token in prose for token in self.foreign)

    def _repeats_itself(self, content: str) -> bool:
        import pyarrow as pa

        raw = content.encode()
        if len(raw) < m._LEAST_BYTES:
            return False
        return len(pa.compress(raw, "lz4", asbytes=True)) / len(raw) < self.config.min_compression

    def _is_mojibake(self, content: str) -> bool:
        from ftfy.badness import is_bad

        if content.isascii() or not self.patterns["mojibake"].search(content):
            return False
        return is_bad(content)

    def _has_phone_number(self, content: str) -> bool:
        import phonenumbers

        if not self.patterns["phone"].search(content):
            return False
        return any(True for _ in phonenumbers.PhoneNumberMatcher(content, "US"))


def _of_answer(question: Message, answer: Message) -> set[str]:
    found = set()
    if answer[2] and answer[2] == question[2]:
        found.add("answer_repeats_question")
    asks = answer[1].rstrip().endswith("?") and "?" not in question[1]
    if asks and len(answer[1]) < len(question[1]):
        found.add("roles_swapped")
    return found


class Repeats:
    """What a row has in common with the prompts and with the sound rows before it."""

    def __init__(self, rules: Rules, clock: Clock) -> None:
        datasketch = _datasketch()
        self.config, self.clock = rules.config, clock
        self.prompts = _prompt_grams(rules.prompts, rules.config.decontamination.ngram)
        self.seen: dict[bytes, int] = {}
        self.similarity = rules.config.near_duplicate_similarity
        self.empty = datasketch.MinHash(num_perm=PERMUTATIONS)
        self.signatures: dict[int, MinHash] = {}
        self.index = datasketch.MinHashLSH(
            num_perm=PERMUTATIONS, params=(BANDS, PERMUTATIONS // BANDS)
        )

    def of_row(
        self, row: int, messages: list[Message], flaws: set[str]
    ) -> tuple[set[str], int | None]:
        """Return the flaws, and the row that a duplicate is like."""
        said = [(role, WORD.findall(plain)) for role, _, plain in messages]
        words = [word for _, some in said for word in some]
        is_contaminated = any(
            not grams.isdisjoint(_ngrams(words, n)) for n, grams in self.prompts.items()
        )
        words = [word for role, some in said if role != "system" for word in some]
        found = {"contaminated"} if is_contaminated else set()
        self.clock.lap("prompts")
        if not messages or any(map(self.config.quarantines, flaws | found)):
            return found, None
        text = "\x1e".join(f"{role}\x1f{plain}" for role, _, plain in messages)
        key = hashlib.blake2b(text.encode(), digest_size=16).digest()
        first = self.seen.setdefault(key, row)
        self.clock.lap("duplicates")
        if first != row:
            return found | {"exact_duplicate"}, first
        twin = self._near_twin(row, words) if self.similarity is not None else None
        self.clock.lap("near duplicates")
        return (found | {"near_duplicate"}, twin) if twin is not None else (found, None)

    def _near_twin(self, row: int, words: list[str]) -> int | None:
        shingles = {" ".join(gram).encode() for gram in _ngrams(words, SHINGLE)}
        if not shingles:
            return None
        signature = self.empty.copy()
        signature.update_batch(shingles)
        alike = (
            other
            for other in self.index.query(signature)
            if signature.jaccard(self.signatures[other]) >= self.similarity
        )
        twin = min(alike, default=None)
        self.signatures[row] = signature
        self.index.insert(row, signature, check_duplication=False)
        return twin


class Chats:
    """Renders and proves single conversations."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", held_out_share: float) -> None:
        self.tokenizer, self.share = tokenizer, held_out_share
        self.control = set(tokenizer.convert_tokens_to_ids(list(special_tokens(tokenizer))))
        self.emitted: dict[tuple[str, ...], int] = {}
        self.places: dict[int, float] = {}

    def made(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the row with `text` and `input_ids`; raises ValueError when they do not hold."""
        text = self.tokenizer.apply_chat_template(row["messages"], tokenize=False)
        ids = self._ids(text)
        if not self.tokenizer.decode(ids, clean_up_tokenization_spaces=False).endswith(text):
            raise ValueError(f"row {row['row']} does not survive the tokenizer")
        if self._count(ids) != self._of_template(row["messages"]):
            raise ValueError(f"row {row['row']} holds other control tokens than the template emits")
        kept = {name: row[name] for name in ("row", "source", "messages")}
        return {**kept, "text": text, "input_ids": ids}

    def side(self, row: dict[str, Any]) -> str:
        """Return `train` or `held_out`, by a hash of the first question."""
        questions = (turn["content"] for turn in row["messages"] if turn["role"] == "user")
        plain = SPACE.sub(" ", next(questions, "").lower()).strip()
        digest = hashlib.blake2b(plain.encode(), digest_size=8).digest()
        place = self.places.get(row["duplicate_of"]) or int.from_bytes(digest) / 2**64
        self.places[row["row"]] = place
        return "held_out" if place < self.share else "train"

    def _ids(self, text: str) -> list[int]:
        with_bos = not (self.tokenizer.bos_token and text.startswith(self.tokenizer.bos_token))
        return self.tokenizer(text, add_special_tokens=with_bos)["input_ids"]

    def _count(self, ids: list[int]) -> int:
        return sum(token in self.control for token in ids)

    def _of_template(self, messages: list[dict[str, str]]) -> int:
        roles = tuple(message["role"] for message in messages)
        if roles not in self.emitted:
            empty = [{"role": role, "content": "x"} for role in roles]
            text = self.tokenizer.apply_chat_template(empty, tokenize=False)
            self.emitted[roles] = self._count(self._ids(text))
        return self.emitted[roles]


def _ngrams(words: list[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(n)), strict=False)


def _prompt_grams(prompts: tuple[str, ...], ngram: int) -> dict[int, set[tuple[str, ...]]]:
    """Return the prompts' n-grams by n; a prompt of fewer words than `ngram` is one n-gram."""
    grams: dict[int, set] = {}
    for prompt in prompts:
        words = WORD.findall(prompt.lower())
        n = min(ngram, len(words))
        if n >= LEAST_PROMPT:
            grams.setdefault(n, set()).update(_ngrams(words, n))
    return grams


def _is_visible(character: str) -> bool:
    return not character.isspace() and unicodedata.category(character)[0] not in "CZ"


def _as_python(pattern: str) -> str:
    """Turn the linear-time engine's \\x{FFFD} into the character itself."""
    return re.sub(r"\\x\{([0-9A-F]+)\}", lambda found: chr(int(found[1], 16)), pattern)


def _secret_detectors() -> list[Any]:
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    unwanted = ("IPPublicDetector", "ArtifactoryDetector")
    kinds = get_mapping_from_secret_type_to_class().values()
    detectors = [kind() for kind in kinds if kind.__name__ not in unwanted]
    return [detector for detector in detectors if getattr(detector, "denylist", None)]


def _datasketch() -> Any:
    try:
        import datasketch
    except ImportError:
        raise SystemExit(
            "the row-by-row code finds near duplicates with datasketch: pip install datasketch"
        ) from None
    return datasketch
