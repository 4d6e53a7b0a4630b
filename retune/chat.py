"""ChatML: the tokenizer that a model is trained, evaluated, merged and served with."""

import json
import re
from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING, Any

from retune.errors import RetuneError
from retune.loaders import backends_uncopied, load_tokenizer
from retune.tool_text import AS_TEXT

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

START, END = "<|im_start|>", "<|im_end|>"
CHATML = AS_TEXT + (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# What messages hold by right: where a base marks one of these as special, its rows have it as a token.
CONTENT_TAGS = frozenset(
    tag
    for name in ("think", "tool_call", "tool_calls", "tool_response", "tools")
    for tag in (f"<{name}>", f"</{name}>")
) | {"[THINK]", "[/THINK]"}
# As models call tokens that nobody uses yet: <|reserved_special_token_0|> (Llama 3), <unused0> (Gemma),
# [control_8] and <SPECIAL_20> (Mistral), <|dummy_0|>, <|placeholder1|> (Phi), <|extra_0|> (Qwen 1),
# <extra_id_0> (T5), <｜place▁holder▁no▁0｜> (DeepSeek), [UNUSED_TOKEN_0] (InternLM 2).
RESERVED = re.compile(
    r"\W*(reserved|unused|extra|place▁?holder|dummy|control|special)[\w▁]*?\d+\W*", re.IGNORECASE
)


class ChatFormatError(RetuneError):
    """A tokenizer or dataset that cannot be brought into ChatML."""


def chatml_tokenizer(
    base: str, revision: str | None, chat_tokens: str
) -> "PreTrainedTokenizerBase":
    """Return the base model's tokenizer, ready for ChatML: template set, turns end with its EOS.

    A tokenizer that has `<|im_end|>` keeps its ids and its own template, if it has one. Any other
    gets ChatML's tokens by `chat_tokens` (see `retune.recipe.Model`): its EOS token renamed and no new
    token (map_eos, as Unsloth's `map_eos_token` does; `<|im_start|>` is then plain text to it), two
    of its reserved tokens renamed (reserved), or two more tokens (add). Raises ChatFormatError if it
    has none to rename.
    """
    return in_chatml(load_tokenizer(base, revision), base, chat_tokens)


def in_chatml(
    tokenizer: "PreTrainedTokenizerBase", base: str, chat_tokens: str
) -> "PreTrainedTokenizerBase":
    """Return a base's tokenizer, ready for ChatML (see `chatml_tokenizer`); the one given may change."""
    missing = [token for token in (START, END) if not _has(tokenizer, token)]
    template = None if END in missing else _own_template(tokenizer, base)
    former = tokenizer.eos_token
    names = {} if chat_tokens == "add" else _names(tokenizer, missing, chat_tokens, base)
    if names:
        tokenizer = _renamed_tokens(tokenizer, names)
    control = [END] if chat_tokens == "map_eos" and START in missing else [START, END]
    tokenizer.add_special_tokens(
        {"eos_token": END, "extra_special_tokens": control}, replace_extra_special_tokens=False
    )
    tokenizer = _with_plain_tags(tokenizer)
    tokenizer.chat_template = template or CHATML
    tokenizer.pad_token = _pad_token(tokenizer, former)
    return tokenizer


def new_tokens(
    base: str, revision: str | None, tokenizer: "PreTrainedTokenizerBase", chat_tokens: str
) -> list[int]:
    """Return the ids of ChatML's tokens in `tokenizer` whose embeddings the base has not learned.

    A reserved token's are as untrained as an added one's: Llama 3's are nearly zero, and models
    trained with such rows frozen do not learn to end a turn (meta-llama/llama3#77,
    meta-pytorch/torchtune#2429). An EOS that was renamed has been learned.
    """
    if chat_tokens == "map_eos":
        return []
    vocabulary = load_tokenizer(base, revision).get_vocab()
    ids: Any = tokenizer.convert_tokens_to_ids([START, END])  # as many as tokens
    return [
        id_ for token, id_ in zip((START, END), ids, strict=True) if vocabulary.get(token) != id_
    ]


def reserved_tokens(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """Return the added tokens whose names say that nobody uses them, in the order of their ids."""
    tokens = tokenizer.added_tokens_decoder.values()
    return [token.content for token in tokens if RESERVED.fullmatch(token.content)]


def _own_template(tokenizer: "PreTrainedTokenizerBase", base: str) -> str | None:
    """Return the template that conversations are rendered with: of several the one named `default`.

    The others (for tools, for documents) are left out: nothing here was trained with them.
    """
    template = tokenizer.chat_template
    if isinstance(template, dict):
        if "default" not in template:
            raise ChatFormatError(
                f"model.base: {base} has chat templates named {sorted(map(str, template))!r:.200} and "
                f"none named 'default'; name one so in its tokenizer_config.json"
            )
        template = template["default"]
    if template is not None and not isinstance(template, str):
        raise ChatFormatError(
            f"model.base: the chat template of {base} is no text but {template!r:.100}; repair "
            f"chat_template in its tokenizer_config.json"
        )
    return template


def _names(
    tokenizer: "PreTrainedTokenizerBase", missing: list[str], chat_tokens: str, base: str
) -> dict[str, str]:
    """Return which token gets which name, so that those of `missing` that are needed are there."""
    if chat_tokens == "reserved":
        reserved = reserved_tokens(tokenizer)
        if len(reserved) < len(missing):
            raise ChatFormatError(
                f"model.chat_tokens=reserved: the tokenizer of {base} has {len(reserved)} reserved "
                f"tokens {reserved}, ChatML needs {len(missing)}; set model.chat_tokens=add or map_eos"
            )
        return dict(zip(reserved, missing, strict=False))
    if END not in missing:
        return {}
    if tokenizer.eos_token is None:
        raise ChatFormatError(
            f"model.base: the tokenizer of {base} has neither {END} nor an EOS token that could "
            f"stand for it; set model.chat_tokens=add, or choose a base model with one"
        )
    return {tokenizer.eos_token: END}


def _renamed_tokens(
    tokenizer: "PreTrainedTokenizerBase", names: dict[str, str]
) -> "PreTrainedTokenizerBase":
    """Return `tokenizer` with tokens renamed; they are control tokens, their ids stay."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    if not tokenizer.is_fast:
        raise ChatFormatError(
            f"model.base: {tokenizer.name_or_path} has no tokenizer.json, without which no token can "
            f"be renamed; set model.chat_tokens=add"
        )
    description = _renamed(json.loads(tokenizer.backend_tokenizer.to_str()), names)
    for token in description["added_tokens"]:
        token["special"] |= token["content"] in names.values()
    special = {
        kind: names.get(token, token) for kind, token in tokenizer.special_tokens_map.items()
    }
    with backends_uncopied():
        return PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(json.dumps(description)),
            model_max_length=tokenizer.model_max_length,
            padding_side=tokenizer.padding_side,
            **special,
        )


def _with_plain_tags(tokenizer: "PreTrainedTokenizerBase") -> "PreTrainedTokenizerBase":
    """Return `tokenizer` with what messages hold by right as tokens that are no control tokens.

    The ids stay. Of a control token in an answer llama.cpp, and whoever skips special tokens, writes
    nothing: reasoning and calls would run into the text around them.
    """
    marked = CONTENT_TAGS.intersection(special_tokens(tokenizer))
    if not marked or not tokenizer.is_fast:
        return tokenizer
    from tokenizers import Tokenizer

    description = json.loads(tokenizer.backend_tokenizer.to_str())
    for token in description["added_tokens"]:
        token["special"] &= token["content"] not in CONTENT_TAGS
    kept = [t for t in tokenizer.extra_special_tokens if str(t) not in CONTENT_TAGS]
    tokenizer.add_special_tokens({"extra_special_tokens": kept}, replace_extra_special_tokens=True)
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(description))
    return tokenizer


def _renamed(node: Any, names: dict[str, str]) -> Any:
    """Replace each text that is a key of `names` wherever it stands whole, as a key or a value."""
    if isinstance(node, dict):
        return {
            names.get(key, key): value if isinstance(value, int) else _renamed(value, names)
            for key, value in node.items()
        }
    if isinstance(node, list):
        # Half a million merges are pairs of texts, of which none is a control token.
        if all(isinstance(pair, list) for pair in node) and names.keys().isdisjoint(
            chain.from_iterable(node)
        ):
            return node
        return [_renamed(value, names) for value in node]
    return names.get(node, node) if isinstance(node, str) else node


def _pad_token(tokenizer: "PreTrainedTokenizerBase", former_eos: str | None) -> str:
    """Return a token to pad with that does not end a turn, if there is one."""
    pad_tokens = [token for token in special_tokens(tokenizer) if "pad" in token.lower()]
    candidates = [tokenizer.pad_token, *pad_tokens, former_eos, tokenizer.unk_token]
    return next((t for t in candidates if t and t != END and _has(tokenizer, t)), END)


def _has(tokenizer: "PreTrainedTokenizerBase", token: str) -> bool:
    """Tell whether a tokenizer has a token; of a fast one without all of its vocabulary as a table."""
    if tokenizer.is_fast:
        return tokenizer.backend_tokenizer.token_to_id(token) is not None
    return token in tokenizer.get_vocab()


def special_tokens(tokenizer: "PreTrainedTokenizerBase") -> tuple[str, ...]:
    """Return every text that the tokenizer turns into a control token, wherever it stands."""
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return tuple(dict.fromkeys((*added, *tokenizer.all_special_tokens)))


def encode(tokenizer: "PreTrainedTokenizerBase", texts: list[str]) -> list[list[int]]:
    """Return the token ids of ChatML texts, each with exactly one BOS if the model uses one."""
    bos = tokenizer.bos_token
    with_bos = not (
        bos and texts and texts[0].startswith(bos)
    )  # the template may have put it there
    if not tokenizer.is_fast:
        return tokenizer(texts, add_special_tokens=with_bos)["input_ids"]
    # Without the offsets, masks and lists that calling the tokenizer makes: 1.6 times as fast.
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return [row.ids for row in backend.encode_batch_fast(texts, add_special_tokens=with_bos)]


def is_lossless(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Tell whether ids give back any text by construction: a byte-level BPE that knows all 256 bytes,
    changes no text beforehand and takes no white space around its added tokens."""
    from tokenizers.decoders import ByteLevel
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel as Bytes

    if not tokenizer.is_fast:
        return False
    backend = tokenizer.backend_tokenizer
    added = backend.get_added_tokens_decoder().values()
    description = json.loads(backend.to_str())
    pre = description["pre_tokenizer"] or {}
    steps = pre.get("pretokenizers", [pre])  # one, or a sequence
    splits = [step for step in steps if step.get("type") != "ByteLevel"]
    return (
        backend.normalizer is None
        and isinstance(backend.model, BPE)
        and isinstance(backend.decoder, ByteLevel)
        and not any(step.get("add_prefix_space") for step in steps)
        and len(steps) == len(splits) + 1
        and all(s.get("type") == "Split" and s.get("behavior") == "Isolated" for s in splits)
        and set(Bytes.alphabet()) <= set(backend.get_vocab())
        and not any(token.lstrip or token.rstrip or token.normalized for token in added)
    )


def decode(tokenizer: "PreTrainedTokenizerBase", ids: list[list[int]]) -> list[str]:
    """Return the texts of token ids, control tokens included; the inverse of `encode`."""
    if not tokenizer.is_fast:
        return tokenizer.batch_decode(ids, clean_up_tokenization_spaces=False)
    return tokenizer.backend_tokenizer.decode_batch(ids, skip_special_tokens=False)


def gives_back(decoded: str, text: str, control_tokens: Iterable[str]) -> bool:
    """Tell whether `decoded`, of the ids of `text`, is that text; a BOS may stand before it.

    `control_tokens` are the tokenizer's. SentencePiece's kind of tokenizer writes a space after each
    of them, as it begins a text.
    """
    if decoded.endswith(text):
        return True
    present = [token for token in control_tokens if token in decoded]
    if not present:
        return False
    spaces = re.compile(f"({'|'.join(map(re.escape, present))}) ")
    return spaces.sub(r"\1", decoded).endswith(spaces.sub(r"\1", text))
