#!/usr/bin/env bash
# Ground: DeepSpeed's checkpoints, a training loop's own state beside them.
# Guessed: client_state is the caller's own dictionary: load_checkpoint gives it back, whatever its keys are called.
# Is: it is merged over the engine's own entries. A loop that keeps its count as "global_steps" sets the engine's count by
#   it when the checkpoint is loaded, and does not get the key back. An entry of another name comes back.
# Versions: deepspeed 0.19.8, torch 2.13.0, Python 3.11.
# Why it matters: NMT loops count sentences, micro-batches or updates under just such names. After a resume the engine's
#   step count, which names checkpoints and drives schedules, monitors and profilers, is another number.
# Seen:
#   saved after 3 updates with client_state {'epoch': 2, 'global_steps': 777}
#   loaded: engine.global_steps 777, of client_state come back: {'epoch': 2}
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

os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="29738", DS_ACCELERATOR="cpu")
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


def engine():
    model = torch.nn.Linear(4, 4)
    return start(model, torch.optim.SGD(model.parameters(), lr=0.1), 1)


own = {"epoch": 2, "global_steps": 777}
with tempfile.TemporaryDirectory() as folder:
    first = engine()
    for _ in range(3):
        first.backward(first(torch.ones(1, 4)).sum())
        first.step()
    print("saved after", first.global_steps, "updates with client_state", own)
    first.save_checkpoint(folder, tag="t", client_state=dict(own))
    second = engine()
    _, state = second.load_checkpoint(folder, tag="t")
back = {key: value for key, value in state.items() if key in own}
print(f"loaded: engine.global_steps {second.global_steps}, of client_state come back: {back}")
if (second.global_steps, back) != (777, {"epoch": 2}):
    raise SystemExit("CHANGED: not what is stated at the head of this file")
torch.distributed.destroy_process_group()
PY
"$work/env/bin/python" -W ignore "$work/try.py"
