#!/usr/bin/env bash
# A Ray cluster in an allocation of Slurm, one Ray node on each of its machines, for as long as a command runs:
#
#     sbatch --nodes 3 --gpus-per-node 4 cluster/slurm.sh python -m dim_ray.tune --dataset cifar10 --storage /shared/dim
#
# The checkout, from whose top folder it's submitted, and the home folder are shared by all machines; ENVIRONMENT, the
# Python environment, is made beside the checkout at the first time. Nothing of it outlives the job.
#SBATCH --job-name=dim-ray
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
set -euo pipefail

checkout=${SLURM_SUBMIT_DIR:?"is set by sbatch: submit this file with it"}
[ $# -gt 0 ] || { echo "error: no command given, such as python -m dim_ray.tune" >&2; exit 2; }

bash "$checkout/cluster/setup_node.sh" "$checkout/../dim-ray-environment"
# shellcheck source=/dev/null
. ~/.dim_ray_shell
umask 077
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN # other users of the machines can't read it, and srun hands it on

start=(bash "$checkout/cluster/start_node.sh" ray start --block --num-cpus="${SLURM_CPUS_ON_NODE:?}")
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=$(head -n 1 <<<"$hosts")
others=$(tail -n +2 <<<"$hosts" | paste -sd,)
address=$(srun --nodes 1 --ntasks 1 --nodelist "$head" hostname --ip-address | cut -d ' ' -f 1)

trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT
srun --nodes 1 --ntasks 1 --nodelist "$head" --overlap "${start[@]}" --head --node-ip-address="$address" &
until srun --nodes 1 --ntasks 1 --nodelist "$head" --overlap ray status >/dev/null 2>&1; do
  kill -0 $! || { echo "error: Ray's head didn't start on $head." >&2; exit 1; }
  sleep 2
done
if [ -n "$others" ]; then
  number=$(wc -l <<<"$hosts")
  srun --nodes $((number - 1)) --ntasks $((number - 1)) --nodelist "$others" --overlap "${start[@]}" \
    --address="$address" &
fi
srun --nodes 1 --ntasks 1 --nodelist "$head" --overlap env RAY_ADDRESS=auto "$@"
