"""llama.cpp's C interface in the wheel `xllamacpp`, as much of it as the stand-ins call.

Its structs differ from one llama.cpp to the next, and a wrong layout would not fail but compute
something else. `library` therefore refuses to go on unless the defaults stand where they should.
The layouts are those of `include/llama.h` and `ggml/include/ggml.h` of llama.cpp b11549.
"""

import ctypes
import sys
from collections.abc import Callable, Iterator
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int32, c_int64, c_size_t, c_void_p
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy as np

ERROR = 4  # of llama.cpp's log levels
TENSOR_SIZE, OBJECT_SIZE = 336, 32  # bytes of a ggml_tensor, and of the list entry before it


class Refused(ValueError):
    """A stand-in can't do it, or llama.cpp would not; the message says why."""


class ModelParams(ctypes.Structure):
    """llama_model_params."""

    _fields_ = (
        ("devices", c_void_p),
        ("tensor_buft_overrides", c_void_p),
        ("n_gpu_layers", c_int32),
        ("split_mode", c_int32),
        ("load_mode", c_int32),
        ("lazy_mode", c_int32),
        ("main_gpu", c_int32),
        ("tensor_split", c_void_p),
        ("progress_callback", c_void_p),
        ("progress_callback_user_data", c_void_p),
        ("kv_overrides", c_void_p),
        ("vocab_only", c_bool),
        ("check_tensors", c_bool),
        ("use_extra_bufts", c_bool),
        ("no_host", c_bool),
        ("no_alloc", c_bool),
        ("load_mtp", c_bool),
    )
    DEFAULTS: ClassVar[dict[str, int | float]] = {
        "n_gpu_layers": -1,
        "split_mode": 1,
        "load_mode": -1,
        "lazy_mode": 1,
        "main_gpu": 0,
        "vocab_only": False,
        "check_tensors": False,
        "use_extra_bufts": True,
        "no_alloc": False,
    }


class ContextParams(ctypes.Structure):
    """llama_context_params."""

    _fields_ = (
        ("n_ctx", c_int32),
        ("n_batch", c_int32),
        ("n_ubatch", c_int32),
        ("n_seq_max", c_int32),
        ("n_rs_seq", c_int32),
        ("n_outputs_max", c_int32),
        ("n_outputs_max_per_seq", c_int32),
        ("n_threads", c_int32),
        ("n_threads_batch", c_int32),
        ("ctx_type", c_int32),
        ("rope_scaling_type", c_int32),
        ("pooling_type", c_int32),
        ("attention_type", c_int32),
        ("flash_attn_type", c_int32),
        ("rope_freq_base", c_float),
        ("rope_freq_scale", c_float),
        ("yarn", c_float * 4),
        ("yarn_orig_ctx", c_int32),
        ("defrag_thold", c_float),
        ("cb_eval", c_void_p),
        ("cb_eval_user_data", c_void_p),
        ("type_k", c_int32),
        ("type_v", c_int32),
        ("abort_callback", c_void_p),
        ("abort_callback_data", c_void_p),
        ("unnamed", c_int64),  # newer than any header at hand; kept as the library fills it in
        ("embeddings", c_bool),
        ("offload_kqv", c_bool),
        ("no_perf", c_bool),
        ("op_offload", c_bool),
        ("swa_full", c_bool),
        ("kv_unified", c_bool),
        ("samplers", c_void_p),
        ("n_samplers", c_size_t),
        ("ctx_other", c_void_p),
    )
    DEFAULTS: ClassVar[dict[str, int | float]] = {
        "n_ctx": 512,
        "n_batch": 2048,
        "n_ubatch": 512,
        "n_seq_max": 1,
        "n_outputs_max_per_seq": 1,
        "n_threads": 4,
        "n_threads_batch": 4,
        "rope_scaling_type": -1,
        "flash_attn_type": -1,
        "defrag_thold": -1.0,
        "type_k": 1,
        "type_v": 1,
        "embeddings": False,
        "offload_kqv": True,
        "op_offload": True,
        "swa_full": True,
        "kv_unified": False,
    }


class Batch(ctypes.Structure):
    """llama_batch; without positions and sequences, the tokens follow on the ones before."""

    _fields_ = (
        ("n_tokens", c_int32),
        ("token", c_void_p),
        ("embd", c_void_p),
        ("pos", c_void_p),
        ("n_seq_id", c_void_p),
        ("seq_id", c_void_p),
        ("logits", c_void_p),
    )


class Tensor(ctypes.Structure):
    """ggml_tensor."""


Tensor._fields_ = (
    ("type", c_int32),
    ("buffer", c_void_p),
    ("ne", c_int64 * 4),
    ("nb", c_size_t * 4),
    ("op", c_int32),
    ("op_params", c_int32 * 16),
    ("flags", c_int32),
    ("src", POINTER(Tensor) * 10),
    ("view_src", c_void_p),
    ("view_offs", c_size_t),
    ("data", c_void_p),
    ("name", ctypes.c_char * 64),
    ("extra", c_void_p),
    ("padding", ctypes.c_char * 8),
)

LogCallback = ctypes.CFUNCTYPE(None, c_int32, c_char_p, c_void_p)
EvalCallback = ctypes.CFUNCTYPE(c_bool, POINTER(Tensor), c_bool, c_void_p)
SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "llama_log_set": (None, (LogCallback, c_void_p)),
    "llama_backend_init": (None, ()),
    "llama_model_default_params": (ModelParams, ()),
    "llama_context_default_params": (ContextParams, ()),
    "llama_model_load_from_file": (c_void_p, (c_char_p, ModelParams)),
    "llama_init_from_model": (c_void_p, (c_void_p, ContextParams)),
    "llama_free": (None, (c_void_p,)),
    "llama_model_get_vocab": (c_void_p, (c_void_p,)),
    "llama_vocab_n_tokens": (c_int32, (c_void_p,)),
    "llama_vocab_get_add_bos": (c_bool, (c_void_p,)),
    "llama_vocab_bos": (c_int32, (c_void_p,)),
    "llama_tokenize": (
        c_int32,
        (c_void_p, c_char_p, c_int32, c_void_p, c_int32, c_bool, c_bool),
    ),
    "llama_get_memory": (c_void_p, (c_void_p,)),
    "llama_memory_clear": (None, (c_void_p, c_bool)),
    "llama_decode": (c_int32, (c_void_p, Batch)),
    "llama_get_logits_ith": (POINTER(c_float), (c_void_p, c_int32)),
    "ggml_tensor_overhead": (c_size_t, ()),
    "ggml_op_name": (c_char_p, (c_int32,)),
    "ggml_quantize_chunk": (
        c_size_t,
        (c_int32, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p),
    ),
    "ggml_validate_row_data": (c_bool, (c_int32, c_void_p, c_size_t)),
}


@LogCallback
def _only_errors(level: int, text: bytes, _: Any) -> None:
    if level == ERROR:
        sys.stderr.write(text.decode(errors="replace"))


@cache
def library() -> ctypes.CDLL:
    """Load the wheel's library and declare what is called of it.

    Ends the process with a message if its structs are not laid out as they are here.
    """
    import xllamacpp

    loaded = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(loaded, name, None)
        if function is None:
            sys.exit(unknown_layout(xllamacpp.__version__, f"{name} is missing"))
        function.restype, function.argtypes = result, arguments
    require_defaults(loaded.llama_model_default_params(), xllamacpp.__version__)
    require_defaults(loaded.llama_context_default_params(), xllamacpp.__version__)
    if loaded.ggml_tensor_overhead() != OBJECT_SIZE + TENSOR_SIZE:
        sys.exit(unknown_layout(xllamacpp.__version__, "ggml_tensor has another size"))
    loaded.llama_log_set(_only_errors, None)
    loaded.llama_backend_init()
    return loaded


def require_defaults(params: ModelParams | ContextParams, version: str) -> None:
    """End the process unless the fields of `params` hold llama.cpp's defaults."""
    seen = {name: getattr(params, name) for name in params.DEFAULTS}
    if seen != params.DEFAULTS:
        name = type(params).__name__
        sys.exit(unknown_layout(version, f"{name} reads {seen} instead of {params.DEFAULTS}"))


def unknown_layout(version: str, what: str) -> str:
    """Return what to say of an xllamacpp that is not the one this was written for."""
    return (
        f"xllamacpp {version} is not laid out as retune knows it ({what}): install the version in"
        " requirements.lock, or a C++ compiler and run `make llamacpp`"
    )


class Model:
    """A GGUF loaded on the CPU; it is freed when the process ends."""

    def __init__(self, gguf: Path, *, vocab_only: bool = False, check_tensors: bool = False):
        self._library = library()
        params = self._library.llama_model_default_params()
        params.n_gpu_layers = 0
        params.vocab_only, params.check_tensors = vocab_only, check_tensors
        self._model = self._library.llama_model_load_from_file(bytes(gguf), params)
        if not self._model:
            sys.exit(f"llama.cpp could not load {gguf}")
        self._vocabulary = self._library.llama_model_get_vocab(self._model)

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return self._library.llama_vocab_n_tokens(self._vocabulary)

    def tokenize(self, text: bytes, *, add_special: bool, parse_special: bool) -> "np.ndarray":
        """Return the token ids (int32) of a text in UTF-8."""
        import numpy as np

        ids = np.empty(len(text) + 8, np.int32)  # a token is a byte or more, plus BOS and EOS
        how = (self._vocabulary, text, len(text))
        special = (add_special, parse_special)
        count = self._library.llama_tokenize(*how, ids.ctypes.data, len(ids), *special)
        if count < 0:  # then it is minus the number that there are
            ids = np.empty(-count, np.int32)
            count = self._library.llama_tokenize(*how, ids.ctypes.data, len(ids), *special)
        return ids[:count]

    def logits(
        self,
        chunks: "np.ndarray",
        first: int,
        threads: int,
        watch: Callable[[Any, bool, Any], bool] | None = None,
    ) -> Iterator["np.ndarray"]:
        """Yield the logits (float32: token, vocabulary) of each chunk from its token `first` on.

        `chunks` are token ids (int32: chunk, token), each read by itself and, if the GGUF asks for
        it, with BOS for its first token. An array is valid until the next. `watch` is an
        EvalCallback. Ends the process if llama.cpp can't compute.
        """
        import numpy as np

        _, context = chunks.shape
        state = self._context(context, threads, watch)
        wanted = (np.arange(context) >= first).astype(np.int8)
        for chunk in chunks:
            tokens = np.ascontiguousarray(chunk, np.int32).copy()
            if self._library.llama_vocab_get_add_bos(self._vocabulary):
                tokens[0] = self._library.llama_vocab_bos(self._vocabulary)
            self._library.llama_memory_clear(self._library.llama_get_memory(state), True)
            batch = Batch(n_tokens=context, token=tokens.ctypes.data, logits=wanted.ctypes.data)
            if status := self._library.llama_decode(state, batch):
                sys.exit(f"llama.cpp failed to decode (status {status})")
            row = self._library.llama_get_logits_ith(state, first)
            yield np.ctypeslib.as_array(row, (context - first, self.vocabulary))
        self._library.llama_free(state)

    def _context(self, tokens: int, threads: int, watch: Any) -> int:
        params = self._library.llama_context_default_params()
        params.n_ctx = params.n_batch = tokens
        params.offload_kqv = params.op_offload = False  # the measures are the CPU's everywhere
        params.n_outputs_max_per_seq = 0  # as many as there are tokens
        params.n_threads = params.n_threads_batch = threads
        if watch:
            params.cb_eval = ctypes.cast(watch, c_void_p)
        state = self._library.llama_init_from_model(self._model, params)
        if not state:
            sys.exit(f"llama.cpp could not make room for a context of {tokens} tokens")
        return state
