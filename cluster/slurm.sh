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

count='import ray; ray.init("auto", log_to_driver=False); print(sum(node["Alive"] for node in ray.nodes()))'
start=(bash "$checkout/cluster/start_node.sh" ray start --block --num-cpus="${SLURM_CPUS_ON_NODE:?}")
mapfile -t hosts < <(scontrol show hostnames "${SLURM_JOB_NODELIST:?}")
others=("${hosts[@]:1}")

step=(srun --ntasks-per-node 1 --overlap --nodelist)

# Waits until so many nodes have joined, and ends where one that was started ended.
wait_for() {
  until [ "$("${step[@]}" "${hosts[0]}" python -c "$count" 2>/dev/null)" = "$1" ]; do
    for pid in "${nodes[@]}"; do
      kill -0 "$pid" 2>/dev/null || { echo "error: Ray ended; its messages stand above." >&2; exit 1; }
    done
    sleep 2
  done
}

nodes=()
trap 'kill "${nodes[@]}" 2>/dev/null || true; wait' EXIT
address=$("${step[@]}" "${hosts[0]}" hostname --ip-address | cut -d ' ' -f 1)
"${step[@]}" "${hosts[0]}" "${start[@]}" --head --node-ip-address="$address" &
nodes+=($!)
wait_for 1
if [ "${#others[@]}" -gt 0 ]; then
  "${step[@]}" "$(IFS=, && echo "${others[*]}")" "${start[@]}" --address="$address" &
  nodes+=($!)
  wait_for "${#hosts[@]}"
fi
"${step[@]}" "${hosts[0]}" env RAY_ADDRESS=auto "$@"
