"""Every CUDA kernel once at odd and even sizes, for compute-sanitizer: python -m tests.kernels.gpu_sweep"""

import itertools

import torch

from mnmt_ds.kernels.ce_with_teacher import Gate
from tests.kernels.cases import case, outcome

GATES: list[tuple[Gate, ...]] = [(), (Gate(),), (Gate("adaptive"),), (Gate("selective", "token"), Gate())]


def sweep() -> int:
    """Runs all; the number of runs. Asserts that gradients are finite."""
    runs = 0
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    for dtype, words, passes, gates, heat in itertools.product(dtypes, (7, 250, 4096, 4093), (1, 2), GATES, (1.0, 2.0)):
        given = case(3, 5, 8, words, passes, gates, heat, masked=True).to(dtype)
        sums, hidden, projection = outcome(given, "cuda")
        assert bool(hidden.isfinite().all()) and bool(projection.isfinite().all()) and bool(sums.loss.isfinite())
        runs += 1
    torch.cuda.synchronize()
    return runs


if __name__ == "__main__":
    print(f"{sweep()} runs")
