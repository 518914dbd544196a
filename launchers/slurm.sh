#!/usr/bin/env bash
# A job of any number of nodes under Slurm, one process a GPU, which goes on by itself after preemption or a time limit.
#   sbatch --nodes=4 --ntasks-per-node=8 --gpus-per-node=8 launchers/slurm.sh RECIPE [a.b=c ...]
# Its ranks are asked to save and leave, the job goes back into the queue, and its next start goes on from there
# (--resume), with the same losses to the bit. They are asked two minutes before the time limit (sbatch's --signal=...
# for another time), and when the job is preempted:
#   GraceTime in the partition or QOS             Slurm's SIGTERM goes to the ranks alone; GraceTime is theirs to save
#   also SlurmctldParameters=preempt_send_user_signal   as before a time limit; GraceTime is theirs to save
#   no GraceTime, or scontrol requeue             Slurm ends all within KillWait (30 s): saved if it is done by then
# What was not saved in time goes on from the last checkpoint (train.save_every) to the same losses. The cluster wants
# PreemptMode=REQUEUE; AuthInfo's cred_expire (120 s) is the least time between two starts. A run that ended, failed by
# itself or was cancelled (scancel) is not queued again. Run directory and data: on a file system of all nodes.
#SBATCH --job-name=mnmt-ds
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#SBATCH --output=%x-%j.log
set -uo pipefail
[ $# -gt 0 ] || { echo "say sbatch [SBATCH OPTIONS] launchers/slurm.sh RECIPE [a.b=c ...]" >&2; exit 2; }
cd "${SLURM_SUBMIT_DIR:?start this with sbatch}"
[ ! -f launchers/environment.sh ] || source launchers/environment.sh # outside a checkout: the active environment
script=$(python -c 'from mnmt_ds.shipped_files import shipped_file; print(shipped_file("launchers/train.py"))') || exit 2
recipe=$1
shift

say() { echo "slurm: $1"; }
asked= over=
stop() { # SIGINT to the ranks alone (at SIGTERM srun kills them): they save after the update in hand, and leave with 0
  asked=1
  say "SIGUSR1: asking all ranks to save and leave"
  scancel --signal=INT "$SLURM_JOB_ID"
}
trap stop USR1
trap 'over=1; say "SIGTERM: the job is ended from outside"' TERM

train() {
  mnmt-ds preflight "$recipe" "$@" --hostfile "$hosts" --launcher slurm || return 2
  [ -z "$asked$over" ] || return 1 # while the nodes were checked
  srun --kill-on-bad-exit=1 --label python -u "$script" "$recipe" "$@" --resume &
  local step=$!
  while kill -0 "$step" 2> /dev/null; do wait "$step"; done # a trapped signal ends wait before srun has ended
  wait "$step"
}

ended() { # the newest checkpoint holds the final weights
  local last
  for last in "$run/last" "$run"/students/*/last; do
    [ "$newest" = "step_$(basename "$(readlink "$last")")" ] && return
  done
  return 1
}

wanted_again() { # asked to leave before its end, by whomever, and neither failed by itself nor cancelled
  local newest facts
  newest=$(readlink "$run/checkpoints/last")
  ! ended || return
  facts=$(scontrol --oneliner show job "$SLURM_JOB_ID")
  [ -z "$over" ] || [[ $facts == *" Reason=TimeLimit "* ]] || return # where Slurm ends a job to start it again, it does
  [ -n "$asked" ] || [[ $facts =~ \ PreemptTime=[0-9] ]] || [ "$code" -eq 0 -a -n "$newest" ]
}

slots=${SLURM_NTASKS:+${SLURM_TASKS_PER_NODE:-}} # as 8(x4); without a number of tasks, srun starts one a node
hosts=$(mktemp)
trap 'rm -f "$hosts"' EXIT
scontrol show hostnames "$SLURM_JOB_NODELIST" | sed "s/\$/ slots=${slots%%[(,]*}/; s/=\$/=1/" > "$hosts"
MASTER_ADDR=$(head -n 1 "$hosts" | cut -d ' ' -f 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
export MASTER_ADDR MASTER_PORT
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # Slurm 22.05 and later forget it
run=$(mnmt-ds train "$recipe" "$@" --dump-config | sed -n 's/^directory: //p') || exit 2

train "$@"
code=$?
if wanted_again; then
  say "stopped before its end; back into the queue"
  trap '' TERM
  scontrol requeue "$SLURM_JOB_ID" || { say "refused; submit the same again to go on"; code=1; }
fi
exit "$code"
