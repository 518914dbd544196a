#!/usr/bin/env bash
# README's table of Pareto-MD: two students alone, UNI, BI, AUTO, and the controls that tell the search from its updates.
#   launchers/pareto_study.sh [JOBS [EPOCHS [SEEDS]]]      default 2 jobs (one thread each), 16 epochs, seed 1
# Safe to stop and to run again: each run goes on from its last checkpoint, and a finished one is passed over.
set -euo pipefail
cd "$(dirname "$0")/.."
source launchers/environment.sh
export OMP_NUM_THREADS=1
JOBS=${1:-2} EPOCHS=${2:-16} SEEDS=${3:-1}
OUT=${PARETO_OUT:-runs/pareto}
mkdir -p "$OUT"
mnmt-ds prepare launchers/recipes/gettext_plain.yaml

one_run() { # NAME RECIPE SEED OVERRIDES...
  local name=$1 recipe=$2 seed=$3
  shift 3
  local run=$OUT/$name-seed$seed
  mnmt-ds train "launchers/recipes/$recipe" --resume name="$name" directory="$run" train.seed="$seed" \
    deepspeed=ds_configs/zero0.json train.max_epochs="$EPOCHS" train.patience=0 tracking.log_every=100 "$@" >> "$run.log" 2>&1 \
    || { echo "$name, seed $seed: failed; see $run.log"; return 0; }
  mnmt-ds evaluate "$run" --jobs 1 --high 1000 --very-low 400 >> "$run.log" 2>&1 \
    || { echo "$name, seed $seed: evaluation failed; see $run.log"; return 0; }
  echo "$name, seed $seed: done"
}
export -f one_run
export OUT EPOCHS

for seed in $SEEDS; do
  echo "alone gettext_two.yaml $seed"
  echo "uni gettext_pareto_uni.yaml $seed"
  echo "bi gettext_pareto_bi.yaml $seed"
  echo "auto gettext_pareto_auto.yaml $seed"
  echo "auto-kept gettext_pareto_auto.yaml $seed method.trials.after=keep"       # what the released code does in effect
  echo "bi-extra gettext_pareto_bi.yaml $seed method.extra_updates=true"         # as many updates, no search
done | xargs -P "$JOBS" -I{} bash -c 'one_run {}'

mnmt-ds compare "$OUT"/*-seed? -o "$OUT/report" --title "Pareto mutual distillation"
