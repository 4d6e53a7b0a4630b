"""The child process of `conversion.py`: llama.cpp's own converter, on a completed folder.

The converter itself is not changed; the packages of llama.cpp come first on its path.
"""

import json
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from retune.child import main
from retune.errors import RetuneError
from retune.llamacpp.conversion import ConversionJob, embeddings

GPT2_SPLIT = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
SMOLLM_SPLIT = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Digits", "individual_digits": True},
        GPT2_SPLIT | {"trim_offsets": True},
    ],
}
LLAMA3_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_REGEX = LLAMA3_REGEX.replace(r"\p{N}{1,3}", r"\p{N}")

GRANITE_LAYERS = {"linear_attention": "mamba", "full_attention": "attention"}

# What the converter reads of a checkpoint; it takes pickles too.
LINKED = (".json", ".jinja", ".model", ".safetensors", ".txt", ".tiktoken")


class Unsupported(RetuneError):
    """This checkpoint can't be converted soundly; the message says why and what to do."""


def convert(
    job: ConversionJob, begin: Callable[[Any], object] = lambda tokenizer: None
) -> dict[str, Any]:
    """Convert one checkpoint; return the texts, with their ids, by which the result is proven.

    `begin` gets the checkpoint's tokenizer beforehand, to begin what goes on beside the conversion.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the GPU may be busy, and converting has no use for it
    sys.path[:0] = [str(job.llamacpp), str(job.llamacpp / "gguf-py")]
    from retune.llamacpp.fast_conversion import (
        cutting_floats,
        grouping_rows,
        packing_arrays,
        reading_once,
    )
    from retune.llamacpp.vocabulary import is_sentencepiece, write_sentencepiece_model
    from retune.loaders import backends_uncopied, described_tokenizer, forbid_custom_code

    forbid_custom_code()  # for the converter's sake, which trusts whatever a model brings
    tokenizer, structure = described_tokenizer(job.checkpoint)
    bos = adds_bos(tokenizer) if job.add_bos is None else job.add_bos
    # Without --model-name the converter names the model after its folder.
    overlay = job.scratch / "overlay" / job.checkpoint.name
    complete(job.checkpoint, overlay, tokenizer_facts(tokenizer, bos))
    if is_sentencepiece(structure) and not (overlay / "tokenizer.model").exists():
        write_sentencepiece_model(structure, overlay / "tokenizer.model")
    name_pre_tokenizer_by_structure(structure)
    texts = probes(tokenizer, embeddings(job.checkpoint) or len(tokenizer))
    begin(tokenizer)
    script = str(job.llamacpp / "convert_hf_to_gguf.py")
    sys.argv = [script, str(overlay), "--outfile", str(job.out), "--outtype", job.dtype]
    sys.argv += ["--model-name", job.name] if job.name else []
    cutting_floats()
    grouping_rows()
    packing_arrays()
    with backends_uncopied(), reading_once(overlay, tokenizer, structure):
        runpy.run_path(script, run_name="__main__")
    return {"probes": texts}


def probes(tokenizer: Any, tokens: int) -> list[dict[str, Any]]:
    """Return texts with the ids `tokenizer` gives them: PROBES, and added tokens between words.

    `control` tells whether a text is one of the latter. Left out are the runs of spaces that
    SentencePiece writes with `▁`, a character that nobody types, and what the model, which has
    embeddings for so many `tokens`, cannot read at all: Gemma 3's small ones have none for the picture
    that their tokenizer knows, and no file of theirs has that token.
    """
    from retune.probes import PROBES

    added = [token for token, number in tokenizer.get_added_vocab().items() if number < tokens]
    texts = dict.fromkeys(PROBES, False)
    texts |= {f"one{token}two {token}\n": True for token in added if "▁▁" not in token}
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [
        {"text": text, "ids": ids, "control": control}
        for (text, control), ids in zip(texts.items(), encoded, strict=True)
    ]


def adds_bos(tokenizer: Any) -> bool:
    """Return whether `tokenizer` puts BOS before a text."""
    return tokenizer.bos_token_id is not None and tokenizer("a").input_ids[0] == (
        tokenizer.bos_token_id
    )


def tokenizer_facts(tokenizer: Any, add_bos: bool) -> dict[str, Any]:
    """Return what the converter reads in `tokenizer_config.json` and transformers 5 leaves out."""
    added = {
        str(token_id): {"content": token.content, "special": token.special}
        for token_id, token in tokenizer.added_tokens_decoder.items()
    }
    starts_with_space = tokenizer.convert_ids_to_tokens(
        tokenizer("a", add_special_tokens=False).input_ids
    )[0].startswith("▁")
    # Left unsaid, llama.cpp takes the default of the pre-tokenizer's name, whatever training did.
    return {
        "added_tokens_decoder": added,
        "add_bos_token": add_bos,
        "add_prefix_space": starts_with_space,
    }


def complete(model_dir: Path, overlay: Path, facts: dict[str, Any]) -> None:
    """Make `overlay` a folder of links to the files of `model_dir`.

    Its settings are its own: without code, and `facts` added to `tokenizer_config.json`. What is
    neither settings, weights nor vocabulary stays away.
    """
    from retune.loaders import without_code

    overlay.mkdir(parents=True)
    settings = {"config.json": layer_names(model_dir), "tokenizer_config.json": facts}
    for path in model_dir.iterdir():
        if path.is_file() and path.suffix in LINKED and path.name not in settings:
            (overlay / path.name).symlink_to(path.absolute())
    for name, more in settings.items():
        content = without_code(json.loads((model_dir / name).read_text()))
        (overlay / name).write_text(json.dumps({**content, **more}))


def layer_names(model_dir: Path) -> dict[str, Any]:
    """Return the kinds of Granite 4's layers by the names that the converter knows.

    transformers 5 saves others, of which it would take none for attention.
    """
    config = json.loads((model_dir / "config.json").read_text())
    if config.get("model_type") != "granitemoehybrid" or not config.get("layer_types"):
        return {}
    return {"layer_types": [GRANITE_LAYERS.get(kind, kind) for kind in config["layer_types"]]}


def name_pre_tokenizer_by_structure(structure: dict[str, Any]) -> None:
    """Let the converter ask `pre_tokenizer_name` about a vocabulary that it does not know.

    It knows published vocabularies by a hash of their ids; one trained by its user never matches.
    """
    from conversion.base import TextModel

    by_hash = TextModel.get_vocab_base_pre

    def by_hash_or_structure(self: Any, tokenizer: Any) -> str:
        try:
            return by_hash(self, tokenizer)
        except NotImplementedError:
            return pre_tokenizer_name(structure)

    TextModel.get_vocab_base_pre = by_hash_or_structure


def pre_tokenizer_name(structure: dict[str, Any]) -> str:
    """Return llama.cpp's name for the way a byte-level BPE tokenizer splits text.

    `structure` is a `tokenizer.json`. Raises Unsupported unless regex and flags are exactly those
    that llama.cpp implements under a name.
    """
    model, normalizer = structure["model"], structure.get("normalizer")
    splitter = structure.get("pre_tokenizer") or {}
    ignore_merges = bool(model.get("ignore_merges"))
    plain = model["type"] == "BPE" and not model.get("byte_fallback")
    if plain and GPT2_SPLIT.items() <= splitter.items() and not normalizer and not ignore_merges:
        return "gpt-2"
    if plain and splitter == SMOLLM_SPLIT and not normalizer and not ignore_merges:
        return "smollm"
    regex = split_regex(splitter)
    if plain and regex == LLAMA3_REGEX and not normalizer and ignore_merges:
        return "llama-bpe"
    composed = normalizer in (None, {"type": "NFC"})
    if plain and regex == QWEN2_REGEX and composed and not ignore_merges:
        return "qwen2"
    raise Unsupported(
        "llama.cpp has no name for how this tokenizer splits text (model"
        f" {model['type']}, ignore_merges {ignore_merges}, normalizer {normalizer}, pre-tokenizer"
        f" {splitter}): train from a base model whose tokenizer llama.cpp supports"
    )


def split_regex(splitter: dict[str, Any]) -> str | None:
    """Return the regex of a pre-tokenizer that cuts by it and maps bytes; None for any other."""
    match splitter.get("pretokenizers"):
        case [
            {"type": "Split", "pattern": {"Regex": regex}} as cut,
            {"type": "ByteLevel"} as bytes_,
        ]:
            isolated = cut["behavior"] == "Isolated" and not cut["invert"]
            if isolated and not bytes_["add_prefix_space"] and not bytes_["use_regex"]:
                return regex
    return None


if __name__ == "__main__":
    main(ConversionJob, convert)
