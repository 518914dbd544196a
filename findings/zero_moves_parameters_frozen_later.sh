#!/usr/bin/env bash
# Ground: DeepSpeed, gradual freezing: a part of the model is frozen after deepspeed.initialize.
# Guessed: requires_grad_(False) stops a parameter, at every ZeRO stage, as it does with torch's optimizers.
# Is: at ZeRO 0 it does. At ZeRO 1 to 3 the optimizer goes on with a gradient of zero: Adam's momentum moves the
#   parameter for tens of updates, and weight decay shrinks it for as long as the run lasts.
# Versions: deepspeed 0.19.8, torch 2.13.0, Python 3.11.
# Why it matters: who freezes a pretrained encoder, or the embeddings, after a warm-up trains something else at ZeRO 1 to 3;
#   an encoder that is no longer trained fades with every update. Freeze before initialize, or start a new engine.
# Seen:
#   ZeRO-0: 500 updates after freezing, the frozen weight is 1.00 times what it was
#   ZeRO-1: 500 updates after freezing, the frozen weight is 0.61 times what it was
#   ZeRO-2: 500 updates after freezing, the frozen weight is 0.61 times what it was
#   ZeRO-3: 500 updates after freezing, the frozen weight is 0.61 times what it was
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 numpy ninja setuptools wheel
"$work/env/bin/pip" install -q --no-build-isolation deepspeed==0.19.8
cat > "$work/try.py" <<'PY'
import logging
import os

os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="29735", DS_ACCELERATOR="cpu")
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


def kept(stage):
    torch.manual_seed(0)
    encoder, decoder = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    torch.nn.init.constant_(encoder.weight, 10.0)
    model = torch.nn.Sequential(encoder, decoder)
    engine = start(model, torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1), stage)

    def update():
        engine.backward(engine(torch.ones(1, 4)).sum())
        engine.step()

    def weight():
        with deepspeed.zero.GatheredParameters([encoder.weight]):
            return encoder.weight.detach().mean().item()

    update()
    before = weight()
    for parameter in encoder.parameters():
        parameter.requires_grad_(False)
    for _ in range(500):
        update()
    return round(weight() / before, 2)


seen = {stage: kept(stage) for stage in range(4)}
for stage, share in seen.items():
    print(f"ZeRO-{stage}: 500 updates after freezing, the frozen weight is {share:.2f} times what it was")
if seen != {0: 1.0, 1: 0.61, 2: 0.61, 3: 0.61}:
    raise SystemExit("CHANGED: not what is stated at the head of this file")
torch.distributed.destroy_process_group()
PY
"$work/env/bin/python" -W ignore "$work/try.py"
