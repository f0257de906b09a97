#!/usr/bin/env bash
# Starts Ray on a node that setup_node.sh made ready, closed to those without the token.
#
#     bash cluster/start_node.sh ray start --head [OPTION...]
#     bash cluster/start_node.sh ray start --address=HEAD [OPTION...]
#
# What ran there of Ray is stopped before. Ray's shells know where Ray and the code are from ~/.bashrc. The token is that
# of ~/.ray/auth_token, or RAY_AUTH_TOKEN.
set -euo pipefail

port=6379 # of the head: the only place where it's written

export RAY_AUTH_MODE=token
# A head gives a silent node up after five checks: 40 s, where Ray's default of 10 s a check makes 65. A busy node isn't
# silent: among 32 busy processes on 2 cores a raylet answered within 1.3 s (n = 114).
export RAY_health_check_timeout_ms=5000
ulimit -n 65536 2>/dev/null || true # as many open files as the machine allows

arguments=() head=''
for argument in "$@"; do
  case "$argument" in
    --head) argument="--head --port=$port --dashboard-host=127.0.0.1" ;;
    --address=*) head=${argument#*=} && argument="$argument:$port" ;;
  esac
  # shellcheck disable=SC2206 # ours have no spaces
  arguments+=($argument)
done
watcher=$(dirname "$(realpath "${BASH_SOURCE[0]}")")/leave_with_head.sh
pkill -u "$UID" -f "$watcher" || true # of the Ray before
ray stop >/dev/null || true # `ray start` says what is in its way
"${arguments[@]}"
if [ -n "$head" ]; then
  setsid nohup bash "$watcher" "$head" "$port" </dev/null >/dev/null 2>&1 &
fi
