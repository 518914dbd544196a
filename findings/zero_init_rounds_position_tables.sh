#!/usr/bin/env bash
# Ground: DeepSpeed's zero.Init and sinusoidal positions.
# Guessed: zero.Init partitions parameters; what a constructor computes with an explicit dtype=torch.float32 stays so.
# Is: within it torch.arange, zeros, full, tensor and the like return the training type even when they are asked for
#   float32. A table of sinusoids that is made there in bf16 has rounded positions: from 256 on two, from 512 on four
#   neighbours share one row. torch.arange(n).float() is not touched. Without a configuration the type is fp16, on a CPU too.
# Versions: deepspeed 0.19.8, torch 2.13.0, Python 3.11.
# Why it matters: an NMT model built under zero.Init cannot tell apart neighbouring words of long sentences, one built
#   without can; checkpoints are the same, since the table is in none of them.
# Seen:
#   outside: torch.float32, rows of 1,024 positions that equal their neighbour: 0
#   zero.Init, bf16: torch.bfloat16, rows of 1,024 positions that equal their neighbour: 511
#   zero.Init, bf16, arange(n).float(): torch.float32, rows of 1,024 positions that equal their neighbour: 0
#   zero.Init without a configuration: weights are torch.float16
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 numpy ninja setuptools wheel
"$work/env/bin/pip" install -q --no-build-isolation deepspeed==0.19.8
cat > "$work/try.py" <<'PY'
import logging
import os

os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="29733", DS_ACCELERATOR="cpu")
import deepspeed
import torch
from deepspeed.ops import __compatible_ops__
from deepspeed.utils import logger

logger.setLevel(logging.ERROR)
__compatible_ops__["deepspeed_shm_comm"] = False  # not needed here, and slow to build
deepspeed.init_distributed("gloo")
print("deepspeed", deepspeed.__version__, "torch", torch.__version__.partition("+")[0])
config = {"train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": True}, "zero_optimization": {"stage": 3}}


def positions(made_as_float32):
    return torch.arange(1024, dtype=torch.float32) if made_as_float32 else torch.arange(1024).float()


class Positions(torch.nn.Module):
    def __init__(self, made_as_float32=True):
        super().__init__()
        angle = positions(made_as_float32)[:, None].float() * torch.exp(torch.arange(8).float() * -1.3)
        self.position = positions(made_as_float32)
        self.table = torch.cat([angle.sin(), angle.cos()], 1)
        self.linear = torch.nn.Linear(4, 4)


def show(title, module):
    same = int((module.table[1:] == module.table[:-1]).all(1).sum())
    print(f"{title}: {module.position.dtype}, rows of 1,024 positions that equal their neighbour: {same}", flush=True)
    return str(module.position.dtype), same


seen = [show("outside", Positions())]
with deepspeed.zero.Init(config_dict_or_path=config):
    inside, other = Positions(), Positions(False)
seen += [show("zero.Init, bf16", inside), show("zero.Init, bf16, arange(n).float()", other)]
with deepspeed.zero.Init():
    plain = torch.nn.Linear(4, 4)
print("zero.Init without a configuration: weights are", plain.weight.dtype)
stated = [("torch.float32", 0), ("torch.bfloat16", 511), ("torch.float32", 0)]
if seen != stated or plain.weight.dtype != torch.float16:
    raise SystemExit("CHANGED: not what is stated at the head of this file")
torch.distributed.destroy_process_group()
PY
"$work/env/bin/python" -W ignore "$work/try.py"
