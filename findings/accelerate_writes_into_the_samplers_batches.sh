#!/usr/bin/env bash
# Ground: accelerate, batches of sentences of like length that a sampler has made once and keeps.
# Guessed: preparing a data loader for two processes may repeat sentences in what a process gets; the sampler's own lists
#   stay as they are.
# Is: the sentences that even out the last batch are appended to the sampler's own list, in place. From the first epoch on
#   the sampler holds sentences twice, also for whoever reads it next: another epoch, an evaluation, a saved order.
# Versions: accelerate 1.15.0, torch 2.13.0, Python 3.11.
# Why it matters: NMT samplers form their batches once and shuffle them. Which sentences are doubled depends on the
#   number of processes, for the rest of the run, and in figures that are counted over the sampler's batches.
# Seen:
#   batches before: [[4, 7], [1, 5], [0, 2], [3, 6], [8]]
#   batches after one epoch of 2 processes: [[4, 7], [1, 5], [0, 2], [3, 6], [8, 4]]
#   sentences that the sampler has: 9 before, 10 after
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 numpy accelerate==1.15.0
cat > "$work/try.py" <<'PY'
import accelerate
import torch
from accelerate.data_loader import prepare_data_loader


class Bucketed:
    """Batches of two sentences of like length, made once."""

    batch_size, drop_last = 2, False

    def __init__(self):
        self.batches = [[4, 7], [1, 5], [0, 2], [3, 6], [8]]

    def __iter__(self):
        return iter(self.batches)

    def __len__(self):
        return len(self.batches)


print("accelerate", accelerate.__version__, "torch", torch.__version__.partition("+")[0])
sampler = Bucketed()
print("batches before:", sampler.batches)
before = sum(map(len, sampler.batches))
loader = torch.utils.data.DataLoader(list(range(9)), batch_sampler=sampler)
for batch in prepare_data_loader(loader, num_processes=2, process_index=0, put_on_device=False, rng_types=[]):
    pass
print("batches after one epoch of 2 processes:", sampler.batches)
print(f"sentences that the sampler has: {before} before, {sum(map(len, sampler.batches))} after")
if sampler.batches != [[4, 7], [1, 5], [0, 2], [3, 6], [8, 4]]:
    raise SystemExit("CHANGED: not what is stated at the head of this file")
PY
"$work/env/bin/python" -W ignore "$work/try.py"
