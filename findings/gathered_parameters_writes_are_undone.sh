#!/usr/bin/env bash
# Ground: DeepSpeed, weights set after initialize: new rows of an embedding, a pruned or averaged weight.
# Guessed: what is written within GatheredParameters(..., modifier_rank=0), the way that DeepSpeed names for it, stays; and
#   safe_set_full_fp32_param, its other way, sets the weight at every stage, or raises.
# Is: the first writes what forward passes see and no fp32 master. The next update makes the weights of the masters again and
#   the written ones are gone: at ZeRO 1 to 3, in fp32 too, and in bf16 at ZeRO 0. The second writes the masters alone, so that
#   the model has the old weights until the next update; at ZeRO 0 it does nothing at all, and says nothing.
# Versions: deepspeed 0.19.8, torch 2.13.0, Python 3.11.
# Why it matters: weights that were put in look right when they are read back, and are not what is trained; a script that goes
#   by safe_set_full_fp32_param works at ZeRO 1 and is without effect at ZeRO 0.
# Remedy: set weights before initialize.
# Seen (weights are set to 3; updates have a rate of 0):
#   ZeRO-0 fp32: gathered: 3 at once, 3 after an update; safe_set: old at once, old after an update
#   ZeRO-0 bf16: gathered: 3 at once, old after an update; safe_set: old at once, old after an update
#   ZeRO-1 fp32: gathered: 3 at once, old after an update; safe_set: old at once, 3 after an update
#   ZeRO-1 bf16: the same, and so at ZeRO-2 and ZeRO-3
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
from deepspeed.utils import logger, safe_set_full_fp32_param

logger.setLevel(logging.ERROR)
__compatible_ops__["deepspeed_shm_comm"] = False  # not needed here, and slow to build
deepspeed.init_distributed("gloo")
print("deepspeed", deepspeed.__version__, "torch", torch.__version__.partition("+")[0])


def gathered(weight):
    with deepspeed.zero.GatheredParameters([weight], modifier_rank=0), torch.no_grad():
        weight.fill_(3.0)


def safe_set(weight):
    safe_set_full_fp32_param(weight, torch.full((4, 4), 3.0))


def value(weight):
    with deepspeed.zero.GatheredParameters([weight]):
        return "3" if bool((weight == 3).all()) else "old"


def try_out(stage, dtype, write):
    model = torch.nn.Linear(4, 4, bias=False)
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.0),
        config={"train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": dtype is torch.bfloat16}, "gradient_clipping": 0.0,
                "zero_optimization": {"stage": stage}, "zero_allow_untested_optimizer": True, "steps_per_print": 10**9},
    )
    write(model.weight)
    at_once = value(model.weight)
    engine.backward(engine(torch.ones(1, 4, dtype=dtype)).float().sum())
    engine.step()
    return f"{at_once} at once, {value(model.weight)} after an update"


usual = "gathered: 3 at once, old after an update; safe_set: old at once, 3 after an update"
expected = {(stage, dtype): usual for stage in (1, 2, 3) for dtype in ("fp32", "bf16")}
expected[0, "fp32"] = "gathered: 3 at once, 3 after an update; safe_set: old at once, old after an update"
expected[0, "bf16"] = "gathered: 3 at once, old after an update; safe_set: old at once, old after an update"
seen = {}
for stage in range(4):
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        both = (f"{write.__name__}: {try_out(stage, dtype, write)}" for write in (gathered, safe_set))
        seen[stage, name] = "; ".join(both)
        print(f"ZeRO-{stage} {name}: {seen[stage, name]}", flush=True)
if seen != expected:
    raise SystemExit("CHANGED: not what is stated at the head of this file")
torch.distributed.destroy_process_group()
PY
"$work/env/bin/python" -W ignore "$work/try.py"
