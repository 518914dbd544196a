#!/usr/bin/env bash
# A job of any number of nodes under Slurm, one process a GPU, which goes on by itself after preemption or a time limit.
#   sbatch --nodes=4 --ntasks-per-node=8 --gpus-per-node=8 launchers/slurm.sh RECIPE [a.b=c ...]
# On a signal (preemption: SIGTERM; two minutes before the time limit: SIGUSR1) the ranks save a checkpoint and leave,
# the job goes back into the queue, and its next start goes on from there (--resume), with the same losses to the bit.
# A run that ended, or failed by itself, is not queued again. Run directory and data: on a file system of all nodes.
#SBATCH --job-name=mnmt-ds
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#SBATCH --output=%x-%j.log
set -uo pipefail
[ $# -gt 0 ] || { echo "say sbatch [SBATCH OPTIONS] launchers/slurm.sh RECIPE [a.b=c ...]" >&2; exit 2; }
cd "${SLURM_SUBMIT_DIR:?start this with sbatch}"
source launchers/environment.sh
recipe=$1
shift

hosts=$(mktemp)
step= asked=
run=$(mnmt-ds train "$recipe" "$@" --dump-config | sed -n 's/^directory: //p')
trap 'rm -f "$hosts"' EXIT
stop() { # SIGINT to the ranks alone (at SIGTERM srun kills them): they save after the update in hand, and leave with 0
  asked=1
  echo "slurm: $1: asking all ranks to save and leave"
  [ -z "$step" ] || scancel --signal=INT "$SLURM_JOB_ID"
}
trap 'stop SIGUSR1' USR1
trap 'stop SIGTERM' TERM

slots=${SLURM_NTASKS_PER_NODE:-1}
scontrol show hostnames "$SLURM_JOB_NODELIST" | sed "s/\$/ slots=${slots%%(*}/" > "$hosts"
mnmt-ds preflight "$recipe" "$@" --hostfile "$hosts" --launcher slurm || exit 2

MASTER_ADDR=$(head -n 1 "$hosts" | cut -d ' ' -f 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
export MASTER_ADDR MASTER_PORT
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
srun --kill-on-bad-exit=1 --label python -u launchers/train.py "$recipe" "$@" --resume &
step=$!
while kill -0 "$step" 2> /dev/null; do wait "$step"; done # a trapped signal ends wait before srun has ended
wait "$step"
code=$?
ended=$(compgen -G "$run/last" || compgen -G "$run/students/*/last")
if [ -z "$ended" ] && { [ "$code" -eq 0 ] || [ -n "$asked" ]; }; then
  echo "slurm: stopped before its end; back into the queue"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
