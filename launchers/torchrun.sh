#!/usr/bin/env bash
# The same job under torchrun: once on each node, with the same arguments but for NODE_RANK.
#   NODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 launchers/torchrun.sh RANKS RECIPE [--resume] [a.b=c ...]
# One node: launchers/torchrun.sh RANKS RECIPE. Each node checks itself first; that all agree, the ranks check together.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 2 ] || { echo "say launchers/torchrun.sh RANKS RECIPE [--resume] [a.b=c ...]" >&2; exit 2; }
source launchers/environment.sh
ranks=$1
recipe=$2
shift 2
overrides=()
for word in "$@"; do [[ $word == -* || $word != *=* ]] || overrides+=("$word"); done
mnmt-ds preflight "$recipe" "${overrides[@]}"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec torchrun --nnodes "${NODES:-1}" --node_rank "${NODE_RANK:-0}" --nproc_per_node "$ranks" \
  --master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "${MASTER_PORT:-29500}" \
  launchers/train.py "$recipe" "$@"
