#!/usr/bin/env bash
# Ground: DeepSpeed's data parallelism in bf16.
# Guessed: gradients of the ranks are summed in fp32, as Megatron does by default.
# Is: in bf16, at every ZeRO stage, 0 included: a small gradient beside a large one is lost, and more of it on more ranks.
#   "communication_data_type": "fp32" sums in fp32, for twice the traffic.
# Versions: deepspeed 0.19.8, torch 2.13.0 (gloo, four ranks), Python 3.11.
# Why it matters: a language pair that few ranks hold in an update gives small gradients beside large ones; the file has two
#   more types (data_types.grad_accum_dtype, bf16's own), of which neither changes this.
# Seen (ranks' gradients are 256, 1, -256, 1 in every order; their mean is 0.5):
#   ZeRO-0 arrives [0.0, 0.25, 0.5], with communication_data_type fp32 [0.5]
#   ZeRO-1 arrives [0.0, 0.25, 0.5], with communication_data_type fp32 [0.5]
#   ZeRO-2 arrives [0.0, 0.25, 0.5], with communication_data_type fp32 [0.5]
#   ZeRO-3 arrives [0.0, 0.25, 0.5], with communication_data_type fp32 [0.5]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 numpy ninja setuptools wheel
"$work/env/bin/pip" install -q --no-build-isolation deepspeed==0.19.8
cat > "$work/try.py" <<'PY'
import itertools
import logging
import os

import torch

os.environ["DS_ACCELERATOR"] = "cpu"
import deepspeed
from deepspeed.ops import __compatible_ops__
from deepspeed.utils import logger

logger.setLevel(logging.ERROR)
__compatible_ops__["deepspeed_shm_comm"] = False  # not needed here, and slow to build
deepspeed.init_distributed("gloo")
rank = torch.distributed.get_rank()
orders = list(itertools.permutations((256.0, 1.0, -256.0, 1.0)))


def arrives(stage, **settings):
    """What one step of SGD at rate 1 subtracts: the mean gradient, one for each order."""
    model = torch.nn.Linear(len(orders), 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    engine, *_ = deepspeed.initialize(
        model=model, model_parameters=model.parameters(),
        config={"train_micro_batch_size_per_gpu": 1, "gradient_clipping": 0.0, "steps_per_print": 10**9,
                "bf16": {"enabled": True}, "zero_optimization": {"stage": stage}, "zero_allow_untested_optimizer": True,
                "optimizer": {"type": "SGD", "params": {"lr": 1.0}}, **settings},
    )
    engine.backward(engine(torch.tensor([[order[rank] for order in orders]], dtype=torch.bfloat16)).sum())
    engine.step()
    with deepspeed.zero.GatheredParameters([model.weight]):
        return sorted({0.0 - value for value in model.weight.flatten().tolist()})


right = True
for stage in range(4):
    usual, fp32 = arrives(stage), arrives(stage, communication_data_type="fp32")
    right = right and fp32 == [0.5] and usual != [0.5]
    if rank == 0:
        print(f"ZeRO-{stage} arrives {usual}, with communication_data_type fp32 {fp32}", flush=True)
torch.distributed.destroy_process_group()
if not right:
    raise SystemExit("CHANGED: not what is stated at the head of this file")
PY
export OMP_NUM_THREADS=1
"$work/env/bin/python" -W ignore -c 'import deepspeed, torch; print("deepspeed", deepspeed.__version__, "torch", torch.__version__.partition("+")[0])' | tail -1
"$work/env/bin/torchrun" --standalone --nproc_per_node 4 "$work/try.py" 2> "$work/log" || { tail -5 "$work/log"; exit 1; }
