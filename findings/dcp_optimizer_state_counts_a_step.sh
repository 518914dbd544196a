#!/usr/bin/env bash
# Ground: torch's distributed checkpoints, a checkpoint before the first update.
# Guessed: get_optimizer_state_dict only reads: training goes on as if it had not been called.
# Is: of an optimizer that has not stepped yet it makes the state by a step of its own, at rate 0 and with gradients of zero,
#   and leaves it there. Adam has counted one update: the first real one is corrected for bias as the second, and is 0.74 of
#   the size it would have had.
# Versions: torch 2.13.0, Python 3.11.
# Why it matters: a run that saves at update 0 (an often heard advice: see that saving works) trains otherwise than the same
#   run that does not, and so does one that is resumed from that checkpoint.
# Remedy: do not ask before the first update, or empty optimizer.state behind it.
# Seen:
#   updates counted: 0 before, 1 after
#   first update: 0.1000, behind get_optimizer_state_dict 0.0744
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 numpy
cat > "$work/try.py" <<'PY'
import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

print("torch", torch.__version__.partition("+")[0])


def first_update(ask):
    """Size of the first update, and how many the optimizer has counted before it."""
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.0)
    if ask:
        get_optimizer_state_dict(model, optimizer)
    counted = max((int(state["step"]) for state in optimizer.state.values()), default=0)
    before = model.weight.detach().clone()
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    return round((model.weight.detach() - before).abs().max().item(), 4), counted


(plain, none), (asked, one) = first_update(ask=False), first_update(ask=True)
print(f"updates counted: {none} before, {one} after")
print(f"first update: {plain:.4f}, behind get_optimizer_state_dict {asked:.4f}")
if (none, one, plain, asked) != (0, 1, 0.1, 0.0744):
    raise SystemExit("CHANGED: not what is stated at the head of this file")
PY
"$work/env/bin/python" -W ignore "$work/try.py"
