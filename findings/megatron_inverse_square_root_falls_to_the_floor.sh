#!/usr/bin/env bash
# Ground: megatron-core, learning rates.
# Guessed: the schedule inverse-square-root, like fairseq's and transformers', goes on along its curve for as long as one
#   trains; lr_decay_steps is for the schedules that end (linear, cosine).
# Is: after lr_decay_steps the rate drops from wherever the curve is, here half the peak, to min_lr, by default 0, in one
#   update, and the run goes on at that.
# Versions: megatron-core 0.16.1, torch 2.13.0, Python 3.11.
# Why it matters: the Transformer's schedule in MT. A run that is prolonged beyond what lr_decay_steps was set to trains
#   with rate 0: losses go flat and look converged.
# Seen:
#   warmup 5, lr_decay_steps 20, peak 1: rate at updates 5, 10, 20, 21, 25: 1.0 0.7071 0.5 0.0 0.0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 numpy megatron-core==0.16.1
cat > "$work/try.py" <<'PY'
import megatron.core
import torch
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

print("megatron-core", megatron.core.__version__, "torch", torch.__version__.partition("+")[0])
optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
scheduler = OptimizerParamScheduler(
    optimizer, init_lr=0.0, max_lr=1.0, min_lr=0.0, lr_warmup_steps=5, lr_decay_steps=20, lr_decay_style="inverse-square-root",
    start_wd=0.0, end_wd=0.0, wd_incr_steps=0, wd_incr_style="constant",
)
rates = {}
for update in range(1, 26):
    scheduler.step(1)
    rates[update] = round(optimizer.param_groups[0]["lr"], 4)
seen = [rates[update] for update in (5, 10, 20, 21, 25)]
print("warmup 5, lr_decay_steps 20, peak 1: rate at updates 5, 10, 20, 21, 25:", *seen)
if seen != [1.0, 0.7071, 0.5, 0.0, 0.0]:
    raise SystemExit("CHANGED: not what is stated at the head of this file")
PY
"$work/env/bin/python" -W ignore "$work/try.py" 2> "$work/errors" || { cat "$work/errors" >&2; exit 1; }
