"""What a GGUF file says of itself."""

from dataclasses import dataclass
from pathlib import Path

from retune.llamacpp.process import LlamaCppFailed, existing


@dataclass(frozen=True)
class GgufFacts:
    """Size and make-up of a GGUF: bytes of the file, parameters, and mean bits per parameter.

    `largest` is the number of weights in its largest tensor, `eos` the id of the token that ends a
    turn.
    """

    size: int
    parameters: int
    bits_per_weight: float
    largest: int
    eos: int | None
    has_chat_template: bool
    tensor_types: dict[str, int]


def facts(gguf: Path) -> GgufFacts:
    """Read the header of `gguf`; `tensor_types` counts its tensors by type, as in `{"Q4_K": 96}`.

    Raises FileNotFoundError, or LlamaCppFailed if the file is not a whole GGUF.
    """
    from collections import Counter

    from gguf import GGUFReader

    existing(gguf, "the GGUF to read")
    try:
        reader = GGUFReader(gguf)
    except (ValueError, IndexError, KeyError) as error:
        raise LlamaCppFailed(f"{gguf} is not a whole GGUF file: {error}") from error
    weights = [int(tensor.n_elements) for tensor in reader.tensors]
    parameters = sum(weights)
    eos = reader.fields.get("tokenizer.ggml.eos_token_id")
    weight_bytes = sum(int(tensor.n_bytes) for tensor in reader.tensors)
    return GgufFacts(
        size=gguf.stat().st_size,
        parameters=parameters,
        bits_per_weight=8 * weight_bytes / parameters,
        largest=max(weights),
        eos=eos and int(eos.contents()),
        has_chat_template="tokenizer.chat_template" in reader.fields,
        tensor_types=dict(Counter(tensor.tensor_type.name for tensor in reader.tensors)),
    )
