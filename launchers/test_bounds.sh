#!/usr/bin/env bash
# Passes tests on the oldest or the newest versions that pyproject.toml allows, in an environment of its own.
#   launchers/test_bounds.sh lowest|highest [PYTEST ARGUMENTS]      default: the everyday suite
# The environment (.venv-lowest, .venv-highest) is made once; remove it to take versions anew. Takes gigabytes where a torch
# has no CPU build of its own in the package index.
set -euo pipefail
bound=${1:-}
case $bound in lowest) resolution=lowest-direct ;; highest) resolution=highest ;;
  *) echo "usage: launchers/test_bounds.sh lowest|highest [PYTEST ARGUMENTS]" >&2; exit 2 ;; esac
shift
cd "$(dirname "$0")/.."
environment=.venv-$bound
if [ ! -f "$environment/.complete" ]; then
  [ -x "$environment/bin/python" ] || python3 -m venv "$environment"
  "$environment/bin/pip" install --upgrade pip 'setuptools>=77' wheel uv
  export VIRTUAL_ENV=$PWD/$environment
  bounded() { "$environment/bin/uv" pip install --no-build-isolation --resolution "$resolution" "$@"; }
  bounded 'torch>=2.11,<2.14' 'numpy>=2.0' 'ninja>=1.11' # DeepSpeed is built from source against an installed torch
  bounded -e '.[huggingface,parquet,langid,lingua,tensorboard,export,peers]'
  "$environment/bin/uv" pip install --no-build-isolation -e '.[test]' # tools that only look at the code: as they come
  touch "$environment/.complete"
fi
source "$environment/bin/activate"
export OMP_NUM_THREADS=1 DS_ACCELERATOR=${DS_ACCELERATOR:-$(python -c 'import torch; print("cuda" if torch.cuda.is_available() else "cpu")')}
python -c 'from importlib.metadata import version as v; print(*(f"{p} {v(p)}" for p in ("torch", "deepspeed", "megatron-core", "transformers", "numpy")))'
python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@"
