#!/usr/bin/env bash
# Evaluate a checkpoint in several processes, one for each GPU of a node; without a GPU, in processes of the CPU.
#
#   tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of test.py]
#
# Over several nodes, run it on each with NNODES, NODE_RANK (0 on the first) and MASTER_ADDR (the first's address).
# PORT (29500) must be another for every job of a machine; PYTHON (python) is the interpreter.
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: $0 CONFIG CHECKPOINT GPUS [arguments of test.py]" >&2
    exit 2
fi
config=$1 checkpoint=$2 gpus=$3
shift 3
exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$gpus" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    "$(dirname "$0")/test.py" "$config" "$checkpoint" --launcher pytorch "$@"
