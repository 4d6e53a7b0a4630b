"""What the pipeline needs of llama.cpp: convert, calibrate, quantize, measure, tokenize, answer.

Each call runs llama.cpp in a child process: its chatter stays out of the caller's log, and a crash
is one failed call.
"""

from retune.llamacpp.answering import Answer, Answered, AnsweringFailed, answers
from retune.llamacpp.calibration import calibrate
from retune.llamacpp.choices import Choice, first_choices
from retune.llamacpp.conversion import (
    DTYPES,
    ConversionFailed,
    TokenProbe,
    convert,
    embeddings,
    require_same_tokens,
)
from retune.llamacpp.header import GgufFacts, facts, header
from retune.llamacpp.installation import LlamaCpp, LlamaCppNotFound, accelerated, locate
from retune.llamacpp.measurement import (
    Divergence,
    KeptLogits,
    TextTooShort,
    divergence,
    perplexity,
)
from retune.llamacpp.process import LlamaCppFailed, LlamaCppStopped
from retune.llamacpp.quantization import quantize, quantized_size
from retune.llamacpp.tokens import token_arrays, tokenize

__all__ = [
    "DTYPES",
    "Answer",
    "Answered",
    "AnsweringFailed",
    "Choice",
    "ConversionFailed",
    "Divergence",
    "GgufFacts",
    "KeptLogits",
    "LlamaCpp",
    "LlamaCppFailed",
    "LlamaCppNotFound",
    "LlamaCppStopped",
    "TextTooShort",
    "TokenProbe",
    "accelerated",
    "answers",
    "calibrate",
    "convert",
    "divergence",
    "embeddings",
    "facts",
    "first_choices",
    "header",
    "locate",
    "perplexity",
    "quantize",
    "quantized_size",
    "require_same_tokens",
    "token_arrays",
    "tokenize",
]
