#!/usr/bin/env bash
# Ground: DeepSpeed in bf16, gradient accumulation.
# Guessed: masters are fp32, so micro-batches' gradients add up in fp32.
# Is: by default they add up in bf16, at every ZeRO stage: a sum stops growing once it is 256 times what is added. With
#   1,024 equal micro-batches a quarter of the gradient arrives, with 16 of them all but rounding. At ZeRO 1 to 3
#   "data_types": {"grad_accum_dtype": "fp32"} mends it; at ZeRO 0 that is refused.
# Versions: deepspeed 0.19.8, torch 2.13.0, Python 3.11.
# Why it matters: MT models want hundreds of thousands of tokens an update, which few devices reach by many micro-batches.
#   The loss falls all the same, as if the learning rate were lower for what is large and steady in the gradient.
# Seen:
#   ZeRO-1: 16 micro-batches 1.000 of the gradient, 1024 of them 0.250, 1024 of them in fp32 1.000
#   ZeRO-2: 16 micro-batches 1.000 of the gradient, 1024 of them 0.250, 1024 of them in fp32 1.000
#   ZeRO-3: 16 micro-batches 1.000 of the gradient, 1024 of them 0.250, 1024 of them in fp32 1.000
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 numpy ninja setuptools wheel
"$work/env/bin/pip" install -q --no-build-isolation deepspeed==0.19.8
cat > "$work/try.py" <<'PY'
import logging
import os

os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="29732", DS_ACCELERATOR="cpu")
import deepspeed
import torch
from deepspeed.ops import __compatible_ops__
from deepspeed.utils import logger

logger.setLevel(logging.ERROR)
__compatible_ops__["deepspeed_shm_comm"] = False  # not needed here, and slow to build
deepspeed.init_distributed("gloo")
print("deepspeed", deepspeed.__version__, "torch", torch.__version__.partition("+")[0])


def share(stage, count, **settings):
    """How much of its gradient a bias of 0 moves by, under plain SGD with learning rate 1."""
    model = torch.nn.Linear(4, 4)
    torch.nn.init.zeros_(model.bias)
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        config={"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": count, "gradient_clipping": 0.0,
                "bf16": {"enabled": True}, "zero_optimization": {"stage": stage}, "zero_allow_untested_optimizer": True,
                "steps_per_print": 10**9, **settings},
    )
    x = torch.ones(1, 4, dtype=torch.bfloat16)
    for _ in range(count):
        engine.backward(engine(x).float().sum())
        engine.step()
    with deepspeed.zero.GatheredParameters([model.bias]):
        return -model.bias[0].item()


right = True
for stage in (1, 2, 3):
    few, many, fp32 = share(stage, 16), share(stage, 1024), share(stage, 1024, data_types={"grad_accum_dtype": "fp32"})
    print(f"ZeRO-{stage}: 16 micro-batches {few:.3f} of the gradient, 1024 of them {many:.3f}, 1024 of them in fp32 {fp32:.3f}", flush=True)
    right = right and (few, many, fp32) == (1.0, 0.25, 1.0)
if not right:
    raise SystemExit("CHANGED: not what is stated at the head of this file")
torch.distributed.destroy_process_group()
PY
"$work/env/bin/python" -W ignore "$work/try.py" 2>&1 | grep -v -e "^MA " -e "^CPU Virtual" -e "^be" -e "^after" -e "^end"
