#!/usr/bin/env bash
# The README's table: plain and LSSD on the default corpus, dropout 0.1 and 0.2, three seeds, one cap of epochs.
#   launchers/gettext_study.sh [JOBS]        JOBS runs at a time, default 2 (one thread each)
# Safe to stop and to run again: each run goes on from its last checkpoint, and a finished one is passed over.
set -euo pipefail
cd "$(dirname "$0")/.."
source launchers/environment.sh
export OMP_NUM_THREADS=1
JOBS=${1:-2}
OUT=runs/study
mkdir -p "$OUT"
mnmt-ds prepare launchers/recipes/gettext_plain.yaml

one_run() { # NAME RECIPE SEED OVERRIDES...
  local name=$1 recipe=$2 seed=$3
  shift 3
  local run=$OUT/$name-seed$seed
  mnmt-ds train "launchers/recipes/$recipe" --resume name="$name" directory="$run" train.seed="$seed" \
    deepspeed=ds_configs/zero0.json train.max_epochs=30 train.patience=8 tracking.log_every=100 "$@" >> "$run.log" 2>&1 \
    || { echo "$name, seed $seed: failed; see $run.log"; return 0; }
  [ -f "$run/evaluation/best.test.json" ] || mnmt-ds evaluate "$run" --jobs 1 --high 1000 --very-low 400 >> "$run.log" 2>&1 \
    || { echo "$name, seed $seed: evaluation failed; see $run.log"; return 0; }
  echo "$name, seed $seed: done"
}
export -f one_run
export OUT

{
  for seed in 1 2 3; do
    for dropout in 0.1 0.2; do
      echo "plain-$dropout gettext_plain.yaml $seed model.dropout=$dropout"
      echo "lssd-$dropout gettext_lssd.yaml $seed model.dropout=$dropout"
    done
  done
  echo "plain-tau5 gettext_plain.yaml 1 sampler.temperature=5"
  echo "lssd-tau5 gettext_lssd.yaml 1 sampler.temperature=5"
  echo "selective-0.1 gettext_lssd.yaml 1 method.variant=selective"
  echo "adaptive-0.1 gettext_lssd.yaml 1 method.variant=adaptive"
} | xargs -P "$JOBS" -I{} bash -c 'one_run {}'

mnmt-ds compare "$OUT"/*-seed? -o "$OUT/report"
