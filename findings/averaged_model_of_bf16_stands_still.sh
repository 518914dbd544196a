#!/usr/bin/env bash
# Ground: torch, moving averages of weights (EMA) in bf16.
# Guessed: torch.optim.swa_utils.AveragedModel keeps its averages in fp32, or follows the model all the same.
# Is: it keeps them in the model's type, and has no option for another. In bf16 an EMA with decay 0.999 stops as soon as a
#   thousandth of what is left to go is less than half a step of bf16: of weights that go from 0 to 1 it reaches 0.25, however
#   long one trains; with decay 0.9999 it stays at 0.03. In fp32 it goes on.
# Versions: torch 2.13.0, Python 3.11.
# Why it matters: the averaged model, which is what is evaluated and published, is a mixture of early weights that training
#   no longer moves, and no message says so.
# Remedy: make the AveragedModel from a copy of the model in fp32.
# Seen:
#   decay 0.999, weights at 1 for 10000 updates: float32 1.000, bfloat16 0.250
#   decay 0.9999, weights at 1 for 10000 updates: float32 0.632, bfloat16 0.031
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 numpy
cat > "$work/try.py" <<'PY'
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

print("torch", torch.__version__.partition("+")[0])


def follow(decay, dtype, updates=10_000):
    """Where the average of weights is that were 0 at its start and are 1 since."""
    model = torch.nn.Linear(2, 2, bias=False).to(dtype)
    torch.nn.init.zeros_(model.weight)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    average.update_parameters(model)
    torch.nn.init.ones_(model.weight)
    for _ in range(updates):
        average.update_parameters(model)
    return f"{average.module.weight[0, 0].item():.3f}"


seen = []
for decay in (0.999, 0.9999):
    both = follow(decay, torch.float32), follow(decay, torch.bfloat16)
    seen.append(both)
    print(f"decay {decay}, weights at 1 for 10000 updates: float32 {both[0]}, bfloat16 {both[1]}", flush=True)
if seen != [("1.000", "0.250"), ("0.632", "0.031")]:
    raise SystemExit("CHANGED: not what is stated at the head of this file")
PY
"$work/env/bin/python" -W ignore "$work/try.py"
