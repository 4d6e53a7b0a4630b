"""What `retune doctor` looks at: each check gives the state and, if need be, how to repair it.

Nothing heavy is imported and nothing is changed, so that it also works where the rest does not.
"""

import http.client
import os
import platform
import re
import shlex
import shutil
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from retune.access import other_users, sign_in, sign_in_file, status, ui_server
from retune.errors import RetuneError
from retune.home import BadName, NotOurs, cache_dir, home, own_home
from retune.llamacpp import LlamaCppNotFound, locate
from retune.llamacpp.installation import COMPILERS, INSTALL_COMPILER
from retune.store.place import store
from retune.store.sharing import require_store
from retune.tracking import tracking_uri

SHOWN = ("torch", "transformers", "trl", "peft", "unsloth", "datasets", "prefect", "mlflow")
DISK_FOR_8B = 22  # GB; the 16-bit checkpoint alone is 16
DISK_FOR_TOOLS = 2  # GB; a build of llama.cpp, and its source during it
MEMORY_FOR_8B = 12  # GiB; next to a GPU merging holds a shard, quantizing a tensor in 32 bits
PATIENCE = 0.5  # seconds for a server to answer


@dataclass(frozen=True)
class MachineCheck:
    """One finding. `ok` None is a note: worth knowing, in nobody's way.

    `fix` is one sentence, for when `ok` is not True.
    """

    name: str
    ok: bool | None
    state: str
    fix: str = ""


def checks() -> list[MachineCheck]:
    """Look at this machine and return one MachineCheck per question, in the order to repair them."""
    return [
        check_python(sys.version_info[:2]),
        check_packages(requirements()),
        check_gpu(torch_version=_version("torch") or ""),
        check_memory(memory()),
        check_disk("work folder", home(), "RETUNE_HOME", DISK_FOR_8B),
        check_privacy(),
        check_disk("tool cache", cache_dir(), "XDG_CACHE_HOME", DISK_FOR_TOOLS),
        check_llamacpp(),
        check_compiler(),
        check_token(),
        check_store(),
        check_sign_in(),
        check_other_users(other_users()),
        check_prefect(),
        check_mlflow(),
    ]


def check_python(version: tuple[int, int]) -> MachineCheck:
    ok = (3, 11) <= version < (3, 13)
    fix = "Make the environment with Python 3.11 or 3.12: `make env PYTHON=python3.12`."
    return MachineCheck("Python", ok, f"{platform.python_version()}, {sys.executable}", fix)


def requirements() -> list[str]:
    """Return what this project's metadata asks for, e.g. `fastapi<0.151`; [] if not installed."""
    try:
        return [*(metadata.requires("retune") or []), "unsloth"]
    except metadata.PackageNotFoundError:
        return []


def check_packages(expected: list[str]) -> MachineCheck:
    """Compare what is installed with `expected`; optional ones are left out."""
    from packaging.requirements import Requirement

    fix = "Make the environment anew: `make env`."
    if not expected:
        return MachineCheck("packages", False, "retune itself is not installed", fix)
    parsed = [Requirement(text) for text in expected]
    needed = [need for need in parsed if not need.marker or need.marker.evaluate({"extra": ""})]
    missing = [need.name for need in needed if not _version(need.name)]
    wrong = [
        f"{need.name} {version} where {need.specifier} is needed"
        for need in needed
        if (version := _version(need.name))
        and not need.specifier.contains(version, prereleases=True)
    ]
    if missing or wrong:
        problems = [*wrong, *([f"missing: {', '.join(missing)}"] if missing else [])]
        return MachineCheck("packages", False, "; ".join(problems), fix)
    versions = ", ".join(f"{name} {version}" for name in SHOWN if (version := _version(name)))
    return MachineCheck("packages", True, versions)


def check_gpu(torch_version: str) -> MachineCheck:
    """Ask nvidia-smi; a GPU next to a CPU build of torch is a problem, no GPU is a note."""
    if not shutil.which("nvidia-smi"):
        return MachineCheck(
            "GPU", None, "none: training runs on the CPU, fine for small models only"
        )
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (subprocess.SubprocessError, OSError) as error:
        message = (getattr(error, "stdout", "") or str(error)).strip()
        return MachineCheck(
            "GPU", False, message, "Repair the NVIDIA driver: `nvidia-smi` must list the GPU."
        )
    gpus = "; ".join(answer.stdout.splitlines())
    if torch_version.endswith("+cpu"):
        fix = "Install the CUDA build of the same version, see https://pytorch.org/get-started."
        return MachineCheck("GPU", False, f"{gpus}, but torch {torch_version} cannot use it", fix)
    return MachineCheck("GPU", True, gpus)


def memory() -> float:
    """Return the memory that this process may use, in GiB: the machine's, or its container's."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):  # no container, or "max"
        limit = installed
    return min(installed, limit) / 2**30


def check_memory(gib: float) -> MachineCheck:
    ok = True if gib >= MEMORY_FOR_8B else None
    fix = f"The demo fits; to merge an 8B model take a machine with {MEMORY_FOR_8B} GiB or more."
    return MachineCheck("memory", ok, f"{gib:.1f} GiB", fix)


def check_disk(name: str, folder: Path, variable: str, needed: float) -> MachineCheck:
    """Look at the disk of `folder`, which need not exist yet; `variable` moves it elsewhere.

    Less than `needed` GB is a note, since small models need less; less than one is a problem.
    """
    parent = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(parent, os.W_OK):
        fix = f"Make it writable, or set {variable} to a folder that is."
        return MachineCheck(name, False, f"{folder} cannot be written", fix)
    free = shutil.disk_usage(parent).free / 1e9
    ok = (True if free >= needed else None) if free >= 1 else False
    fix = f"Free {needed} GB for large models, or set {variable} to a folder on a larger disk."
    return MachineCheck(name, ok, f"{folder}, {free:,.1f} GB free", fix)


def check_privacy() -> MachineCheck:
    """Look at who may read the home folder, which is made for its owner alone.

    Wider permissions are a note: a team may share a folder on purpose.
    """
    name = "home folder"
    try:
        folder = own_home()
    except (NotOurs, BadName) as error:
        problem, _, fix = str(error).partition("; ")
        return MachineCheck(name, False, problem, f"{fix[:1].upper()}{fix[1:]}.")
    if not folder.exists():
        return MachineCheck(name, True, f"{folder}, made by the first run for you alone")
    facts = folder.stat()
    mode = stat.S_IMODE(facts.st_mode)
    if facts.st_uid != os.geteuid():
        fix = "Set RETUNE_HOME to a folder of your own."
        return MachineCheck(
            name, None, f"{folder} belongs to another user (id {facts.st_uid})", fix
        )
    if mode & 0o077:
        fix = f"Datasets, quarantined rows and logs lie there: `chmod 700 {shlex.quote(str(folder))}`."
        return MachineCheck(name, None, f"{folder} is open to other users (mode {mode:03o})", fix)
    return MachineCheck(name, True, f"{folder}, for you alone (mode {mode:03o})")


def check_llamacpp() -> MachineCheck:
    try:
        installation = locate()
    except LlamaCppNotFound as error:
        problem, _, fix = str(error).partition(": ")
        return MachineCheck("llama.cpp", False, problem, f"{fix[:1].upper()}{fix[1:]}.")
    return MachineCheck("llama.cpp", True, f"{installation}, {installation.root}")


def check_compiler() -> MachineCheck:
    """Look for a C++ compiler; without one llama.cpp can't be built."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else COMPILERS
    compiler = next((path for name in names if (path := shutil.which(name))), None)
    if compiler:
        return MachineCheck("C++ compiler", True, compiler)
    fix = f"{INSTALL_COMPILER[0].upper()}{INSTALL_COMPILER[1:]}."
    return MachineCheck("C++ compiler", None, f"none (looked for {', '.join(names)})", fix)


def check_token() -> MachineCheck:
    from huggingface_hub import get_token

    if get_token():
        return MachineCheck("Hub token", True, "present")
    fix = "To publish, or read private data, set HF_TOKEN or run `hf auth login`."
    return MachineCheck("Hub token", None, "none", fix)


def check_store() -> MachineCheck:
    """Ask the store of outputs, if there is to be one."""
    try:
        require_store()
    except RetuneError as error:
        problem, _, fix = str(error).rpartition(": ")
        return MachineCheck("store", False, problem, fix)
    shared = store()
    if shared is None:
        return MachineCheck("store", None, "none (RETUNE_STORE): outputs stay on this machine")
    return MachineCheck("store", True, shared.address)


def check_sign_in() -> MachineCheck:
    """Look at the file with the password of this home's servers, which is not shown."""
    path = sign_in_file()
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return MachineCheck(
            "sign-in", True, "none yet: the first start of a Prefect server makes one"
        )
    if facts.st_uid == os.getuid() and stat.S_IMODE(facts.st_mode) == 0o600:
        return MachineCheck("sign-in", True, f"{path}, readable by you only")
    state = f"{path} has owner {facts.st_uid} and mode {stat.S_IMODE(facts.st_mode):o}"
    return MachineCheck(
        "sign-in", False, state, "Remove it and start `make ui` again: it makes a new one."
    )


def check_other_users(users: list[str]) -> MachineCheck:
    """Where a machine has other users MLflow needs a sign-in too, and a package for that."""
    if not users:
        return MachineCheck("other users", True, "none: MLflow's pages need no password")
    names = ", ".join(users[:5]) + (" …" if len(users) > 5 else "")
    if find_spec("flask_wtf"):
        return MachineCheck("other users", True, f"{names}: MLflow's pages ask for the sign-in")
    fix = f"Make the environment anew (`make env`), or `{sys.executable} -m pip install flask-wtf`."
    return MachineCheck("other users", False, f"{names}, and MLflow's sign-in lacks flask-wtf", fix)


def check_prefect() -> MachineCheck:
    """Ask the Prefect server that runs would use, with and without its sign-in."""
    url = os.environ.get("PREFECT_API_URL")
    if url:
        check = _check_server("Prefect", url, "Start that server, or unset PREFECT_API_URL.")
        credentials = os.environ.get("PREFECT_API_AUTH_STRING")
        is_cloud = bool(os.environ.get("PREFECT_API_KEY"))
        return check if is_cloud or not check.ok else _check_prefect_sign_in(url, credentials)
    running = ui_server()
    # One that is not as it should be would be replaced by asking for it; here nothing is changed.
    if running and sign_in_file().is_file() and check_sign_in().ok:
        return _check_prefect_sign_in(running, sign_in())
    return MachineCheck(
        "Prefect", True, "no PREFECT_API_URL: `make ui`'s server, or one for each run"
    )


def _check_prefect_sign_in(url: str, credentials: str | None) -> MachineCheck:
    address, private = _without_password(url), f"{url.rstrip('/')}/admin/version"
    without, with_own = status(private), status(private, credentials)
    if without == 200:
        fix = (
            "Start that server with PREFECT_SERVER_API_AUTH_STRING=name:password, and set the same "
            "here as PREFECT_API_AUTH_STRING."
        )
        state = f"{address} asks for no sign-in: whoever reaches it runs commands on its workers"
        return MachineCheck("Prefect", None, state, fix)
    if with_own == 200:
        return MachineCheck("Prefect", True, f"{address}, with a sign-in")
    refusal = "does not take PREFECT_API_AUTH_STRING" if credentials else "asks for a sign-in"
    fix = "Set PREFECT_API_AUTH_STRING to what that server has as PREFECT_SERVER_API_AUTH_STRING."
    return MachineCheck("Prefect", False, f"{address} {refusal} (HTTP {with_own})", fix)


def check_mlflow() -> MachineCheck:
    uri = tracking_uri()
    if not uri.startswith(("http://", "https://")):
        return MachineCheck("MLflow", True, _without_password(uri))
    return _check_server("MLflow", uri, "Start that server, or unset MLFLOW_TRACKING_URI.")


def _check_server(name: str, url: str, fix: str) -> MachineCheck:
    address = _without_password(url)
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=PATIENCE):
            return MachineCheck(name, True, address)
    except urllib.error.HTTPError as error:  # it is there, and wants a sign-in, say
        return MachineCheck(name, None, f"{address} answers with HTTP {error.code}", fix)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        return MachineCheck(name, False, f"{address} does not answer ({reason})", fix)


def _without_password(url: str) -> str:
    return re.sub(r"://[^/@]*@", "://", url)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
