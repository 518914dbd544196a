#!/usr/bin/env bash
# Ground: DeepSpeed at ZeRO-3, fine-tuning from a checkpoint's weights.
# Guessed: load_checkpoint(load_module_only=True) loads the weights, as at ZeRO 0 to 2; where it cannot, it says so.
# Is: at ZeRO-3 it prints that it put a state dict together from the partitions, returns the checkpoint's path, and the
#   model has the weights that it had before. load_optimizer_states=False does load them.
# Versions: deepspeed 0.19.8, torch 2.13.0, Python 3.11.
# Why it matters: a model is fine-tuned from random weights, or a teacher distils noise, under a log that names the
#   checkpoint.
# Seen:
#   ZeRO-1, load_module_only: path returned: True, weights are the checkpoint's: True
#   ZeRO-2, load_module_only: path returned: True, weights are the checkpoint's: True
#   ZeRO-3, load_module_only: path returned: True, weights are the checkpoint's: False
#   ZeRO-3, load_optimizer_states=False: path returned: True, weights are the checkpoint's: True
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

os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="29739", DS_ACCELERATOR="cpu")
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


def engine_from(stage, value):
    model = torch.nn.Linear(4, 4)
    torch.nn.init.constant_(model.weight, value)
    return start(model, torch.optim.SGD(model.parameters(), lr=0.1), stage), model.weight


def loaded(stage, **options):
    with tempfile.TemporaryDirectory() as folder:
        first, _ = engine_from(stage, 5.0)
        first.save_checkpoint(folder, tag="pretrained")
        engine, weight = engine_from(stage, 2.0)
        path, _ = engine.load_checkpoint(folder, tag="pretrained", **options)
    with deepspeed.zero.GatheredParameters([weight]):
        return path is not None, weight[0, 0].item() == 5.0


seen = []
for title, stage, options in (
    ("ZeRO-1, load_module_only", 1, {"load_module_only": True}), ("ZeRO-2, load_module_only", 2, {"load_module_only": True}),
    ("ZeRO-3, load_module_only", 3, {"load_module_only": True}),
    ("ZeRO-3, load_optimizer_states=False", 3, {"load_optimizer_states": False}),
):
    seen.append(loaded(stage, **options))
    print(f"{title}: path returned: {seen[-1][0]}, weights are the checkpoint's: {seen[-1][1]}", flush=True)
if seen != [(True, True), (True, True), (True, False), (True, True)]:
    raise SystemExit("CHANGED: not what is stated at the head of this file")
torch.distributed.destroy_process_group()
PY
"$work/env/bin/python" -W ignore "$work/try.py"
