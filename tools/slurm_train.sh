#!/usr/bin/env bash
# Train a config as a job of Slurm, one process for each GPU.
#
#   tools/slurm_train.sh PARTITION JOB_NAME CONFIG [WORK_DIR] [arguments of train.py]
#
# GPUS (8), GPUS_PER_NODE (8), CPUS_PER_TASK (5), SRUN_ARGS (further words for srun), PORT (29500: another for every job of a
# node), PYTHON (python).
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: $0 PARTITION JOB_NAME CONFIG [WORK_DIR] [arguments of train.py]" >&2
    exit 2
fi
partition=$1 job=$2 config=$3
shift 3
work_dir=()
if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then # mmdet's script takes the work dir here, that of mmseg does not
    work_dir=(--work-dir "$1")
    shift
fi
export MASTER_PORT=${PORT:-${MASTER_PORT:-29500}}
# SRUN_ARGS is split into words on purpose.
# shellcheck disable=SC2086
exec srun --partition="$partition" --job-name="$job" --gres="gpu:${GPUS_PER_NODE:-8}" \
    --ntasks="${GPUS:-8}" --ntasks-per-node="${GPUS_PER_NODE:-8}" --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$(dirname "$0")/train.py" "$config" ${work_dir[@]+"${work_dir[@]}"} --launcher slurm "$@"
