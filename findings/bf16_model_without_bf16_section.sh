#!/usr/bin/env bash
# Ground: DeepSpeed and pretrained models in bf16 (transformers 5 loads a model in the type of its files).
# Guessed: a model in bf16 and a configuration without a bf16 section do not go together: initialize raises, or turns the
#   model to fp32.
# Is: it trains, silently, and otherwise at ZeRO 0 than at ZeRO 1 to 3. At ZeRO 0 weights and Adam's states are bf16, without
#   fp32 masters: an update smaller than 1/256 of a weight is lost. At ZeRO 1 to 3 there are masters and fp32 states.
# Versions: deepspeed 0.19.8, torch 2.13.0, Python 3.11.
# Why it matters: fine-tuning NLLB or M2M-100 with learning rates of 1e-5 to 1e-4 changes next to nothing at ZeRO 0; losses
#   stand still, and the same files train at ZeRO 1.
# Seen:
#   ZeRO-0: Adam's states are torch.bfloat16; 200 updates with rate 1e-3 took a weight from 1.0 to 1.0
#   ZeRO-1: Adam's states are torch.float32; 200 updates with rate 1e-3 took a weight from 1.0 to 0.80
#   ZeRO-2: Adam's states are torch.float32; 200 updates with rate 1e-3 took a weight from 1.0 to 0.80
#   ZeRO-3: Adam's states are torch.float32; 200 updates with rate 1e-3 took a weight from 1.0 to 0.80
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 numpy ninja setuptools wheel
"$work/env/bin/pip" install -q --no-build-isolation deepspeed==0.19.8
cat > "$work/try.py" <<'PY'
import logging
import os

os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="29737", DS_ACCELERATOR="cpu")
import deepspeed
import torch
from deepspeed.ops import __compatible_ops__
from deepspeed.utils import logger

logger.setLevel(logging.ERROR)
__compatible_ops__["deepspeed_shm_comm"] = False  # not needed here, and slow to build
deepspeed.init_distributed("gloo")
print("deepspeed", deepspeed.__version__, "torch", torch.__version__.partition("+")[0])


def start(model, optimizer, stage, **settings):
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer,
        config={"train_micro_batch_size_per_gpu": 1, "gradient_clipping": 0.0, "zero_optimization": {"stage": stage},
                "zero_allow_untested_optimizer": True, "steps_per_print": 10**9, **settings},
    )
    return engine


def trained(stage):
    model = torch.nn.Linear(4, 4).to(torch.bfloat16)
    torch.nn.init.constant_(model.weight, 1.0)
    engine = start(model, torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0), stage)
    for _ in range(200):
        engine.backward(engine(torch.ones(1, 4, dtype=torch.bfloat16)).float().sum())
        engine.step()
    state = next(iter(engine.optimizer.state.values()))["exp_avg"].dtype
    with deepspeed.zero.GatheredParameters([model.weight]):
        return str(state), round(model.weight[0, 0].item(), 2)


right = True
for stage in range(4):
    state, weight = trained(stage)
    print(f"ZeRO-{stage}: Adam's states are {state}; 200 updates with rate 1e-3 took a weight from 1.0 to {weight}")
    right = right and (state, weight) == (("torch.bfloat16", 1.0) if stage == 0 else ("torch.float32", 0.8))
if not right:
    raise SystemExit("CHANGED: not what is stated at the head of this file")
torch.distributed.destroy_process_group()
PY
"$work/env/bin/python" -W ignore "$work/try.py"
