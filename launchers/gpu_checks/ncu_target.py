"""The loss's kernels for ncu: cross-entropy and distillation, rows on the chip and not, bf16; then Triton's."""

import torch

from mnmt_ds.bench.loss_baselines import make_inputs, ours

for implementation, words, weight in (
    ("cuda", 32000, 0.0), ("cuda", 32000, 0.6), ("cuda", 64000, 0.0), ("cuda", 64000, 0.6), ("triton", 32000, 0.6),
):  # fmt: skip
    ours(make_inputs(4096, 512, words, weight, 0.1, 1, "cuda", "bfloat16"), implementation).backward()
torch.cuda.synchronize()
