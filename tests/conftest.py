"""What all tests share. Nothing reaches the internet: the Hugging Face Hub is on the loopback."""

import os
import tempfile
from pathlib import Path

import pytest

from tests.hub import Hub

# Scripts that tests start by themselves import the project's packages, which an installation keeps to
# its own processes.
os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])

# huggingface_hub and datasets read these at import, so they are set before any test is loaded.
_HUB = Hub()
_HUB.start()
_HUGGINGFACE_HOME = tempfile.TemporaryDirectory(prefix="retune-hf-")
os.environ |= {
    "HF_ENDPOINT": _HUB.endpoint,
    "HF_HOME": _HUGGINGFACE_HOME.name,
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_XET": "1",  # the loopback Hub speaks plain HTTP
}
os.environ.pop("HF_TOKEN", None)


@pytest.fixture
def hub() -> Hub:
    """The loopback Hub, empty; every library in this process and its children talks to it."""
    _HUB.reset()
    return _HUB
