#!/bin/sh
# Everything about the fused loss that needs a CUDA machine, in one command: tests, compute-sanitizer, benchmark.
#
#   launchers/gpu_checks.sh [directory for results, default mnmt_ds/bench/results]
#
# Wants: a GPU of sm_80 or later, nvcc, a CUDA build of torch 2.11 or later; peers that are installed are measured too
# (pip install liger-kernel trl cut-cross-entropy).
set -eu
cd "$(dirname "$0")/.."
results=${1:-mnmt_ds/bench/results}
python=${PYTHON:-python}

"$python" - <<'PYTHON'
import torch
assert torch.cuda.is_available(), "no GPU here"
from mnmt_ds.kernels.implementations import resolve_implementation
name = resolve_implementation("cuda", torch.device("cuda"))
print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: {name} kernels are built")
PYTHON

# conftest hides no GPU; CUDA joins the list of implementations by itself
"$python" -m pytest -q tests/kernels

checker=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
for tool in memcheck racecheck synccheck initcheck; do
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$checker" --tool "$tool" --error-exitcode 1 --kernel-name-exclude kns=at \
        "$python" -m tests.kernels.gpu_sweep
done

"$python" -m mnmt_ds.cli.main bench loss --device cuda --tokens 1024 4096 8192 16384 --width 512 1024 \
    --vocabulary 32000 64000 --rounds 20 --results "$results"
