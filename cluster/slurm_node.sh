#!/usr/bin/env bash
# Runs Ray on one machine of slurm.sh's job until the step is ended: the head, or a node of the head at ADDRESS.
#
#     srun bash cluster/slurm_node.sh [ADDRESS]
set -euo pipefail

head=${1:-}
# No port is fixed, since two jobs may share a machine. Nobody reads what workers print.
options=(--block --num-cpus="${SLURM_CPUS_ON_NODE:?}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --min-worker-port=0
  --max-worker-port=0 --dashboard-agent-listen-port=0 --include-log-monitor=false)
if [ -n "$head" ]; then
  options+=(--address="$head")
else
  options+=(--head --port=0 --dashboard-port=0 --ray-client-server-port=$((20000 + SLURM_JOB_ID % 10000)))
fi

rm -rf "$TMPDIR" # of a run before
mkdir -m 700 "$TMPDIR"
trap 'until rm -rf "$TMPDIR" 2>/dev/null; do sleep 1; done' EXIT # what of Ray ends late may still write there
trap 'is_ended=1; kill "$ray" || true' INT TERM
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 # else Ray waits as long as Slurm does before it kills
# Ray gives up a start after 30 s, which importing it from a shared disk can take the first time.
for _ in 1 2 3; do
  ray start "${options[@]}" >"$TMPDIR/start.log" 2>&1 &
  ray=$! code=0
  wait "$ray" || code=$?
  if [ -n "${is_ended:-}" ]; then wait "$ray" || true && exit 0; fi
  cat "$TMPDIR/start.log" >&2
  [ ! -e "$TMPDIR/ray/ray_current_cluster" ] || break
done

# Ray ended by itself. If the head can't be reached although Slurm can, its machine is lost, and the command with it.
[ -n "$head" ] || exit "$code"
until state=$(squeue --noheader --format %T --jobs "$SLURM_JOB_ID" 2>/dev/null); do sleep 5; done
[ "$state" = RUNNING ] || exit "$code" # this machine was cut off, and the job ended without it
timeout 5 bash -c "exec 3<>/dev/tcp/${head/://}" 2>/dev/null ||
  scontrol requeue "$SLURM_JOB_ID" || scancel "$SLURM_JOB_ID"
exit "$code"
