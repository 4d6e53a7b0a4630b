"""What a machine is, as its own programs tell it."""

import pytest

from retune import machine


@pytest.mark.parametrize(
    ("visible", "capabilities", "mib"),
    [
        (None, ("9.0", "8.6"), 81089 + 24000),
        ("1", ("8.6",), 24000),
        ("1,0", ("8.6", "9.0"), 81089 + 24000),
        ("GPU-89", ("8.6",), 24000),
        ("0,-1,1", ("9.0",), 81089),  # as CUDA reads it
        ("", (), 0),
        ("MIG-1234", (), 0),
    ],
)
def test_gpus_that_programs_may_use_are_asked_alone(
    tmp_path, monkeypatch, visible, capabilities, mib
):
    program = tmp_path / "nvidia-smi"
    lines = {"*cap*": ("9.0", "8.6"), "*": ("81089", "24000")}
    answers = "".join(
        f"{pattern}) echo '0, GPU-12ab, {first}'; echo '1, GPU-89cd, {second}';; "
        for pattern, (first, second) in lines.items()
    )
    program.write_text(f'#!/bin/sh\ncase "$*" in {answers} esac\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    machine.compute_capabilities.cache_clear()
    try:
        assert machine.compute_capabilities() == capabilities
        assert machine.free_gpu_memory() == mib << 20
    finally:
        machine.compute_capabilities.cache_clear()


@pytest.mark.parametrize(
    ("script", "gpus", "driver"),
    [
        ("echo '0, GPU-1, NVIDIA H100 80GB HBM3, 580.82'; echo '1, GPU-2, Tesla T4, 580.82'",
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
