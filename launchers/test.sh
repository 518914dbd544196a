#!/usr/bin/env bash
# Passes the tests: style, types, then every test of the everyday suite. Sets up the environment first where needed.
#   launchers/test.sh [PYTEST ARGUMENTS]
set -euo pipefail
cd "$(dirname "$0")/.."
source launchers/environment.sh
export OMP_NUM_THREADS=1
ruff check mnmt_ds tests launchers setup.py
mypy
python -m pytest "$@"
