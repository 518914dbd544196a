#!/usr/bin/env bash
# Ground: torch.distributed over gloo, reductions by MAX and MIN.
# Guessed: a NaN on one rank comes out as NaN on all, as torch.max has it; or at worst it is left out.
# Is: it depends on the rank that has it. Rank 0's NaN stays. Another rank's NaN is lost, and the values of all ranks
#   behind it with it: of 0, NaN, 2, 3 the largest is said to be 0. All ranks agree on the wrong value.
# Versions: torch 2.13.0, Python 3.11, 4 ranks.
# Why it matters: training jobs reduce losses, norms and "is anything not finite" by MAX; over gloo (CPUs, control
#   groups beside NCCL) a diverged rank hides itself and the worst of the others. Reduce isfinite() as a number instead.
# Seen:
#   NaN on rank 0 of [nan, 1, 2, 3]: MAX nan, MIN nan
#   NaN on rank 1 of [0, nan, 2, 3]: MAX 0.0, MIN 0.0
#   NaN on rank 2 of [0, 1, nan, 3]: MAX 1.0, MIN 0.0
#   NaN on rank 3 of [0, 1, 2, nan]: MAX 2.0, MIN 0.0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 numpy
cat > "$work/try.py" <<'PY'
import os

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

STATED = {0: ("nan", "nan"), 1: ("0.0", "0.0"), 2: ("1.0", "0.0"), 3: ("2.0", "0.0")}


def main(rank, ranks):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29734")
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    seen = {}
    for where in range(ranks):
        values = []
        for op in (dist.ReduceOp.MAX, dist.ReduceOp.MIN):
            value = torch.tensor([float("nan") if rank == where else float(rank)])
            dist.all_reduce(value, op=op)
            values.append(str(value.item()))
        seen[where] = tuple(values)
        if rank == 0:
            given = ", ".join("nan" if r == where else str(r) for r in range(ranks))
            print(f"NaN on rank {where} of [{given}]: MAX {values[0]}, MIN {values[1]}", flush=True)
    dist.barrier()
    dist.destroy_process_group()
    if seen != STATED:
        raise SystemExit("CHANGED: not what is stated at the head of this file")


if __name__ == "__main__":
    print("torch", torch.__version__.partition("+")[0], flush=True)
    mp.spawn(main, (4,), 4)
PY
"$work/env/bin/python" -W ignore "$work/try.py"
