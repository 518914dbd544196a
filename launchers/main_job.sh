#!/usr/bin/env bash
# The main job: real translations from this machine's catalogs in, two trained and measured models out, plain and LSSD.
#   launchers/main_job.sh [RANKS]     RANKS processes, default: the GPUs, or 2 on a machine without any
# Safe to stop and to run again: what is finished is kept, what was cut off goes on from its last checkpoint.
set -euo pipefail
cd "$(dirname "$0")/.."
source launchers/environment.sh
GPUS=$([ "$DS_ACCELERATOR" = cpu ] && echo 0 || python -c 'import torch; print(torch.cuda.device_count())')
if [ "$GPUS" -gt 0 ]; then RANKS=${1:-$((GPUS > 2 ? 2 : GPUS))}; else RANKS=${1:-2}; fi
export OMP_NUM_THREADS=1
OUT=runs/gettext

step() { printf '\n== %s\n' "$1"; }

step "1/5 corpus"
mnmt-ds prepare launchers/recipes/main_plain.yaml
mnmt-ds train launchers/recipes/main_plain.yaml --dry-run # checks all, and builds the loss kernel once
for method in plain lssd; do
  step "$([ $method = plain ] && echo 2/5 || echo 3/5) training, $method, on $RANKS rank(s)"
  python launchers/launch.py --num_gpus "$RANKS" "launchers/recipes/main_$method.yaml" --resume
done
step "4/5 BLEU and chrF on the test sets"
mnmt-ds evaluate "$OUT/plain" --high 1000 --very-low 400
mnmt-ds evaluate "$OUT/lssd" --against "$OUT/plain" --high 1000 --very-low 400
step "5/5 the comparison"
mnmt-ds compare "$OUT/plain" "$OUT/lssd" -o "$OUT/report"
