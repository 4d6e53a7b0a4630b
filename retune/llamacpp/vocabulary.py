"""SentencePiece's kind of vocabulary, as llama.cpp's converter reads it."""

import re
from pathlib import Path
from typing import Any

BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def is_sentencepiece(structure: dict[str, Any]) -> bool:
    """Tell whether `tokenizer.json` (as `structure`) describes SentencePiece's kind of BPE: text it
    does not know becomes bytes. llama.cpp reads such vocabularies from `tokenizer.model`."""
    model = structure["model"]
    return model["type"] == "BPE" and bool(model.get("byte_fallback"))


def write_sentencepiece_model(structure: dict[str, Any], out: Path) -> None:
    """Write the `tokenizer.model` that llama.cpp's converter reads, of what `tokenizer.json` says.

    transformers 5 saves none, and a renamed or added token is in `tokenizer.json` alone.
    SentencePiece merges the two neighbours whose piece has the highest score; here that is the rank
    of the first merge that makes it, which is how the merges were derived from scores.
    """
    from sentencepiece import sentencepiece_model_pb2

    protobuf: Any = sentencepiece_model_pb2  # its classes are made at import
    model = structure["model"]
    added = {token["id"]: token for token in structure["added_tokens"]}
    texts = {id_: text for text, id_ in model["vocab"].items()}
    texts |= {id_: token["content"] for id_, token in added.items()}
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(model["merges"]):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        ranks.setdefault(left + right, rank)
    kinds = protobuf.ModelProto.SentencePiece.Type
    proto = protobuf.ModelProto()
    for id_ in range(max(texts) + 1):
        text = texts.get(id_, f"<unused id {id_}>")
        if text == model["unk_token"]:
            kind = kinds.UNKNOWN
        elif id_ not in texts:
            kind = kinds.UNUSED
        elif id_ in added:
            kind = kinds.CONTROL if added[id_]["special"] else kinds.USER_DEFINED
        elif BYTE.fullmatch(text):
            kind = kinds.BYTE
        else:
            kind = kinds.NORMAL
        score = -float(ranks.get(text, len(ranks)))
        proto.pieces.add(piece=text, score=score, type=kind)
        if kind == kinds.UNKNOWN:
            proto.trainer_spec.unk_id = id_
    proto.trainer_spec.model_type = protobuf.TrainerSpec.ModelType.BPE
    proto.trainer_spec.byte_fallback = True
    for kind_of_token in ("bos_id", "eos_id", "pad_id"):  # tokenizer_config.json says them
        setattr(proto.trainer_spec, kind_of_token, -1)
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = False
    proto.normalizer_spec.remove_extra_whitespaces = False
    out.write_bytes(proto.SerializeToString())
