"""The benchmarks run, and what they compare does the same."""

import json

import pytest

from benchmarks import gate, packing, two_gpus

pytestmark = pytest.mark.proof


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    # Not by the environment: a library that is loaded meanwhile would keep it for the next tests.
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setattr("benchmarks.made_up.cache_dir", lambda: folder)


def test_the_gate_and_the_loop_agree_on_every_row(capsys):
    gate.run(600, 600, repeats=1, flawed_share=0.02)
    printed = capsys.readouterr().out
    assert "| all |" in printed
    record = json.loads(printed.splitlines()[-1])
    assert record["ours"][0]["outcome"] == record["loop"][0]["outcome"]
    assert all(
        differ == 0 for flaw, (_, _, differ) in record["counts"].items() if flaw != "near_duplicate"
    )
    assert sum(ours > 0 for ours, _, _ in record["counts"].values()) > 5


def test_packing_gives_the_same_tokens_as_trl(capsys):
    packing.run(400, repeats=1)
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["tokens"] > 100_000


def test_a_step_is_taken_apart_by_its_kernels():
    spans = [
        ("kernel", "nvjet_tst_gemm", 0, 2000),
        ("kernel", "ncclDevKernel_AllReduce", 1000, 3000),
        ("cpu_op", "aten::mm", 0, 9000),
        ("kernel", "void multi_tensor_apply_kernel", 6000, 2000),
    ]
    events = [dict(zip(("cat", "name", "ts", "dur"), span, strict=True)) for span in spans]
    kinds = {"matmul": 1.0, "nccl": 1.5, "optimizer": 1.0}
    assert two_gpus.account(events, steps=2) == two_gpus.Account(4.0, kinds, 1.0, 1.0)
