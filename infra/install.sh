#!/usr/bin/env bash
# Creates the environment, every version from requirements.lock, the same on a CPU as on a GPU machine.
# usage: infra/install.sh PYTHON VENV
set -euo pipefail
python=$1 venv=$2

"$python" - <<'CHECK'
import sys
if not (3, 11) <= sys.version_info < (3, 13):
    sys.exit(f"retune needs Python 3.11 or 3.12, this is {sys.version.split()[0]}: make PYTHON=python3.12 …")
CHECK

echo "Installing into $venv (minutes, once)"
"$python" -m venv --clear "$venv"
pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check)
# First by itself: pip then takes a CPU build of this version where it finds one.
"${pip[@]}" --constraint requirements.lock torch
"${pip[@]}" --constraint requirements.lock --editable '.[dev]'
"${pip[@]}" --no-deps --requirement infra/no-dependencies.txt
