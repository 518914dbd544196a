#!/usr/bin/env bash
# What needs a GPU, in one command: correctness first, then the ratios that matter. Each step has its own time limit, each
# figure is written as soon as it is there, and a step that fails stops no other. The exit code tells whether one did.
#
#   launchers/gpu_checks.sh [STEP...]     default: all, about 14 minutes on one H100
#
# Steps: build check pytest ceilings loss train ncu command_line resume decode memcheck racecheck
# Wants: a GPU of sm_80 or later, nvcc, a CUDA build of torch 2.11 or later, and what train wants. Peers that are installed
# are measured (pip install liger-kernel trl cut-cross-entropy quack-kernels).
#   OUT=DIRECTORY              results.jsonl, log.txt and profiles; default: runs/gpu_checks
#   GPU_CHECKS_DATA=DIRECTORY  a prepared corpus to train on; default: a synthetic one, too small for figures
#   DRY_RUN=1                  rehearses every step that needs no GPU, on the CPU with minute sizes
set -u
cd "$(dirname "$0")/.."
steps=${*:-build check pytest ceilings loss train ncu command_line resume decode memcheck racecheck}
here=launchers/gpu_checks python=${PYTHON:-python3} began=$SECONDS failed=
OUT=$(realpath -m "${OUT:-runs/gpu_checks}")
mkdir -p "$OUT"
accelerator=${DRY_RUN:+cpu} patience=${DRY_RUN:+10}
patience=${patience:-1}
export OUT DS_ACCELERATOR=${accelerator:-cuda} PYTHONPATH=$PWD:$PWD/$here${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4} HF_HUB_OFFLINE=1 WANDB_MODE=offline NCCL_DEBUG=${NCCL_DEBUG:-WARN}

say() { echo "[$((SECONDS - began)) s] $*" | tee -a "$OUT/log.txt"; }

wanted() { [[ " $steps " == *" $1 "* ]]; }

step() { # step SECONDS NAME COMMAND...: its own time limit and part of the log; never stops the rest
  local limit=$(($1 * patience)) name=$2
  shift 2
  wanted "$name" || return 0
  STEP_SECONDS=$((limit - 3)) timeout -k 5 "$limit" "$@" > "$OUT/part.txt" 2>&1
  local code=$?
  { echo "== $name: exit code $code"; tail -c 60000 "$OUT/part.txt"; } >> "$OUT/log.txt"
  rm -f "$OUT/part.txt"
  echo "{\"step\": \"$name\", \"exit_code\": $code, \"ended_s\": $((SECONDS - began))}" >> "$OUT/results.jsonl"
  say "$name: exit code $code"
  [ $code = 0 ] || failed="$failed $name"
}

{ nvidia-smi; nvcc --version | tail -2; g++ --version | head -1; nproc; } >> "$OUT/log.txt" 2>&1
if [ -z "${GPU_CHECKS_DATA:-}" ]; then
  export GPU_CHECKS_DATA=$OUT/synthetic/data
  [ -d "$GPU_CHECKS_DATA" ] || DS_ACCELERATOR=cpu $python -c "
import pathlib, os, tests.tiny
directory = pathlib.Path(os.environ['OUT'], 'synthetic')
directory.mkdir()
tests.tiny.write_corpus(directory)" >> "$OUT/log.txt" 2>&1 || say "no corpus: see log.txt"
fi
if wanted loss; then # compilers' caches fill beside the steps that are not timed
  WARM_ONLY=1 timeout -k 5 $((100 * patience)) $python $here/loss.py > "$OUT/warm.txt" 2>&1 &
  warm=$!
fi
step 60 build $python $here/build.py
step 70 check $python $here/check.py
step 60 pytest $python -m pytest -q -p no:cacheprovider tests/kernels/test_bounds.py -k "$([ -n "${DRY_RUN:-}" ] && echo huge || echo cuda)"
[ -z "${warm:-}" ] || wait "$warm"
step 20 ceilings $python $here/ceilings.py
step 120 loss $python $here/loss.py
step 130 train $python $here/train.py
if [ -z "${DRY_RUN:-}" ]; then
  step 40 ncu ncu --clock-control none --set basic --section SpeedOfLight --section MemoryWorkloadAnalysis \
    --section Occupancy --section WarpStateStats --section SchedulerStats --section InstructionStats \
    -k 'regex:rows_kernel|logits_kernel|gradient_kernel' -c 12 -f -o "$OUT/rows" $python $here/ncu_target.py
  [ ! -f "$OUT/rows.ncu-rep" ] || timeout 20 ncu --import "$OUT/rows.ncu-rep" --page details > "$OUT/ncu.txt" 2>&1
fi
# the whole way by the command line: validation, snapshots, checkpoints, teachers; then a resumed run
pairs=$($python -c "import json, os; print(json.dumps(list(json.load(open(os.environ['GPU_CHECKS_DATA'] + '/manifest.json'))['pairs'])))")
train=("$python" -m mnmt_ds.cli.main train $here/gpu.yaml "directory=$OUT/run" "data.directory=$GPU_CHECKS_DATA"
  "data.pairs=$pairs" method.teachers.cache=ram)
if [ -n "${DRY_RUN:-}" ]; then
  train+=(model.d_model=32 model.ffn=32 model.heads=2 model.encoder_layers=1 model.decoder_layers=1 train.max_tokens=256
    train.precision=fp32 validation.every=3 tracking.log_every=1)
  first=6 last=9
else
  train+=(train.lr=2e-3 train.warmup_steps=60 validation.every=40 tracking.log_every=20)
  first=160 last=200
fi
if wanted command_line; then rm -rf "$OUT/run"; fi
step 80 command_line "${train[@]}" train.max_steps=$first
step 50 resume "${train[@]}" --resume train.max_steps=$last
[ ! -f "$OUT/run/metrics.jsonl" ] || cp "$OUT/run/metrics.jsonl" "$OUT/metrics.jsonl"
step 60 decode $python $here/decode.py
if [ -z "${DRY_RUN:-}" ]; then
  checker=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
  export PYTORCH_NO_CUDA_MEMORY_CACHING=1
  for tool in memcheck racecheck; do # a filter by inclusion: bf16 kernels' mangled names hold surprising substrings
    step 75 $tool "$checker" --tool $tool --error-exitcode 1 --print-limit 20 --kernel-name kns=rows_kernel \
      $python -m tests.kernels.gpu_sweep
  done
fi
say "done; failed:${failed:- none}"
[ -z "$failed" ]
