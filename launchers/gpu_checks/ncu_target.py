"""The loss's row kernels for ncu: cross-entropy and distillation, rows on the chip and not, bf16."""

import torch

from mnmt_ds.bench.loss_baselines import make_inputs, ours

for words, weight in ((32000, 0.0), (32000, 0.6), (64000, 0.0), (64000, 0.6)):
    ours(make_inputs(4096, 512, words, weight, 0.1, 1, "cuda", "bfloat16")).backward()
torch.cuda.synchronize()
