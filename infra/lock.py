"""Resolves pyproject.toml and writes every version with its hashes: `make lock`.

    requirements.lock          what every machine installs
    infra/cuda.lock            what torch's CUDA build needs besides
    infra/no-dependencies.txt  what is installed without what its metadata asks for
    infra/torch.txt            torch itself, the only one without hashes
    infra/<extra>.lock         what an extra needs besides: `cluster`, `lm-eval`

A version stays as it is locked while pyproject.toml allows it: delete its lines to renew it.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOCK, CUDA = ROOT / "requirements.lock", ROOT / "infra" / "cuda.lock"
BARE, TORCH = ROOT / "infra" / "no-dependencies.txt", ROOT / "infra" / "torch.txt"
EXTRAS = {name: ROOT / "infra" / f"{name}.lock" for name in ("cluster", "lm-eval")}
ONLY_CUDA = re.compile(r"cuda-|nvidia-(?!ml-py)|triton=")  # what torch alone asks for
UV = ("pip", "compile", "--quiet", "--no-header", "--no-annotate", "--generate-hashes")


def main() -> None:
    pins = [path.read_text(encoding="utf-8") for path in (LOCK, CUDA, TORCH, *EXTRAS.values())]
    project, options = ROOT / "pyproject.toml", ("--universal", "--extra", "dev")
    everything = resolved(project, "".join(pins), *options)
    torch = [entry for entry in everything if entry.startswith("torch==")]
    cuda = [entry for entry in everything if ONLY_CUDA.match(entry)]
    remaining = [entry for entry in everything if entry not in (*torch, *cuda)]
    write(LOCK, remaining)
    write(CUDA, cuda)
    for extra, lock in EXTRAS.items():
        # The rest is as for everybody: whoever adds the extra has the same versions otherwise.
        more = resolved(project, "".join([*pins, *everything]), *options, "--extra", extra)
        write(lock, [entry for entry in more if entry not in everything])
    write(BARE, resolved(BARE, "", "--no-deps"))
    write(TORCH, [entry.split()[0] + "\n" for entry in torch])


def resolved(source: Path, pins: str, *options: str) -> list[str]:
    """Return what `source` needs, one entry of several lines each; `pins` are kept if they may be.

    Ends the program with what uv says if there is no such set of versions.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "lock"
        out.write_text(pins, encoding="utf-8")
        uv = Path(sys.executable).with_name("uv")
        python = ("--python-version", "3.11")
        completed = subprocess.run(
            [uv, *UV, *options, *python, source, "--output-file", out], cwd=ROOT, check=False
        )
        if completed.returncode:
            sys.exit(completed.returncode)
        return re.findall(r"^\S.*\n(?:\s+.*\n)*", out.read_text(encoding="utf-8"), re.MULTILINE)


def write(path: Path, entries: list[str]) -> None:
    """Replace the entries in `path`, under the comment at its head."""
    head = re.match(r"(#.*\n)*", path.read_text(encoding="utf-8"))
    path.write_text(f"{head[0] if head else ''}{''.join(entries)}", encoding="utf-8")


if __name__ == "__main__":
    main()
