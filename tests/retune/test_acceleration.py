"""What looks at a whole model runs on the GPU where it can, and by the CPU where it cannot.

The CPU's build stands for the GPU's: it takes the same command and leaves the GPU out.
"""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from retune import llamacpp
from retune.llamacpp import acceleration, installation, measurement
from retune.llamacpp.installation import CUDA, MEASURING, LlamaCpp, accelerated
from retune.llamacpp.process import LlamaCppFailed, LlamaCppStopped, run

try:
    llamacpp.locate()
except llamacpp.LlamaCppNotFound as missing:
    pytestmark = pytest.mark.skip(reason=str(missing))


@pytest.fixture
def gpu(monkeypatch):
    """A build for a GPU of which all memory is free, and every file is worth its while."""
    build = LlamaCpp(llamacpp.locate().root, "0", ("90",))
    monkeypatch.setattr(acceleration, "accelerated", lambda: build)
    monkeypatch.setattr(acceleration, "WORTH", 0)
    monkeypatch.setattr(acceleration, "free_gpu_memory", lambda: 80 << 30)
    return build


@pytest.fixture
def commands(monkeypatch):
    """The commands that measuring runs."""
    seen, run = [], measurement.run
    monkeypatch.setattr(
        measurement, "run", lambda command, **how: (seen.append(command), run(command, **how))[1]
    )
    return seen


on_gpu = acceleration.computes_on_gpu


def test_the_gpu_measures_the_same(gpu, commands, gguf, text, tmp_path, monkeypatch):
    measured = llamacpp.perplexity(gguf, text, 32, 1, tmp_path / "logits")
    assert llamacpp.divergence(gguf, tmp_path / "logits", 32, 1).same_top == 1
    assert [on_gpu(command) for command in commands] == [True, True]
    monkeypatch.setattr(acceleration, "accelerated", lambda: None)
    assert llamacpp.perplexity(gguf, text, 32, 1, tmp_path / "logits") == measured
    assert not on_gpu(commands[-1])


@pytest.mark.parametrize(
    "change",
    [
        {"free_gpu_memory": lambda: 1 << 20},  # another program has it
        {"WORTH": 1 << 30},  # it is read before CUDA has started
    ],
)
def test_what_has_no_room_or_is_not_worth_it_is_left_to_the_cpu(
    gpu, commands, gguf, text, tmp_path, monkeypatch, change
):
    for name, value in change.items():
        monkeypatch.setattr(acceleration, name, value)
    assert llamacpp.perplexity(gguf, text, 32, 1, tmp_path / "logits") > 1
    assert [on_gpu(command) for command in commands] == [False]


def test_what_fails_on_the_gpu_is_done_by_the_cpu(gpu, gguf, caplog):
    def work(command):
        if on_gpu(command):
            raise LlamaCppFailed("CUDA error: out of memory")
        return "by the CPU"

    assert acceleration.with_program("llama-perplexity", gguf, work) == "by the CPU"
    assert "out of memory" in caplog.text


def test_what_a_person_ends_is_not_begun_again(gpu, gguf, tmp_path):
    """Ctrl-C ends the programs too; the CPU would go on with them for hours."""
    programs = []

    def work(command):
        programs.append(command)
        return run(["sh", "-c", "kill -INT $$"])

    with pytest.raises(LlamaCppStopped, match="SIGINT"):
        acceleration.with_program("llama-perplexity", gguf, work)
    assert len(programs) == 1


def test_programs_share_the_gpu_as_far_as_there_is_room(monkeypatch):
    """Ten of 3 GiB on one of 8: two at a time, though nothing shows yet in what is free."""
    monkeypatch.setattr(acceleration, "free_gpu_memory", lambda: 8 << 30)
    memory, inside, seen = acceleration.GpuMemory(), [], []

    def work(number: int) -> bool:
        with memory.room_for(3 << 30) as fits:
            inside.append(number)
            seen.append(len(inside))
            time.sleep(0.02)
            inside.remove(number)
            return fits

    with ThreadPoolExecutor(10) as pool:
        assert all(pool.map(work, range(10)))
    assert max(seen) == 2
    with memory.room_for(9 << 30) as fits:  # never: it is not waited for
        assert not fits


def test_a_file_that_is_broken_is_broken_on_either(gpu, gguf, tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(gguf.read_bytes()[: gguf.stat().st_size // 2])
    (tmp_path / "t.txt").write_text("some text")
    with pytest.raises(LlamaCppFailed, match="corrupted or incomplete"):
        llamacpp.perplexity(broken, tmp_path / "t.txt", 32, 1, tmp_path / "logits")


def test_a_build_is_taken_only_for_the_gpus_of_this_machine(monkeypatch, tmp_path):
    record = json.loads((llamacpp.locate().root / "build.json").read_text())
    root = tmp_path / "llama.cpp"
    for folder, programs, architectures in (
        (root, installation.PROGRAMS, []),
        (root.with_name(f"llama.cpp-{CUDA}-86-90"), MEASURING, ["86", "90"]),
        (root.with_name(f"llama.cpp-{CUDA}-75"), (), ["75"]),  # not whole
    ):
        (folder / "bin").mkdir(parents=True)
        for name in programs:
            (folder / "bin" / name).touch()
        (folder / "build.json").write_text(json.dumps(record | {"architectures": architectures}))
    monkeypatch.setenv("RETUNE_LLAMACPP", str(root))

    def seen(*capabilities: str) -> str | None:
        monkeypatch.setattr(installation, "compute_capabilities", lambda: capabilities)
        build = accelerated()
        return build and build.root.name

    assert seen("9.0") == seen("9.0", "8.6") == "llama.cpp-cuda-86-90"
    assert seen() is seen("7.5") is seen("9.0", "12.0") is None
    assert str(LlamaCpp(root, "1", ("90",))) == "1 with CUDA"
    assert llamacpp.locate().root == root
