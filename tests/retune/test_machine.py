"""What a machine is, as its own programs tell it."""

import pytest

from retune import machine


def test_gpus_that_programs_may_use_are_asked_alone(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text(
        '#!/bin/sh\necho "$@" >> $0.calls; case "$*" in *cap*) echo 9.0;; *) echo 81089;; esac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    machine.compute_capabilities.cache_clear()
    try:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
        assert machine.compute_capabilities() == ("9.0",)
        assert machine.free_gpu_memory() == 81089 << 20
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        assert machine.free_gpu_memory() == 0
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        assert machine.free_gpu_memory() > 0
    finally:
        machine.compute_capabilities.cache_clear()
    calls = program.with_name("nvidia-smi.calls").read_text().splitlines()
    assert [("--id=1" in call) for call in calls] == [True, True, False]


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
