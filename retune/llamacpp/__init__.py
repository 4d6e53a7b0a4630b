"""What the pipeline needs of llama.cpp: convert, quantize, measure, tokenize, answer.

Each call runs llama.cpp in a child process: its chatter stays out of the caller's log, and a crash
is one failed call.
"""

from retune.llamacpp.answering import Answer, AnsweringFailed, answers
from retune.llamacpp.conversion import DTYPES, ConversionFailed, convert
from retune.llamacpp.header import GgufFacts, facts
from retune.llamacpp.installation import LlamaCpp, LlamaCppNotFound, locate
from retune.llamacpp.measurement import (
    Divergence,
    Perplexity,
    TextTooShort,
    divergence,
    perplexity,
)
from retune.llamacpp.process import LlamaCppFailed
from retune.llamacpp.quantization import METHODS, quantize
from retune.llamacpp.tokens import tokenize

__all__ = [
    "DTYPES",
    "METHODS",
    "Answer",
    "AnsweringFailed",
    "ConversionFailed",
    "Divergence",
    "GgufFacts",
    "LlamaCpp",
    "LlamaCppFailed",
    "LlamaCppNotFound",
    "Perplexity",
    "TextTooShort",
    "answers",
    "convert",
    "divergence",
    "facts",
    "locate",
    "perplexity",
    "quantize",
    "tokenize",
]
