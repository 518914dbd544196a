#!/usr/bin/env bash
# Passes tests on the oldest versions that pyproject.toml allows, in an environment of its own (.venv-lower, made once).
#   launchers/test_lower_bounds.sh [PYTEST ARGUMENTS]      default: the everyday suite
# Takes gigabytes where the oldest torch has no CPU build of its own in the package index.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ ! -f .venv-lower/.complete ]; then
  [ -x .venv-lower/bin/python ] || python3 -m venv .venv-lower
  .venv-lower/bin/pip install --upgrade pip 'setuptools>=77' wheel uv
  export VIRTUAL_ENV=$PWD/.venv-lower
  lowest() { .venv-lower/bin/uv pip install --no-build-isolation --resolution lowest-direct "$@"; }
  lowest 'torch>=2.11,<2.14' 'numpy>=2.0' 'ninja>=1.11'     # DeepSpeed is built from source against an installed torch
  lowest -e '.[huggingface,export,peers]'
  .venv-lower/bin/uv pip install --no-build-isolation -e '.[test]' # tools that only look at the code: as they come
  touch .venv-lower/.complete
fi
source .venv-lower/bin/activate
export OMP_NUM_THREADS=1 DS_ACCELERATOR=${DS_ACCELERATOR:-$(python -c 'import torch; print("cuda" if torch.cuda.is_available() else "cpu")')}
python -m pytest "$@"
