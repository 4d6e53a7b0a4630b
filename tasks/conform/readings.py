"""How training reads the texts that llama.cpp is to read alike: their token ids, by the tokenizer."""

import json
import re
from array import array
from base64 import b64decode, b64encode
from collections.abc import Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from retune.chat import encode
from retune.templates import rendering
from tasks.conform.checks import CHATS, rendered
from tasks.conform.texts import texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARKED = re.compile(r"[▁_]?[<\[].*[>\]]|\[e~\[")  # how control tokens look
MARKED_ENDS = (">", "]", "[")  # of these, which few words have


class PromptCase(BaseModel):
    """A conversation that asks for an answer, as it is rendered for training, and its token ids."""

    chat: list[dict[str, str]]
    text: str
    ids: list[int]


class PackedIds(BaseModel):
    """Rows of token ids, 4 bytes each: half a million numbers as JSON take a core a third of a second."""

    lengths: list[int]
    base64: str

    @classmethod
    def of(cls, rows: Sequence[list[int]]) -> "PackedIds":
        packed = array("i", chain.from_iterable(rows)).tobytes()
        return cls(lengths=list(map(len, rows)), base64=b64encode(packed).decode())

    def rows(self) -> list[list[int]]:
        ids = iter(array("i", b64decode(self.base64)))
        return [list(islice(ids, length)) for length in self.lengths]


class TokenReading(BaseModel):
    """What a GGUF is compared with: prompts, and the `ids`, without BOS, of texts with the words of the
    vocabulary that look like control tokens and of varied `samples`, each after its kind.

    `composes` tells whether the tokenizer composes characters; `template` and `eos` are its own.
    """

    cases: list[PromptCase]
    words_like_control: list[str]
    samples: list[tuple[str, str]]
    ids: PackedIds
    composes: bool
    template: str | None
    eos: str | None
    eos_id: int | None

    @property
    def texts(self) -> list[str]:
        """The texts whose `ids` these are."""
        return _compared(self.words_like_control, self.samples)


def reading(tokenizer: "PreTrainedTokenizerBase") -> TokenReading:
    """Return how `tokenizer` reads what it is compared by."""
    with rendering():
        cases = _prompt_cases(tokenizer)
        samples = [(kind, text) for kind, of_kind in texts(tokenizer).items() for text in of_kind]
    template: Any = tokenizer.chat_template  # of several one was chosen
    words = _words_like_control(tokenizer)
    rows = tokenizer.backend_tokenizer.encode_batch_fast(
        _compared(words, samples), add_special_tokens=False
    )
    return TokenReading(
        cases=cases,
        words_like_control=words,
        samples=samples,
        ids=PackedIds.of([row.ids for row in rows]),
        composes=_composes(tokenizer),
        template=template,
        eos=tokenizer.eos_token,
        eos_id=tokenizer.eos_token_id,
    )


def _compared(words: Sequence[str], samples: Sequence[tuple[str, str]]) -> list[str]:
    return [*(f"a{word}b" for word in words), *(text for _, text in samples)]


def _prompt_cases(tokenizer: "PreTrainedTokenizerBase") -> list[PromptCase]:
    """Return those of CHATS, without their last answers, that the template renders."""
    chats = [chat[:-1] for chat in CHATS.values()]
    texts = [rendered(tokenizer, chat, prompt=True) for chat in chats]
    cases = [(chat, text) for chat, text in zip(chats, texts, strict=True) if text]
    ids = encode(tokenizer, [text for _, text in cases])
    return [
        PromptCase(chat=chat, text=text, ids=ids)
        for (chat, text), ids in zip(cases, ids, strict=True)
    ]


def _words_like_control(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """Return the plain words of the vocabulary that look like control tokens."""
    added = tokenizer.get_added_vocab()
    ending = (word for word in tokenizer.get_vocab() if word.endswith(MARKED_ENDS))
    return [word for word in ending if MARKED.fullmatch(word) and word not in added]


def _composes(tokenizer: "PreTrainedTokenizerBase") -> bool:
    normalizer: Any = tokenizer.backend_tokenizer.normalizer  # its type does not tell of its state
    return bool(normalizer) and "NFC" in str(json.loads(normalizer.__getstate__()))
