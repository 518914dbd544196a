#!/usr/bin/env bash
# Ground: DeepSpeed's JSON and AdamW's weight decay.
# Guessed: "optimizer": {"type": "AdamW"} without weight_decay decays the same whichever implementation runs it.
# Is: 0.01 with "torch_adam": true (torch's default), 0 without it (DeepSpeed's own: fused, and CPU Adam when offloaded).
# Versions: deepspeed 0.19.8, torch 2.13.0, Python 3.11.
# Why it matters: torch_adam is set for what has no fused kernel, or to compare two machines: the regularisation changes
#   with it, and nothing in the file or the log says so.
# Seen:
#   torch_adam AdamW: weight_decay 0.01, a weight without a gradient after 100 updates at rate 0.1: 0.9048
#   without FusedAdam: weight_decay 0.0, a weight without a gradient after 100 updates at rate 0.1: 1.0
#   without, offloaded DeepSpeedCPUAdam: weight_decay 0, a weight without a gradient after 100 updates at rate 0.1: 1.0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 numpy ninja setuptools wheel
"$work/env/bin/pip" install -q --no-build-isolation deepspeed==0.19.8
cat > "$work/try.py" <<'PY'
import logging
import os

os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="29743", DS_ACCELERATOR="cpu")
import deepspeed
import torch
from deepspeed.ops import __compatible_ops__
from deepspeed.utils import logger

logger.setLevel(logging.ERROR)
__compatible_ops__["deepspeed_shm_comm"] = False  # not needed here, and slow to build
deepspeed.init_distributed("gloo")
print("deepspeed", deepspeed.__version__, "torch", torch.__version__.partition("+")[0])
WAYS = {
    "torch_adam": ({"torch_adam": True}, {"stage": 0}),
    "without": ({}, {"stage": 0}),
    "without, offloaded": ({}, {"stage": 1, "offload_optimizer": {"device": "cpu"}}),
}
seen = []
for way, (settings, zero) in WAYS.items():
    model = torch.nn.Linear(4, 4)
    torch.nn.init.constant_(model.weight, 1.0)
    engine, *_ = deepspeed.initialize(
        model=model, model_parameters=model.parameters(),
        config={"train_micro_batch_size_per_gpu": 1, "steps_per_print": 10**9, "zero_optimization": zero,
                "optimizer": {"type": "AdamW", "params": {"lr": 0.1, **settings}}},
    )
    for _ in range(100):
        engine.backward(engine(torch.zeros(1, 4)).sum())  # the weights' gradients are zero, the biases' are not
        engine.step()
    decay, weight = engine.optimizer.param_groups[0]["weight_decay"], round(model.weight[0, 0].item(), 4)
    print(f"{way} {type(engine.basic_optimizer).__name__}: weight_decay {decay}, "
          f"a weight without a gradient after 100 updates at rate 0.1: {weight}")
    seen.append((decay, weight))
if seen != [(0.01, 0.9048), (0, 1.0), (0, 1.0)]:
    raise SystemExit("CHANGED: not what is stated at the head of this file")
torch.distributed.destroy_process_group()
PY
"$work/env/bin/python" -W ignore "$work/try.py"
