#!/usr/bin/env bash
# Creates the environment, every version from requirements.lock, the same on a CPU as on a GPU machine.
# Whatever is downloaded must have the hash that is written there, but for torch (see infra/torch.txt).
# usage: infra/install.sh PYTHON VENV
set -euo pipefail
python=$1 venv=$2 marker=.made-by-retune

"$python" - <<'CHECK'
import sys
if not (3, 11) <= sys.version_info < (3, 13):
    sys.exit(f"retune needs Python 3.11 or 3.12, this is {sys.version.split()[0]}: make PYTHON=python3.12 …")
CHECK

refuse() {
  echo "VENV=$venv $1" >&2
  exit 1
}
# What stands at $venv is erased, so it must be an environment that this script made. `.ready` is the
# Makefile's, of before there was the marker.
if [ -z "$venv" ]; then
  refuse "is empty: name a folder" # to venv that is the current one
elif [ -L "${venv%/}" ]; then
  refuse "is a link: name the folder that it leads to"
elif [ -e "$venv" ] && [ ! -d "$venv" ]; then
  refuse "is not a folder: name another"
elif [ -d "$venv" ] && [ -n "$(ls -A -- "$venv")" ]; then
  [ -e "$venv/$marker" ] || { [ -e "$venv/.ready" ] && [ -e "$venv/pyvenv.cfg" ]; } ||
    refuse "is a folder that \`make env\` did not make, and would be erased: name another, or a new one"
fi

echo "Installing into $venv (minutes, once)"
"$python" -m venv --clear -- "$venv"
touch -- "$venv/$marker"
pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps)
# First by itself: pip then takes a CPU build of this version where it finds one.
"${pip[@]}" --requirement infra/torch.txt
locks=(--requirement requirements.lock --requirement infra/no-dependencies.txt)
if "$venv/bin/python" -c '
import sys
from importlib.metadata import requires
sys.exit(not any(name.startswith(("nvidia-", "cuda-")) for name in requires("torch") or []))
'; then
  locks+=(--requirement infra/cuda.lock)
fi
# Wheels only: what is built would first fetch what builds it, and that without asking for hashes.
"${pip[@]}" --require-hashes --only-binary :all: "${locks[@]}"
# setuptools, which builds it, is in the lock.
"${pip[@]}" --no-build-isolation --no-index --editable .
