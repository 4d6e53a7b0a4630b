"""A tiny random Llama as a checkpoint and as a GGUF, for the tests of llama.cpp; MLflow's stores."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

from retune import llamacpp, tracking
from retune.llamacpp import converter
from retune.probes import PROBES
from tests.databases import MLFLOW, furnish_mlflow, working_in

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = "\n".join(
    f"<|im_start|>user\nWhat is {n} times {n + 1}?<|im_end|>\n"
    f"<|im_start|>assistant\nIt is {n * (n + 1)}, as anyone can work out.<|im_end|>"
    for n in range(40)
)


def bpe_tokenizer(regex: str):
    """Return a byte-level BPE tokenizer of 700 tokens that cuts text by `regex`."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    cut = pre_tokenizers.Split(Regex(regex), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT, *PROBES], trainer)
    return tokenizer


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A random two-layer Llama whose matrices have rows of 256, saved by transformers."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe_tokenizer(converter.LLAMA3_REGEX),
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    tokenizer.chat_template = CHATML
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def gguf(checkpoint, tmp_path_factory) -> Path:
    """The checkpoint as a bf16 GGUF."""
    out = tmp_path_factory.mktemp("gguf") / "tiny.bf16.gguf"
    before = {path: path.stat().st_mtime_ns for path in checkpoint.iterdir()}
    llamacpp.convert(checkpoint, out)
    assert {path: path.stat().st_mtime_ns for path in checkpoint.iterdir()} == before
    assert list(out.parent.iterdir()) == [out]
    return out


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "held-out.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """MLflow's own server, as `mlflow server` starts it; its address.

    RETUNE_TEST_MLFLOW names another one that is empty, such as one on PostgreSQL.
    """
    if address := os.environ.get("RETUNE_TEST_MLFLOW"):
        yield address
        return
    folder = furnish_mlflow(tmp_path_factory.mktemp("server"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = ("--backend-store-uri", f"sqlite:///{folder / MLFLOW}")
    places += ("--artifacts-destination", str(folder / "artifacts"))
    command = [Path(sys.executable).with_name("mlflow"), "server", *places]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )
        address = f"http://127.0.0.1:{port}"
        try:
            for _ in range(240):
                assert process.poll() is None, (folder / "log").read_text()
                with suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5):
                    break
                time.sleep(0.25)
            yield address
        finally:
            process.terminate()
            process.wait(timeout=30)


# A server is a proof, but for the test of a whole run, which is slow.
@pytest.fixture(params=["sqlite", pytest.param("server", marks=pytest.mark.proof)])
def client(request, tmp_path, monkeypatch):
    """MLflow's client of the embedded store, and of a server."""
    with working_in(monkeypatch, furnish_mlflow(tmp_path)):
        if request.param == "server":
            monkeypatch.setenv("MLFLOW_TRACKING_URI", request.getfixturevalue("server"))
        yield tracking.client()
