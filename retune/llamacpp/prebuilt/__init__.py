"""Stand-ins for llama.cpp's programs where nothing can be compiled, on the wheel `xllamacpp`.

That wheel holds llama.cpp's library whole, but no programs and nothing of its quantizer beyond the
kernels that pack a row. Each stand-in is a script that takes the arguments which retune gives to
the program, and prints the lines which retune reads of it: the callers need not know.

What they can't do is LIMITS; all else is the same job with the same tensors.
"""

from pathlib import Path

PACKAGE = "xllamacpp"
# Architectures that have no rule of their own in llama.cpp's quantizer.
DENSE = (
    "llama",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3",
    "phi3",
    "granite",
    "olmo2",
    "smollm3",
)
LIMITS = f"it quantizes dense models only ({', '.join(DENSE)}), and not by q2_0"
SCRIPTS = {
    "llama-quantize": Path(__file__).with_name("quantizer.py"),
    "llama-imatrix": Path(__file__).with_name("calibrator.py"),
    "llama-perplexity": Path(__file__).with_name("scorer.py"),
    "retune-tokenize": Path(__file__).with_name("tokenizer.py"),
}
