#!/usr/bin/env bash
# Passes the tests: style, format, types, then every test of the everyday suite (the wheel is built and run there, too).
# Sets up the environment first where needed. As many files of tests at once as there are processors, at most four;
# -n 0 runs one after another.
#   launchers/test.sh [PYTEST ARGUMENTS]
set -euo pipefail
cd "$(dirname "$0")/.."
source launchers/environment.sh
export OMP_NUM_THREADS=1
ruff check mnmt_ds tests launchers setup.py
ruff format --check mnmt_ds tests launchers setup.py
mypy
python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@"
