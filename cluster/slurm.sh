#!/usr/bin/env bash
# A Ray cluster in an allocation of Slurm, one Ray node on each of its machines, for as long as a command runs:
#
#     sbatch --nodes 3 --gpus-per-node 4 cluster/slurm.sh python -m dim_ray.tune --dataset cifar10 --storage /shared/dim
#
# Submit it in the top folder of the checkout, which all machines share, with its .venv. The job ends with the command's
# exit code and leaves nothing behind. To share machines with others, add --oversubscribe --cpus-per-task 8 --mem 32G.
#SBATCH --job-name=dim-ray
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --open-mode=append
# The command survives the loss of any machine but the first one, which it runs on. When that is lost, the job begins
# again on others, and a study continues from its storage.
#SBATCH --no-kill
#SBATCH --requeue
set -euo pipefail

fail() { echo "error: $*" >&2 && exit 2; }
[ -n "${SLURM_JOB_ID:-}" ] || fail "no job of Slurm; submit this file: sbatch --nodes 2 cluster/slurm.sh COMMAND"
[ $# -gt 0 ] || fail "no command given, such as python -m dim_ray.tune"
[ -f cluster/slurm_node.sh ] || fail "$PWD isn't the top folder of the checkout; submit this file there"
[ -x .venv/bin/ray ] || fail "$PWD/.venv isn't there; make it where packages can be downloaded: make .venv/.installed"
[ -z "${SLURM_GPUS:-}" ] || fail "--gpus=$SLURM_GPUS doesn't say which machine has how many; use --gpus-per-node"

PATH=$PWD/.venv/bin:$PATH
TMPDIR=/tmp/dim-ray-$SLURM_JOB_ID # of each machine, for Ray's files; its sockets need a path of at most 40 characters
RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))') # keeps other users of the machines out
export PATH TMPDIR RAY_AUTH_MODE RAY_AUTH_TOKEN

start_node() {
  srun --nodes 1 --ntasks 1 --overlap --cpu-bind none --nodelist "$1" bash cluster/slurm_node.sh "${@:2}" &
}
run() { "$@" & wait $! || wait $!; } # the second time after a signal
trap : TERM # Slurm sends it to all processes: the command ends in its own way
trap 'scancel --signal INT "$SLURM_JOB_ID"; wait' EXIT # only the steps: Ray ends

mapfile -t hosts < <(scontrol show hostnames "${SLURM_JOB_NODELIST:?}")
rm -rf "$TMPDIR" # of a run before
start_node "${hosts[0]}"
until RAY_ADDRESS=$(cat "$TMPDIR/ray/ray_current_cluster" 2>/dev/null); do
  kill -0 $! 2>/dev/null || fail "Ray didn't start on ${hosts[0]}; its messages stand above"
  sleep 1
done
export RAY_ADDRESS
for host in "${hosts[@]:1}"; do start_node "$host" "$RAY_ADDRESS"; done
run python -c '
import sys, time, ray
ray.init(log_to_driver=False, logging_level="ERROR")
until = time.monotonic() + 300
while (count := sum(node["Alive"] for node in ray.nodes())) < int(sys.argv[1]):
    time.monotonic() < until or sys.exit(f"error: {count} of {sys.argv[1]} machines joined within 300 s")
    time.sleep(1)
' "${#hosts[@]}"
run "$@"
