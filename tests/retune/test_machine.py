"""What a machine is, as its own programs tell it."""

import pytest

from retune import machine


@pytest.mark.parametrize(
    ("script", "gpus", "driver"),
    [
        ("echo 'NVIDIA H100 80GB HBM3, 580.82'; echo 'Tesla T4, 580.82'",
         ("NVIDIA H100 80GB HBM3", "Tesla T4"), "580.82"),
        ("echo 'Driver/library version mismatch'; exit 18", (), None),
    ],
)  # fmt: skip
def test_gpus_and_driver_are_those_that_nvidia_smi_lists(
    tmp_path, monkeypatch, script, gpus, driver
):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    machine._cards.cache_clear()
    try:
        described = machine.this_machine()
    finally:
        machine._cards.cache_clear()
    assert (described.gpus, described.driver) == (gpus, driver)
    assert described.cpu
    assert described.cores == machine.cores()
