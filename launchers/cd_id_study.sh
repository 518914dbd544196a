#!/usr/bin/env bash
# Concurrent denoising and intra-distillation on the default corpus: the rows of paper 3's Tables 2 and 4, then its analysis
#   launchers/cd_id_study.sh [JOBS [SEEDS [OVERRIDES...]]]     default: 2 runs at a time, one thread each, seed "1"
# About an hour on two cores: 14 epochs a run, one seed; where a GPU is, give SEEDS "1 2 3" and train.max_epochs=30.
# Safe to stop and to run again: each run goes on from its last checkpoint, and a finished one is passed over.
set -euo pipefail
cd "$(dirname "$0")/.."
source launchers/environment.sh
export OMP_NUM_THREADS=1
JOBS=${1:-2}
SEEDS=${2:-1}
OVERRIDES="${*:3}"
OUT=runs/cd_id
RECIPES="row1_mmt row2_mmt_id row3_dae row4_dae_id_d row5_dae_id row6_cd row7_cd_id_ssl row8_cd_id dae_mlm mass cd_id_separate"
mkdir -p "$OUT"
mnmt-ds prepare launchers/recipes/cd_id/row1_mmt.yaml

one_run() { # RECIPE SEED OVERRIDES...
  local recipe=$1 seed=$2
  shift 2
  local name=${recipe#row?_}
  local run=$OUT/$name-seed$seed
  mnmt-ds train "launchers/recipes/cd_id/$recipe.yaml" --resume name="$name" directory="$run" train.seed="$seed" \
    deepspeed=ds_configs/zero0.json tracking.log_every=100 "$@" >> "$run.log" 2>&1 \
    || { echo "$name, seed $seed: failed; see $run.log"; return 0; }
  [ -f "$run/evaluation/best.test.json" ] || mnmt-ds evaluate "$run" --jobs 1 --high 1000 --very-low 400 >> "$run.log" 2>&1 \
    || { echo "$name, seed $seed: evaluation failed; see $run.log"; return 0; }
  echo "$name, seed $seed: done"
}
export -f one_run
export OUT

for seed in $SEEDS; do
  for recipe in $RECIPES; do
    echo "$recipe $seed $OVERRIDES"
  done
done | xargs -P "$JOBS" -I{} bash -c 'one_run {}'

mnmt-ds compare "$OUT"/*-seed? -o "$OUT/report"

first=${SEEDS%% *}
for runs in "mmt mmt_id" "cd cd_id"; do
  read -r plain distilled <<< "$runs"
  pair=("$OUT/$plain-seed$first" "$OUT/$distilled-seed$first")
  to=$OUT/report/analysis-$plain
  mnmt-ds analyse sensitivity "${pair[@]}" --batches 100 -o "$to"
  if [ "$plain" = cd ]; then
    mnmt-ds analyse sensitivity "${pair[@]}" --batches 100 --task cd -o "$to/cd"
    mnmt-ds analyse correlation "${pair[@]}" --task cd -o "$to"
  fi
  for what in specificity correlation prune; do
    mnmt-ds analyse "$what" "${pair[@]}" -o "$to"
  done
done
