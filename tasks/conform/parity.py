"""A tiny model with the tokenizer to be trained with goes the way to llama.cpp, and is compared."""

import json
import logging
import math
import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from pydantic import BaseModel

from retune import llamacpp
from retune.chat import encode
from retune.control_texts import control_texts
from retune.loaders import head_size, load_config, new_model, optional_file, strip_code
from retune.recipe import Model
from retune.records import Check
from tasks.conform.checks import CHATS, rendered
from tasks.conform.texts import PER_KIND, texts

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

LAYERS = 2
LAYER_KINDS = ("layer_types", "mlp_layer_types")
DENSE_LAYERS = ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index")  # how many
WIDTH = 64  # a multiple of llama.cpp's blocks, which rows are quantized in
CHUNK = 32
MARKED = re.compile(r"[▁_]?[<\[].*[>\]]|\[e~\[")  # how control tokens look
SHOWN = 20  # differing texts in the report
# Of a base, beside its configuration and weights.
OF_THE_BASE = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja"),
    "generation_config.json",
)
# For a handful of prompts of a tiny model. llama.cpp's own template engine has no limits.
ANSWER_SECONDS = 120
ANSWER_MEMORY = 8 << 30  # bytes
# For each text its token ids by a tokenizer's backend and by llama.cpp.
Readings: TypeAlias = list[tuple[list[int], list[int]]]


class Difference(BaseModel):
    """A text that the two read as different token ids."""

    kind: str
    text: str
    hugging_face: list[int]
    llama_cpp: list[int]

    def __str__(self) -> str:
        return (
            f"{self.text!r} is {self.hugging_face} in Hugging Face's tokenizer and {self.llama_cpp} "
            f"in llama.cpp's"
        )


class Parity(BaseModel):
    """How many texts of each kind were compared, how many of them differ, and the first that do.

    `decomposed` counts texts that differ only because llama.cpp does not compose characters.
    """

    texts: dict[str, int]
    differing_texts: dict[str, int]
    differing: list[Difference]
    decomposed: int


def save_tiny(
    model: Model, revision: str | None, tokenizer: "PreTrainedTokenizerBase", folder: Path
) -> None:
    """Save a random model of the base's architecture with `tokenizer`, as merge would save it.

    Of the base only `config.json` is read.
    """
    config = _tiny_config(model, revision)
    config.get_text_config().vocab_size = max(config.get_text_config().vocab_size, len(tokenizer))
    for kind in ("bos", "eos", "pad"):
        setattr(config, f"{kind}_token_id", getattr(tokenizer, f"{kind}_token_id"))
    _save(config, folder)
    tokenizer.save_pretrained(folder)
    strip_code(folder)


def save_twin(
    model: Model, revision: str | None, tokenizer: "PreTrainedTokenizerBase", folder: Path
) -> None:
    """Save what a rehearsal takes: `base/`, random weights of the base's architecture and all else as
    the base has it, `tokenizer/`, as trained with, and `rows.parquet` with `input_ids`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    base = folder / "base"
    _save(_tiny_config(model, revision), base)
    for name in OF_THE_BASE:
        if found := optional_file(model.base, name, revision):
            shutil.copyfile(found, base / name)
    strip_code(base)
    tokenizer.save_pretrained(folder / "tokenizer")
    strip_code(folder / "tokenizer")
    texts = [text for text in (rendered(tokenizer, chat) for chat in CHATS.values()) if text]
    pq.write_table(pa.table({"input_ids": encode(tokenizer, texts)}), folder / "rows.parquet")


def _tiny_config(model: Model, revision: str | None) -> "PretrainedConfig":
    config = load_config(model.base, revision)
    shrink(config)
    return config


def _save(config: "PretrainedConfig", folder: Path) -> None:
    import torch

    # Loaded with the model's class; they have things to say that nobody here can act on.
    for talkative in ("torchao", "torch.utils._pytree"):
        logging.getLogger(talkative).setLevel(logging.ERROR)
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.manual_seed(0)  # so that a run that is made again conforms alike
    new_model(config, torch.bfloat16).save_pretrained(folder)


def shrink(config: "PretrainedConfig") -> None:
    """Make a configuration tiny: few narrow layers, as few attention heads as make up whole blocks.

    The size of a head stays because factors of rotary embeddings fit it. The layers are the base's
    first ones, so many that there is one of each kind: of LFM2's, which begin with convolutions,
    llama.cpp loads none without attention; of DeepSeek's first dense ones there is one, so that a
    mixture follows. Where keys have as many heads as queries, as in DeepSeek's latent attention, they
    still do.
    """
    vars(config).pop("quantization_config", None)
    text = config.get_text_config()
    head = head_size(text)
    heads = WIDTH // math.gcd(head, WIDTH)
    grouped = getattr(text, "num_key_value_heads", None) != getattr(
        text, "num_attention_heads", None
    )
    kinds = [name for name in LAYER_KINDS if getattr(text, name, None)]
    layers = max([LAYERS, *(_layers_of_each_kind(getattr(text, name)) for name in kinds)])
    sizes = {
        "hidden_size": heads * head,
        "num_attention_heads": heads,
        "num_key_value_heads": 1 if grouped else heads,
        "num_hidden_layers": layers,
        **dict.fromkeys(
            ("intermediate_size", "moe_intermediate_size", "shared_intermediate_size"), WIDTH
        ),
        **_mixture(text),
        **_mamba(text, heads * head),
    }
    for name, size in sizes.items():
        if getattr(text, name, None) is not None:
            setattr(text, name, size)
    for name in kinds:
        setattr(text, name, getattr(text, name)[:layers])
    for other in ("vision_config", "audio_config"):  # what sees and hears is not trained
        if hasattr(getattr(config, other, None), "num_hidden_layers"):
            getattr(config, other).num_hidden_layers = 1


def _mixture(text: "PretrainedConfig") -> dict[str, int]:
    """Return the sizes of a mixture of experts that still chooses as the large one does.

    Two of four, unless the base asks one: the weight of a single expert, normalised, is 1 however it
    was computed. Groups of experts stay groups, so that there are some that are not asked.
    """

    def at_most(most: int, name: str) -> int:
        return min(most, getattr(text, name, None) or 0)

    groups = at_most(2, "n_group")
    return {
        # None where the base has none: Granite's dense models have a mixture's configuration.
        **{
            name: at_most(4, name)
            for name in ("num_experts", "num_local_experts", "n_routed_experts")
        },
        "num_experts_per_tok": at_most(2, "num_experts_per_tok"),
        "n_group": groups,
        "topk_group": 1
        if getattr(text, "topk_group", 0) != getattr(text, "n_group", 0)
        else groups,
        **{name: at_most(1, name) for name in DENSE_LAYERS},
    }


def _mamba(text: "PretrainedConfig", width: int) -> dict[str, int]:
    """Return the sizes of Mamba's layers (Granite 4's) in a model of this width: what they make of it
    is as wide as their heads together. None of a model without such layers."""
    head, groups = getattr(text, "mamba_d_head", None), getattr(text, "mamba_n_groups", None)
    if not isinstance(head, int) or not groups:
        return {}
    inside = text.mamba_expand * width
    heads = inside // math.gcd(head, inside)
    return {
        "mamba_d_head": inside // heads,
        "mamba_n_heads": heads,
        "mamba_n_groups": math.gcd(groups, heads),
        # Of tokens that are computed at a time, short rows filled up to as many.
        "mamba_chunk_size": CHUNK,
    }


def _layers_of_each_kind(kinds: Sequence[str]) -> int:
    """Return how many of the first layers have one of each kind."""
    return max(kinds.index(kind) + 1 for kind in set(kinds))


def gguf_checks(gguf: Path, tokenizer: "PreTrainedTokenizerBase") -> tuple[list[Check], Parity]:
    """Return what is to be known from a GGUF with `tokenizer`, and how the texts were read."""
    cases = _prompt_cases(tokenizer)
    with ThreadPoolExecutor(1) as pool:  # llama.cpp answers while texts are made and read here
        prompts = pool.submit(_prompts, gguf, cases)
        words, samples = _words_like_control(tokenizer), _samples(tokenizer)
        odd = [*(f"a{word}b" for word in words), *(text for _, text in samples)]
        # All at once: each start of llama.cpp loads the vocabulary.
        readings = both_readings(gguf, tokenizer.backend_tokenizer, odd)
        control = _control_texts(words, readings[: len(words)])
        same_tokens, parity = _same_tokens(samples, readings[len(words) :], _composes(tokenizer))
        header = header_checks(gguf, tokenizer)
        return [*header, prompts.result(), control, same_tokens, quantizable(gguf)], parity


def quantizable(gguf: Path) -> Check:
    """Ask for the size of a quant: without llama.cpp's own quantizer few architectures have one."""
    try:
        outcome = f"{llamacpp.quantized_size(gguf, 'q8_0'):,} bytes by q8_0"
    except llamacpp.LlamaCppFailed as error:
        # The last line says that it failed, and the one before why.
        outcome, passed = "; ".join(str(error).splitlines()[-2:]), False
    else:
        passed = True
    return Check(
        name="llama.cpp can quantize the model",
        passed=passed,
        seen=f"{outcome} ({llamacpp.locate()})",
        fix="choose a model.base that llama.cpp supports, or do what is said to be missing",
    )


def header_checks(gguf: Path, tokenizer: "PreTrainedTokenizerBase") -> list[Check]:
    """Compare what programs read in the file before they ask it anything."""
    fields = llamacpp.header(gguf).fields

    def value(name: str) -> Any:
        return fields[name].contents() if name in fields else None

    template, eos = value("tokenizer.chat_template"), value("tokenizer.ggml.eos_token_id")
    return [
        Check(
            name="the GGUF carries the chat template",
            passed=template == tokenizer.chat_template,
            seen="the tokenizer's" if template == tokenizer.chat_template else f"{template!r:.200}",
            fix="save chat_template.jinja beside tokenizer.json before converting",
        ),
        Check(
            name="the GGUF's EOS is the tokenizer's",
            passed=eos == tokenizer.eos_token_id,
            seen=f"{eos}; the tokenizer's is {tokenizer.eos_token_id} ({tokenizer.eos_token!r})",
            fix="set eos_token_id in the base's config.json to the tokenizer's",
        ),
    ]


class PromptCase(NamedTuple):
    """A conversation that asks for an answer, as it is rendered for training, and its token ids."""

    chat: list[dict[str, str]]
    text: str
    ids: list[int]


def _prompt_cases(tokenizer: "PreTrainedTokenizerBase") -> list[PromptCase]:
    """Return those of CHATS, without their last answers, that the template renders."""
    chats = [chat[:-1] for chat in CHATS.values()]
    texts = [rendered(tokenizer, chat, prompt=True) for chat in chats]
    cases = [(chat, text) for chat, text in zip(chats, texts, strict=True) if text]
    ids = encode(tokenizer, [text for _, text in cases])
    return [PromptCase(chat, text, ids) for (chat, text), ids in zip(cases, ids, strict=True)]


def _prompts(gguf: Path, cases: Sequence[PromptCase]) -> Check:
    """Load the model and ask it: llama.cpp's own template engine must make the trained prompts.

    It says how many tokens it made of each. A program that is given the text adds BOS by itself.
    """
    name = "llama.cpp makes the prompts that are trained"
    fix = (
        "if llama.cpp speaks of the template, simplify chat_template; else choose a model.base that it "
        "supports, or set merging.save_method=lora: then there are no GGUF files"
    )
    if not cases:
        return Check(name=name, passed=False, seen="the template renders none", fix=fix)
    try:
        answered = llamacpp.answers(
            gguf,
            [case.chat for case in cases],
            max_tokens=1,
            threads=1,
            seconds=ANSWER_SECONDS,
            memory=ANSWER_MEMORY,
        )
    except llamacpp.LlamaCppFailed as error:
        return Check(name=name, passed=False, seen=str(error), fix=fix)
    counts = [answer.prompt_tokens for answer in answered.answers]
    theirs = llamacpp.tokenize(gguf, [case.text for case in cases])
    for (_, text, ids), count, parsed in zip(cases, counts, theirs, strict=True):
        if count != len(ids):
            difference = f"{count} tokens instead of {len(ids)} for the conversation of {text!r}"
            return Check(name=name, passed=False, seen=difference, fix=fix)
        if parsed != ids:
            difference = f"{text!r} is read as {parsed}, in training as {ids}"
            fix = "look at BOS: add_bos_token in tokenizer_config.json, bos_token in the template"
            return Check(name=name, passed=False, seen=difference, fix=fix)
    return Check(name=name, passed=True, seen=f"the same tokens in {len(cases)} conversations")


def both_readings(gguf: Path, backend: "Tokenizer", texts: Sequence[str]) -> Readings:
    """Return for each text its token ids by a tokenizer's backend and by llama.cpp, without BOS."""
    ours = backend.encode_batch_fast(list(texts), add_special_tokens=False)
    theirs = llamacpp.tokenize(gguf, texts, add_special=False)
    return [(encoding.ids, ids) for encoding, ids in zip(ours, theirs, strict=True)]


def _words_like_control(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """Return the plain words of the vocabulary that look like control tokens."""
    added = tokenizer.get_added_vocab()
    return [word for word in tokenizer.get_vocab() if MARKED.fullmatch(word) and word not in added]


def _control_texts(words: Sequence[str], readings: Readings) -> Check:
    """Find words, by the readings of texts with them, that llama.cpp takes for control tokens.

    Those of `retune.control_texts` are a flaw of the rows that hold them; there must be no others.
    """
    taken = [word for word, (ours, theirs) in zip(words, readings, strict=True) if ours != theirs]
    known = control_texts(taken)
    unknown = sorted(set(taken) - set(known))
    observed = f"of {len(words):,} that look like one, {' '.join(known) or 'none'}"
    return Check(
        name="llama.cpp takes no text for a control token that is none",
        passed=not unknown,
        seen=f"{' '.join(unknown[:SHOWN])} as well" if unknown else observed,
        fix="choose a model.base whose tokenizer llama.cpp supports",
    )


def _samples(tokenizer: "PreTrainedTokenizerBase") -> list[tuple[str, str]]:
    """Return varied texts, each after its kind."""
    return [(kind, text) for kind, of_kind in texts(tokenizer).items() for text in of_kind]


def _composes(tokenizer: "PreTrainedTokenizerBase") -> bool:
    normalizer: Any = tokenizer.backend_tokenizer.normalizer  # its type does not tell of its state
    return bool(normalizer) and "NFC" in str(json.loads(normalizer.__getstate__()))


def _same_tokens(
    samples: Sequence[tuple[str, str]], readings: Readings, composes: bool
) -> tuple[Check, Parity]:
    """Compare the token ids of varied texts, odd on purpose: what differs is told and refuses nothing.
    How many rows of a dataset differ is counted when they are known (`tasks.conform.rows`).

    llama.cpp leaves out a normalizer that `composes` characters (Qwen's NFC): with one of these a text
    that is not composed is compared and counted, but not held against the tokenizer.
    """
    differing = [
        Difference(kind=kind, text=text, hugging_face=ours, llama_cpp=theirs)
        for (kind, text), (ours, theirs) in zip(samples, readings, strict=True)
        if ours != theirs
    ]
    decomposed = [d for d in differing if composes and not unicodedata.is_normalized("NFC", d.text)]
    wrong = [difference for difference in differing if difference not in decomposed]
    by_kind = Counter(difference.kind for difference in wrong)
    kinds = ", ".join(f"{kind} {count}" for kind, count in by_kind.most_common())
    check = Check(
        name="llama.cpp reads odd texts as training does",
        passed=not wrong,
        seen=f"{len(wrong):,} of {len(samples):,} differ"
        + (f" ({kinds}, of {PER_KIND} each), e.g. {wrong[0]}" if wrong else ""),
        fix="see to it that the dataset has few such texts; quantization.max_differing_rows limits them",
        severity="warning",
    )
    return check, Parity(
        texts=Counter(kind for kind, _ in samples),
        differing_texts=by_kind,
        differing=wrong[:SHOWN],
        decomposed=len(decomposed),
    )
