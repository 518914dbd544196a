#!/usr/bin/env bash
# The same job under torchrun: once on each node, with the same arguments but for NODE_RANK.
#   NODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 launchers/torchrun.sh RANKS RECIPE [--resume] [a.b=c ...]
# One node: launchers/torchrun.sh RANKS RECIPE. Each node checks itself first; that all agree, the ranks check together.
# SIGTERM or Ctrl-C on any node lets all ranks save and leave, for --resume; a second one ends that node's at once.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 2 ] || { echo "say launchers/torchrun.sh RANKS RECIPE [--resume] [a.b=c ...]" >&2; exit 2; }
if [ -f "$here/../setup.py" ]; then # a checkout; the package's copy takes the active environment
  cd "$here/.."
  source launchers/environment.sh
fi
ranks=$1
recipe=$2
shift 2
overrides=()
for word in "$@"; do [[ $word == -* || $word != *=* ]] || overrides+=("$word"); done
nodes=${NODES:-1}
if [ "$nodes" -gt 1 ] && [ -z "${NODE_RANK:-}" -o -z "${MASTER_ADDR:-}" ]; then
  echo "torchrun: NODES=$nodes: say NODE_RANK=0 (1, ...) and MASTER_ADDR=the first node's address, too" >&2
  exit 2
fi
mnmt-ds preflight "$recipe" "${overrides[@]}"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
port=29500
if [ "$nodes" -eq 1 ]; then # any free one
  port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
fi
setsid torchrun --nnodes "$nodes" --node_rank "${NODE_RANK:-0}" --nproc_per_node "$ranks" \
  --master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "${MASTER_PORT:-$port}" "$here/train.py" "$recipe" "$@" &
agent=$!
signal=TERM
stop() { # the ranks alone: torchrun itself, asked to end, kills them after 30 s, be it in the midst of a checkpoint
  echo "torchrun: asking all ranks to save and leave; once more ends this node's at once" >&2
  # shellcheck disable=SC2046
  kill -s "$signal" $(cat "/proc/$agent/task/"*/children) 2> /dev/null || kill "$agent" 2> /dev/null || true
  signal=KILL
}
trap stop INT TERM
while kill -0 "$agent" 2> /dev/null; do wait "$agent" || true; done # a trapped signal ends wait before torchrun has ended
wait "$agent"
