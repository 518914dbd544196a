#!/usr/bin/env bash
# Ground: DeepSpeed, ZeRO-3, modules that not every update uses (a language's adapter, a task's head, LayerDrop).
# Guessed: a parameter that gets no gradient in an update is left alone by plain SGD, at every ZeRO stage.
# Is: at ZeRO-3 it is updated with the gradient that it got in the last update that used it, again and again. With two
#   micro-batches an update, a gradient of the second micro-batch is added to the one left from an earlier update.
#   At ZeRO 0, 1 and 2 the parameter stays.
# Versions: deepspeed 0.19.8, torch 2.13.0, Python 3.11.
# Why it matters: with an adapter for each language the adapters of all languages that are not in the batch keep moving
#   along old gradients; the same recipe learns otherwise at ZeRO-3 than at ZeRO-2, and nothing says so.
# Remedy: add 0 * parameter.sum() of what a batch does not use to its loss.
# Seen:
#   ZeRO-0: unused for 3 updates: moved by 0.0; used in the second micro-batch of a later update: moved by 1.0
#   ZeRO-1: unused for 3 updates: moved by 0.0; used in the second micro-batch of a later update: moved by 1.0
#   ZeRO-2: unused for 3 updates: moved by 0.0; used in the second micro-batch of a later update: moved by 1.0
#   ZeRO-3: unused for 3 updates: moved by 6.0; used in the second micro-batch of a later update: moved by 3.0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 numpy ninja setuptools wheel
"$work/env/bin/pip" install -q --no-build-isolation deepspeed==0.19.8
cat > "$work/try.py" <<'PY'
import logging
import os

os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="29731", DS_ACCELERATOR="cpu")
import deepspeed
import torch
from deepspeed.ops import __compatible_ops__
from deepspeed.utils import logger

logger.setLevel(logging.ERROR)
__compatible_ops__["deepspeed_shm_comm"] = False  # not needed here, and slow to build
deepspeed.init_distributed("gloo")
print("deepspeed", deepspeed.__version__, "torch", torch.__version__.partition("+")[0])


class Adapters(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.language = torch.nn.ModuleDict({name: torch.nn.Linear(1, 1) for name in ("de", "fr")})

    def forward(self, x, name):
        return self.language[name](x)


def train(stage, updates):
    """Updates are lists of micro-batches, each a language's. Returns where the French bias is after each."""
    model = Adapters()
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        config={"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": len(updates[0]), "gradient_clipping": 0.0,
                "zero_optimization": {"stage": stage}, "zero_allow_untested_optimizer": True, "steps_per_print": 10**9},
    )
    bias, places = model.language["fr"].bias, []
    for update in updates:
        for name in update:
            engine.backward(engine(torch.ones(2, 1), name).sum())
            engine.step()
        with deepspeed.zero.GatheredParameters([bias]):
            places.append(bias.item())
    return places


seen = {}
for stage in range(4):
    alone = train(stage, [["fr"], ["de"], ["de"], ["de"]])
    second = train(stage, [["fr", "fr"], ["de", "fr"]])
    seen[stage] = round(abs(alone[3] - alone[0]), 3), round(abs(second[1] - second[0]), 3)
    print(f"ZeRO-{stage}: unused for 3 updates: moved by {seen[stage][0]}; "
          f"used in the second micro-batch of a later update: moved by {seen[stage][1]}", flush=True)
if seen != {0: (0.0, 1.0), 1: (0.0, 1.0), 2: (0.0, 1.0), 3: (6.0, 3.0)}:
    raise SystemExit("CHANGED: not what is stated at the head of this file")
torch.distributed.destroy_process_group()
PY
"$work/env/bin/python" -W ignore "$work/try.py"
