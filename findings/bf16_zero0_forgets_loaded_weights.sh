#!/usr/bin/env bash
# Ground: DeepSpeed in bf16 at ZeRO 0, fine-tuning from a checkpoint's weights with a fresh optimizer.
# Guessed: load_checkpoint(load_optimizer_states=False) loads the weights; training goes on from them, at every stage.
# Is: in bf16 at ZeRO 0 the weights are there after the call, and the next update, even with gradients of zero, puts those
#   from before the call back: the optimizer's fp32 copy was not loaded. At ZeRO 1 and 2, and in fp32, they stay.
# Versions: deepspeed 0.19.8, torch 2.13.0, Python 3.11.
# Why it matters: a first validation shows the pretrained model's quality, then the model is an untrained one.
# Seen:
#   fp32 ZeRO-0: weights are the checkpoint's after loading: True, after one update of zero: True
#   bf16 ZeRO-0: weights are the checkpoint's after loading: True, after one update of zero: False (those from before loading: True)
#   bf16 ZeRO-1: weights are the checkpoint's after loading: True, after one update of zero: True
#   bf16 ZeRO-2: weights are the checkpoint's after loading: True, after one update of zero: True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 numpy ninja setuptools wheel
"$work/env/bin/pip" install -q --no-build-isolation deepspeed==0.19.8
cat > "$work/try.py" <<'PY'
import logging
import os
import tempfile

os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="29736", DS_ACCELERATOR="cpu")
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


def loaded(stage, bf16):
    settings = {"bf16": {"enabled": bf16}}
    x = torch.ones(1, 4, dtype=torch.bfloat16 if bf16 else torch.float32)

    def engine_from(value):
        model = torch.nn.Linear(4, 4)
        torch.nn.init.constant_(model.weight, value)
        return start(model, torch.optim.SGD(model.parameters(), lr=0.1), stage, **settings), model.weight

    with tempfile.TemporaryDirectory() as folder:
        first, _ = engine_from(5.0)
        first.save_checkpoint(folder, tag="pretrained")
        engine, weight = engine_from(2.0)
        engine.load_checkpoint(folder, tag="pretrained", load_optimizer_states=False)
        after_loading = weight[0, 0].item()
        engine.backward(engine(x).sum() * 0)
        engine.step()
        return after_loading, weight[0, 0].item()


right = True
for bf16, stage in ((False, 0), (True, 0), (True, 1), (True, 2)):
    after_loading, after_update = loaded(stage, bf16)
    back = " (those from before loading: True)" if after_update == 2.0 else ""
    print(f"{'bf16' if bf16 else 'fp32'} ZeRO-{stage}: weights are the checkpoint's after loading: {after_loading == 5.0}, "
          f"after one update of zero: {after_update == 5.0}{back}")
    right = right and (after_loading, after_update) == (5.0, 2.0 if bf16 and stage == 0 else 5.0)
if not right:
    raise SystemExit("CHANGED: not what is stated at the head of this file")
torch.distributed.destroy_process_group()
PY
"$work/env/bin/python" -W ignore "$work/try.py"
