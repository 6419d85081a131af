#!/usr/bin/env bash
# Train a config in several processes, one for each GPU of a node; without a GPU, in processes of the CPU.
#
#   tools/dist_train.sh CONFIG GPUS [arguments of train.py]
#
# Over several nodes, run it on each with NNODES, NODE_RANK (0 on the first) and MASTER_ADDR (the first's address).
# PORT (29500) must be another for every job of a machine; PYTHON (python) is the interpreter.
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG GPUS [arguments of train.py]" >&2
    exit 2
fi
config=$1 gpus=$2
shift 2
exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$gpus" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    "$(dirname "$0")/train.py" "$config" --launcher pytorch "$@"
